"""Options of embedding and embedding_bag that PyTorch's tables leave out.

Finite differences cannot check their gradients.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_close, compare_functions, compare_gradients, to_gpuprop

import gpuprop
import gpuprop.functional as F
from gpuprop import nn

# only the last row repeats: for others scale_grad_by_freq of PyTorch's bags counts the wrong rows
INPUT = [[4, 4, 1], [0, 4, 2]]
BAGS = {"offsets": ([4, 4, 1, 0, 4, 2, 4], [0, 3, 3, 6]), "rows": (INPUT, None)}


def table(rows: int = 5, features: int = 3) -> torch.Tensor:
    values = np.random.default_rng(0).standard_normal((rows, features)) * 2
    return torch.tensor(values, requires_grad=True)


def indices(values: Any) -> Any:
    return None if values is None else torch.tensor(values)


@pytest.mark.parametrize("padding_idx", [None, 1, -1])
@pytest.mark.parametrize("by_freq", [False, True])
def test_embedding_options(padding_idx: int | None, by_freq: bool) -> None:
    options = {"padding_idx": padding_idx, "scale_grad_by_freq": by_freq}
    args = indices(INPUT), table()
    compare_functions(torch.nn.functional.embedding, F.embedding, args, options, second=True)


@pytest.mark.parametrize("bags", BAGS)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 1, 4])
def test_embedding_bag_options(bags: str, mode: str, padding_idx: int | None) -> None:
    input, offsets = map(indices, BAGS[bags])
    for by_freq, last in itertools.product([False, True], [False, True]):
        options = {"offsets": offsets, "mode": mode, "padding_idx": padding_idx,
                   "scale_grad_by_freq": by_freq, "include_last_offset": last}
        if offsets is not None and last:
            options["offsets"] = torch.tensor([0, 3, 3, 7])
        if (last and offsets is None) or (by_freq and mode == "max"):
            continue  # PyTorch ignores the first combination and raises for the second
        args = input, table()
        compare_functions(torch.nn.functional.embedding_bag, F.embedding_bag, args, options)


@pytest.mark.parametrize("bags", BAGS)
@pytest.mark.parametrize("padding_idx", [None, 1, 4])
def test_per_sample_weights(bags: str, padding_idx: int | None) -> None:
    input, offsets = map(indices, BAGS[bags])
    values = np.random.default_rng(1).standard_normal(tuple(input.shape))
    weights = torch.tensor(values, requires_grad=True)
    options = {"offsets": offsets, "mode": "sum", "per_sample_weights": weights,
               "padding_idx": padding_idx}
    compare_functions(torch.nn.functional.embedding_bag, F.embedding_bag, (input, table()), options)


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("name", ["embedding", "embedding_bag"])
def test_max_norm_scales_rows_in_place(name: str, norm_type: float) -> None:
    theirs = table().detach()
    mine = gpuprop.tensor(theirs.numpy())
    options = {"max_norm": 1.5, "norm_type": norm_type}
    expected = getattr(torch.nn.functional, name)(indices(INPUT), theirs, **options)
    assert_close("output", getattr(F, name)(to_gpuprop(indices(INPUT)), mine, **options), expected)
    assert_close("weight", mine, theirs)


@pytest.mark.parametrize("sparse", [False, True])
def test_pretrained(sparse: bool) -> None:
    """PyTorch's sparse gradient equals our dense one."""
    options = {"freeze": False, "padding_idx": 1, "sparse": sparse}
    theirs = torch.nn.Embedding.from_pretrained(table().detach(), **options)
    mine = nn.Embedding.from_pretrained(to_gpuprop(table().detach()), **options)
    (theirs(indices(INPUT)) ** 2).sum().backward()
    (mine(to_gpuprop(indices(INPUT))) ** 2).sum().backward()
    assert_close("gradient", mine.weight.grad, theirs.weight.grad.to_dense())


@pytest.mark.parametrize("bags", BAGS)
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag_layer(bags: str, mode: str) -> None:
    """With PyTorch's weight and `padding_idx`."""
    given = [a for a in map(indices, BAGS[bags]) if a is not None]
    theirs = torch.nn.EmbeddingBag(5, 3, mode=mode, padding_idx=1).double()
    mine = nn.EmbeddingBag(5, 3, mode=mode, padding_idx=1).double()
    mine.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    compare_gradients([theirs(*given)], lambda: mine(*map(to_gpuprop, given)),
                      [("weight", theirs.weight, mine.weight)])

"""Averaged models beside PyTorch's: values, statistics of batch norms, and states both ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from compare import without_warnings

import gpuprop
from gpuprop import nn
from gpuprop.optim import swa_utils

WAYS = [("avg_fn", "get_swa_avg_fn", []), ("avg_fn", "get_ema_avg_fn", [0.75]),
        ("multi_avg_fn", "get_swa_multi_avg_fn", []), ("multi_avg_fn", "get_ema_multi_avg_fn", [])]


@pytest.fixture(autouse=True)
def weights_are_float64() -> Iterator[None]:
    """PyTorch computes the weight of an average in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_models(library: Any, state: Any) -> Any:
    model = library.Sequential(library.Linear(3, 4), library.BatchNorm1d(4)).double()
    model.load_state_dict(state)
    return model


def values(model: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in model.state_dict().items()}


def same(ours: Any, theirs: Any) -> None:
    mine, other = values(ours), values(theirs)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        np.testing.assert_allclose(value, other[name], rtol=1e-12, atol=1e-14, err_msg=name)


@pytest.mark.parametrize(
    ("argument", "maker", "decay", "use_buffers"),
    [(*way, use_buffers) for way in [*WAYS, (None, "", [])] for use_buffers in (False, True)
     # PyTorch does not average integers in this way
     if not (use_buffers and way[1] == "get_swa_multi_avg_fn")])
def test_averaged_models(argument: str | None, maker: str, decay: list,
                         use_buffers: bool) -> None:
    torch.manual_seed(0)
    state = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()
    models, averages = [], []
    for library, utils in ((nn, swa_utils), (torch.nn, torch.optim.swa_utils)):
        models.append(make_models(library, state))
        options = {argument: getattr(utils, maker)(*decay)} if argument else {}
        averages.append(utils.AveragedModel(models[-1], use_buffers=use_buffers, **options))
    random = np.random.default_rng(0)
    for _ in range(5):
        new = {name: np.asarray(random.uniform(0, 9, v.shape)).astype(v.dtype)
               for name, v in values(models[0]).items()}
        models[0].load_state_dict(new)
        models[1].load_state_dict({name: torch.tensor(v) for name, v in new.items()})
        for model, averaged in zip(models, averages, strict=True):
            averaged.update_parameters(model)
        same(*averages)
    averages[0].load_state_dict(averages[1].state_dict())
    averages[1].load_state_dict({n: torch.tensor(v) for n, v in values(averages[0]).items()})
    same(*averages)


def test_update_bn() -> None:
    torch.manual_seed(0)
    state = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()
    ours, theirs = make_models(nn, state), make_models(torch.nn, state)
    batches = [np.random.default_rng(i).standard_normal((5, 3)) for i in range(3)]
    swa_utils.update_bn([[gpuprop.tensor(b)] for b in batches], ours)
    without_warnings(torch.optim.swa_utils.update_bn, [[torch.tensor(b)] for b in batches], theirs)
    for name, value in values(ours).items():
        np.testing.assert_allclose(value, values(theirs)[name], rtol=1e-6, err_msg=name)

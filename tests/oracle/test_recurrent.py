"""Recurrent layers, packed and padded sequences, and truncated backpropagation against PyTorch."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from compare import compare_functions, compare_gradients, to_gpuprop, without_warnings

import gpuprop
from gpuprop import nn, optim

THEIRS, OURS = torch.nn.utils.rnn, nn.utils.rnn
LENGTHS = [[3], [4, 4], [5, 3, 3, 1], [1, 4, 2], [2, 5, 5, 1, 2], [1, 1, 1]]
LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True}),
    ("LSTM", {}),
    ("LSTM", {"bidirectional": True, "num_layers": 3}),
    ("LSTM", {"bias": False, "bidirectional": True}),
    ("LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"proj_size": 3, "bias": False}),
    ("LSTM", {"num_layers": 2, "dropout": 1.0}),
    ("GRU", {}),
    ("GRU", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("GRU", {"bias": False}),
]


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def ordered(lengths: list[int]) -> bool:
    return lengths == sorted(lengths, reverse=True)


# ---- packing and padding -------------------------------------------------------------------------


def packed(utils: Any, x: Any, lengths: list[int], batch_first: bool, total: int | None) -> list:
    """Results of packing, padding again and unpacking."""
    sequence = utils.pack_padded_sequence(x, lengths, batch_first, ordered(lengths))
    padded = utils.pad_packed_sequence(sequence, batch_first, 0.5, total)
    parts = [part for part in sequence if part is not None]
    return [*parts, *padded, *utils.unpack_sequence(sequence)]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("batch_first, rest, total", [
    (False, (), None), (True, (2,), 7), (False, (2, 3), 6), (True, (1,), None)])
def test_packing(lengths: list[int], batch_first: bool, rest: tuple[int, ...],
                 total: int | None) -> None:
    steps, n = max(lengths) + bool(rest), len(lengths)
    x = tensor(*((n, steps) if batch_first else (steps, n)), *rest)
    options = {"lengths": lengths, "batch_first": batch_first, "total": total}
    run = lambda utils: partial(packed, utils, **options)
    compare_functions(run(THEIRS), run(OURS), (x,), {}, second=True)


def padded(utils: Any, sequences: list, batch_first: bool, side: str) -> list:
    batch = utils.pad_sequence(sequences, batch_first, -1.5, side)
    lengths = [len(s) for s in sequences]
    given_lengths = torch.tensor(lengths) if utils is THEIRS else lengths
    unpadded = utils.unpad_sequence(batch * 1, given_lengths, batch_first)
    sequence = utils.pack_sequence(sequences, enforce_sorted=ordered(lengths))
    return [batch, *unpadded, *(part for part in sequence if part is not None)]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("batch_first, rest, side", [
    (False, (), "right"), (True, (2,), "left"), (False, (2, 3), "left")])
def test_padding(lengths: list[int], batch_first: bool, rest: tuple[int, ...], side: str) -> None:
    x = [tensor(n, *rest, seed=i) for i, n in enumerate(lengths)]
    run = lambda utils: lambda *sequences: padded(utils, list(sequences), batch_first, side)
    compare_functions(run(THEIRS), run(OURS), x, {}, second=True)


# ---- layers --------------------------------------------------------------------------------------


def pair(name: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    """PyTorch's layer and ours with the same weights."""
    torch.manual_seed(0)
    theirs = without_warnings(getattr(torch.nn, name), *args, **options).double()
    mine = getattr(nn, name)(*args, **options).double()
    mine.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return theirs, mine


def on_packed(utils: Any, layer: Any, lengths: list[int], x: Any, states: list) -> list:
    """Padded outputs and states of the layer, run on packed sequences."""
    hx = None if not states else states[0] if len(states) == 1 else tuple(states)
    sequence = utils.pack_padded_sequence(x, lengths, layer.batch_first, ordered(lengths))
    output, last = layer(sequence, hx)
    last_states = last if isinstance(last, tuple) else (last,)
    return [*utils.pad_packed_sequence(output, layer.batch_first), *last_states]


@pytest.mark.parametrize("given", [False, True], ids=["from zero", "from states"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("name, options", LAYERS, ids=str)
def test_layers(name: str, options: dict[str, Any], lengths: list[int], given: bool) -> None:
    theirs, mine = pair(name, 3, 4, **options)
    n, layers = len(lengths), theirs.num_layers * (1 + theirs.bidirectional)
    widths = [theirs.proj_size or 4, 4] if name == "LSTM" else [4]
    x = tensor(*((n, 5) if theirs.batch_first else (5, n)), 3)
    states = []
    if given:
        states = [tensor(layers, n, width, seed=i) for i, width in enumerate(widths)]
    own, *own_states = map(to_gpuprop, (x, *states))
    inputs = zip([x, *states], [own, *own_states], strict=True)
    leaves = [(f"input {i}", t, o) for i, (t, o) in enumerate(inputs)]
    parameters = zip(theirs.named_parameters(), mine.parameters(), strict=True)
    leaves += [(k, p, q) for (k, p), q in parameters]
    expected = on_packed(THEIRS, theirs, lengths, x, states)
    compare_gradients(expected, lambda: on_packed(OURS, mine, lengths, own, own_states), leaves)


@pytest.mark.parametrize("name, options", LAYERS, ids=str)
def test_second_order_gradients(name: str, options: dict[str, Any]) -> None:
    theirs, mine = pair(name, 3, 4, **options)
    run = lambda layer: lambda x: layer(x)[0]
    compare_functions(run(theirs), run(mine), (tensor(3, 2, 3),), {}, second=True)


@pytest.mark.parametrize("name, options", [
    ("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu", "bias": False}), ("LSTMCell", {}),
    ("GRUCell", {}), ("GRUCell", {"bias": False})], ids=str)
def test_cells_step_by_step(name: str, options: dict[str, Any]) -> None:
    def steps(cell: Any, x: Any) -> list:
        states = [cell(x[0])]
        for t in range(1, len(x)):
            states.append(cell(x[t], states[-1]))
        return states

    theirs, mine = pair(name, 3, 4, **options)
    x = tensor(4, 2, 3)
    compare_functions(partial(steps, theirs), partial(steps, mine), (x,), {}, second=True)


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, options, rule", [
    ("LSTM", {"num_layers": 2}, "Adam"), ("GRU", {}, "SGD"), ("RNN", {"num_layers": 2}, "Adam")])
def test_truncated_backpropagation(name: str, options: dict[str, Any], rule: str) -> None:
    """100 windows of one long sequence; the state is carried on to the next window, detached."""
    theirs, mine = pair(name, 3, 8, **options)
    head, own_head = pair("Linear", 8, 2)
    inputs = np.random.default_rng(0).standard_normal((1000, 4, 3))
    # the targets need memory of two steps
    targets = (inputs + np.roll(inputs, 1, axis=0) + np.roll(inputs, 2, axis=0))[..., :2]

    def train(lib: Any, rules: Any, layer: Any, head: Any) -> list[float]:
        parameters = [*layer.parameters(), *head.parameters()]
        optimizer = getattr(rules, rule)(parameters, lr=0.02)
        state, losses = None, []
        for i in range(0, 1000, 10):
            optimizer.zero_grad()
            output, state = layer(lib.tensor(inputs[i:i + 10]), state)
            state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
            loss = ((head(output) - lib.tensor(targets[i:i + 10])) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    want = train(torch, torch.optim, theirs, head)
    got = train(gpuprop, optim, mine, own_head)
    assert sum(want[-10:]) < 0.9 * sum(want[:10])
    np.testing.assert_allclose(got, want, rtol=1e-8)
    for (key, p), q in zip(theirs.named_parameters(), mine.parameters(), strict=True):
        np.testing.assert_allclose(
            q.numpy(), p.detach().numpy(), rtol=1e-8, atol=1e-8, err_msg=key)

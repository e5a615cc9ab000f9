"""Every sample of PyTorch's module_db whose module exists here, with PyTorch's own weights, in training and in use."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import refusals
import torch
from cases import Call, Record, every, must_refuse
from compare import FIRST, Difference, Inputs, close, ours, quietly, same_gradients
from torch.testing import make_tensor
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.utils._pytree import tree_leaves, tree_map

import gpuprop
import gpuprop.functional as F
from gpuprop import nn

INFO = {info.module_cls.__name__: info for info in module_db}
OPTIONS: dict[str, Any] = {"device": "cpu", "dtype": torch.float64, "requires_grad": True}
MORE: dict[str, list[tuple[tuple, ...]]] = {  # of layers that module_db lacks: arguments, and the shape of each input
    "AlphaDropout": [((0.3,), (4, 5))],
    "ChannelShuffle": [((3,), (2, 6, 4)), ((2,), (1, 4, 3, 2))],
    "CosineSimilarity": [((), (4, 5), (4, 5)), ((-1, 1e-3), (2, 3, 4), (4,))],
    "Dropout": [((0.3,), (4, 5)), ((0.0,), (3,)), ((1.0,), (2, 3))],
    **{f"Dropout{n}d": [((0.3,), (2, 3, 4, 2, 2)[:n + 2])] for n in (1, 2, 3)},
    "FeatureAlphaDropout": [((0.3,), (4, 5, 3))],
    "Flatten": [((), (2, 3, 4)), ((0, 1), (2, 3, 4)), ((1, -2), (2, 3, 4, 1)), ((0,), ())],
    "Fold": [(((4, 5), (2, 3)), (2, 12, 9)), ((5, 3, 1, 2, (2, 1)), (18, 28))],
    "Hardsigmoid": [((), (4, 5)), ((), ())],
    "Identity": [((), (4, 5)), ((7, "any"), ())],
    "MultiheadAttention": [  # the last input is key_padding_mask
        ((4, 2, 0.0, True, False, False, 3, 5), (3, 2, 4), (6, 2, 3), (6, 2, 5)),
        ((4, 2, 0.0, True, True, True, 5, None, True), (2, 3, 4), (2, 6, 5), (2, 6, 4), (2, 6)),
        ((4, 4), (3, 2, 4), (6, 2, 4), (6, 2, 4), (2, 6)), ((4, 1, 0.3), *[(3, 2, 4)] * 3)],
    "PairwiseDistance": [((), (4, 5), (4, 5)), ((1.0, 1e-3, True), (4, 5), (5,))],
    "PixelShuffle": [((2,), (2, 8, 3, 4)), ((3,), (9, 2, 1))],
    "PixelUnshuffle": [((2,), (2, 3, 4, 6)), ((3,), (1, 6, 3))],
    "RReLU": [((), (4, 5)), ((0.1, 0.5), (3,))],
    "Transformer": [((4, 2, 1, 2, 8, 0.1, "gelu"), (5, 2, 4), (3, 2, 4))],
    "TransformerDecoder": [((torch.nn.TransformerDecoderLayer(4, 2, 8, 0.0), 2), (3, 2, 4), (5, 2, 4))],
    "TransformerDecoderLayer": [((4, 2, 8, 0.2, "gelu", 1e-3, True, True), (2, 3, 4), (2, 5, 4))],
    "TransformerEncoderLayer": [((4, 2, 8, 0.2, "gelu", 1e-3, True, True), (2, 3, 4)),
                                ((4, 2, 8, 0.0, torch.nn.functional.silu), (3, 2, 4))],
    "TripletMarginLoss": [((), *[(4, 5)] * 3), ((0.5, 3.0, 1e-6, True), *[(4, 5)] * 3)],
    "TripletMarginWithDistanceLoss": [((), *[(4, 5)] * 3)],
    "Unflatten": [((1, (2, 3)), (4, 6)), ((-1, (2, -1)), (4, 6)), ((0, (4, 1)), (4, 6))],
    "Upsample": [((None, 2.0), (2, 3, 4)), (((3, 7), None, "bilinear", True), (1, 2, 4, 5)),
                 ((7, None, "linear"), (1, 2, 5)), (((3, 2, 5), None, "trilinear"), (1, 2, 2, 3, 4)),
                 ((None, 1.7, "bicubic"), (1, 2, 4, 5))],
    "UpsamplingBilinear2d": [((None, 2), (1, 2, 3, 4)), ((5,), (1, 2, 3, 4))],
    "UpsamplingNearest2d": [((None, 2), (1, 2, 3, 4)), (((5, 3),), (1, 2, 3, 4))],
    "Unfold": [(((2, 3),), (2, 3, 4, 5)), ((3, 1, 2, (2, 1)), (2, 5, 5))],
}
NAMES = [name for name in {**INFO, **MORE} if hasattr(nn, name)]


class Sample(NamedTuple):
    made: Call  # the constructor's arguments
    given: Call  # forward's
    training: bool


def samples(name: str) -> Iterator[Sample]:
    for training in (True, False):
        for args, *shapes in MORE.get(name, ()):
            yield Sample(Call(args, {}), Call(tuple(make_tensor(shape, **OPTIONS) for shape in shapes), {}), training)
        for sample in INFO[name].module_inputs_func(INFO[name], training=training, **OPTIONS) if name in INFO else ():
            yield Sample(call(sample.constructor_input), call(sample.forward_input), training)


def call(inputs: Any) -> Call:
    return Call(tuple(inputs.args), dict(inputs.kwargs)) if inputs else Call((), {})


def own(value: Any) -> Any:
    """An argument of a constructor: a tensor among them becomes part of the layer's state, which it may write to."""
    if isinstance(value, torch.nn.TransformerEncoderLayer | torch.nn.TransformerDecoderLayer):
        a, b = value.self_attn, value.linear1
        return getattr(nn, type(value).__name__)(
            a.embed_dim, a.num_heads, b.out_features, a.dropout, own(value.activation), value.norm1.eps, a.batch_first,
            value.norm_first, b.bias is not None)
    if callable(value) and value is getattr(torch.nn.functional, getattr(value, "__name__", ""), None):
        return getattr(F, value.__name__)
    return gpuprop.tensor(value.numpy()) if isinstance(value, torch.Tensor) else ours(value)


def make(name: str, sample: Sample) -> tuple[torch.nn.Module, nn.Module]:
    """A module of PyTorch's and ours, built with the same words and with the same state."""
    theirs = quietly(getattr(torch.nn, name), *sample.made.args, **sample.made.kwargs).double().train(sample.training)
    args, kwargs = tree_map(own, tuple(sample.made))
    mine = getattr(nn, name)(*args, **kwargs).double().train(sample.training)
    mine.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return theirs, mine


def compare(name: str, sample: Sample, tolerance: float = FIRST) -> None:
    theirs, mine = make(name, sample)
    inputs = Inputs(*sample.given)
    parameters = dict(mine.named_parameters())
    leaves = [(f"input {i}", t, o) for i, (t, o) in enumerate(zip(inputs.theirs, inputs.ours, strict=True))]
    leaves += [(k, p, parameters[k]) for k, p in theirs.named_parameters()]
    if [*parameters] != [k for k, _ in theirs.named_parameters()]:  # an optimizer's state goes by their order
        raise Difference(f"parameters in the order {', '.join(parameters)}")
    args, kwargs = inputs.filled(inputs.ours)
    expected = tree_leaves(quietly(theirs, *sample.given.args, **sample.given.kwargs))
    same_gradients(expected, lambda: mine(*args, **kwargs), leaves, tolerance)
    after = mine.state_dict()
    for key, value in theirs.state_dict().items():
        close(f"{key} afterwards", after[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_module(name: str, record_property: Record) -> None:
    record_property("modules", (name, every(name, samples(name), partial(compare, name), refusals.MODULES)))


@pytest.mark.parametrize("name", [n for n in NAMES if n in INFO and INFO[n].module_error_inputs_func])
def test_errors(name: str) -> None:
    """What PyTorch's module refuses, ours refuses too."""
    def refuses(case: tuple[Sample, Any]) -> None:
        sample, stage = case
        (args, kwargs), (given, options) = tree_map(ours, (tuple(sample.made), tuple(sample.given)))
        if stage is ModuleErrorEnum.CONSTRUCTION_ERROR:
            return must_refuse(lambda: getattr(nn, name)(*args, **kwargs))
        mine = getattr(nn, name)(*args, **kwargs)
        mine = mine.double() if [*mine.parameters()] else mine
        must_refuse(lambda: mine(*given, **options))

    errors = INFO[name].module_error_inputs_func(INFO[name], training=True, **OPTIONS)
    inputs = [(e.module_error_input, e.error_on) for e in errors]
    cases = [(Sample(call(bad.constructor_input), call(bad.forward_input), True), stage) for bad, stage in inputs]
    every(name, cases, refuses, refusals.MODULE_ERRORS)


def test_every_module_is_compared() -> None:
    """Each layer that PyTorch has too is compared, or it says why it is not."""
    own = {n for n in vars(nn) if isinstance(getattr(torch.nn, n, None), type)} - {"Module", "Parameter"}
    assert own - {*NAMES} - {*refusals.NOT_IN_MODULE_DB} == set(), "neither compared nor in refusals.NOT_IN_MODULE_DB"
    assert {*refusals.NOT_IN_MODULE_DB} - (own - {*NAMES}) == set(), "in refusals.NOT_IN_MODULE_DB without need"


def test_refusals_name_what_both_have() -> None:
    """That the refused samples would fail is seen where they run."""
    assert {r.name for r in [*refusals.MODULES, *refusals.MODULE_ERRORS]} - {*NAMES} == set()


def test_absent(record_property: Record) -> None:
    record_property("absent modules", [name for name in INFO if name not in NAMES])

"""Compare layers with PyTorch on all samples of PyTorch's module_db, in train and eval mode.

The layers have PyTorch's own weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import refusals
import torch
from cases import Call, Record, compare_samples, must_raise
from compare import (
    FIRST_ORDER,
    Difference,
    Inputs,
    assert_close,
    compare_gradients,
    to_gpuprop,
    without_warnings,
)
from torch.testing import make_tensor
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.utils._pytree import tree_leaves, tree_map

import gpuprop
import gpuprop.functional as F
from gpuprop import nn

INFO = {info.module_cls.__name__: info for info in module_db}
OPTIONS: dict[str, Any] = {"device": "cpu", "dtype": torch.float64, "requires_grad": True}
# Samples of layers that module_db lacks: the constructor's arguments, and the shape of each input.
MORE: dict[str, list[tuple[tuple, ...]]] = {
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
        ((4, 4), (3, 2, 4), (6, 2, 4), (6, 2, 4), (2, 6)),
        ((4, 1, 0.3), *[(3, 2, 4)] * 3)],
    "PairwiseDistance": [((), (4, 5), (4, 5)), ((1.0, 1e-3, True), (4, 5), (5,))],
    "PixelShuffle": [((2,), (2, 8, 3, 4)), ((3,), (9, 2, 1))],
    "PixelUnshuffle": [((2,), (2, 3, 4, 6)), ((3,), (1, 6, 3))],
    "RReLU": [((), (4, 5)), ((0.1, 0.5), (3,))],
    "Transformer": [((4, 2, 1, 2, 8, 0.1, "gelu"), (5, 2, 4), (3, 2, 4))],
    "TransformerDecoder": [
        ((torch.nn.TransformerDecoderLayer(4, 2, 8, 0.0), 2), (3, 2, 4), (5, 2, 4))],
    "TransformerDecoderLayer": [((4, 2, 8, 0.2, "gelu", 1e-3, True, True), (2, 3, 4), (2, 5, 4))],
    "TransformerEncoderLayer": [((4, 2, 8, 0.2, "gelu", 1e-3, True, True), (2, 3, 4)),
                                ((4, 2, 8, 0.0, torch.nn.functional.silu), (3, 2, 4))],
    "TripletMarginLoss": [((), *[(4, 5)] * 3), ((0.5, 3.0, 1e-6, True), *[(4, 5)] * 3)],
    "TripletMarginWithDistanceLoss": [((), *[(4, 5)] * 3)],
    "Unflatten": [((1, (2, 3)), (4, 6)), ((-1, (2, -1)), (4, 6)), ((0, (4, 1)), (4, 6))],
    "Upsample": [
        ((None, 2.0), (2, 3, 4)), (((3, 7), None, "bilinear", True), (1, 2, 4, 5)),
        ((7, None, "linear"), (1, 2, 5)), (((3, 2, 5), None, "trilinear"), (1, 2, 2, 3, 4)),
        ((None, 1.7, "bicubic"), (1, 2, 4, 5))],
    "UpsamplingBilinear2d": [((None, 2), (1, 2, 3, 4)), ((5,), (1, 2, 3, 4))],
    "UpsamplingNearest2d": [((None, 2), (1, 2, 3, 4)), (((5, 3),), (1, 2, 3, 4))],
    "Unfold": [(((2, 3),), (2, 3, 4, 5)), ((3, 1, 2, (2, 1)), (2, 5, 5))],
}
NAMES = [name for name in {**INFO, **MORE} if hasattr(nn, name)]
WITH_ERRORS = [name for name in NAMES if name in INFO and INFO[name].module_error_inputs_func]


class Sample(NamedTuple):
    """The arguments of the constructor and of forward, and the mode."""

    constructor: Call
    forward: Call
    training: bool


def samples(name: str) -> Iterator[Sample]:
    for training in (True, False):
        for args, *shapes in MORE.get(name, ()):
            inputs = tuple(make_tensor(shape, **OPTIONS) for shape in shapes)
            yield Sample(Call(args, {}), Call(inputs, {}), training)
        if name in INFO:
            info = INFO[name]
            for sample in info.module_inputs_func(info, training=training, **OPTIONS):
                yield Sample(to_call(sample.constructor_input), to_call(sample.forward_input),
                             training)


def to_call(inputs: Any) -> Call:
    return Call(tuple(inputs.args), dict(inputs.kwargs)) if inputs else Call((), {})


def convert_argument(value: Any) -> Any:
    """Convert an argument of PyTorch's constructor.

    Tensors are copied: they may become buffers of the layer, which it updates.
    """
    if isinstance(value, torch.nn.TransformerEncoderLayer | torch.nn.TransformerDecoderLayer):
        attention = value.self_attn
        layer_class = getattr(nn, type(value).__name__)
        return layer_class(
            attention.embed_dim, attention.num_heads, value.linear1.out_features,
            attention.dropout, convert_argument(value.activation), value.norm1.eps,
            attention.batch_first, value.norm_first, value.linear1.bias is not None)
    name = getattr(value, "__name__", "")
    if callable(value) and value is getattr(torch.nn.functional, name, None):
        return getattr(F, name)
    if isinstance(value, torch.Tensor):
        return gpuprop.tensor(value.numpy())
    return to_gpuprop(value)


def make_layers(name: str, sample: Sample) -> tuple[torch.nn.Module, nn.Module]:
    """PyTorch's layer and gpuprop's, with the same arguments and the same state."""
    args, kwargs = sample.constructor
    theirs = without_warnings(getattr(torch.nn, name), *args, **kwargs)
    theirs = theirs.double().train(sample.training)
    args, kwargs = tree_map(convert_argument, tuple(sample.constructor))
    ours = getattr(nn, name)(*args, **kwargs).double().train(sample.training)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    return theirs, ours


def compare(name: str, sample: Sample, tolerance: float = FIRST_ORDER) -> None:
    theirs, ours = make_layers(name, sample)
    inputs = Inputs(*sample.forward)
    parameters = dict(ours.named_parameters())
    their_parameters = dict(theirs.named_parameters())
    if [*parameters] != [*their_parameters]:  # the state of an optimizer depends on the order
        raise Difference(f"parameters in the order {', '.join(parameters)}")
    leaves = [(f"input {i}", t, o)
              for i, (t, o) in enumerate(zip(inputs.theirs, inputs.ours, strict=True))]
    leaves += [(key, p, parameters[key]) for key, p in their_parameters.items()]
    args, kwargs = inputs.with_leaves(inputs.ours)
    expected = without_warnings(theirs, *sample.forward.args, **sample.forward.kwargs)
    compare_gradients(tree_leaves(expected), lambda: ours(*args, **kwargs), leaves, tolerance)
    state = ours.state_dict()
    for key, value in theirs.state_dict().items():
        assert_close(f"{key} after the call", state[key], value)


@pytest.mark.parametrize("name", NAMES)
def test_module(name: str, record_property: Record) -> None:
    count = compare_samples(name, samples(name), partial(compare, name), refusals.MODULES)
    record_property("modules", (name, count))


@pytest.mark.parametrize("name", WITH_ERRORS)
def test_errors(name: str) -> None:
    """gpuprop's layer raises for arguments for which PyTorch's raises."""

    def check_raises(case: tuple[Sample, Any]) -> None:
        sample, stage = case
        args, kwargs = tree_map(to_gpuprop, tuple(sample.constructor))
        make = lambda: getattr(nn, name)(*args, **kwargs)
        if stage is ModuleErrorEnum.CONSTRUCTION_ERROR:
            return must_raise(make)
        layer = make()
        if [*layer.parameters()]:
            layer = layer.double()
        inputs, options = tree_map(to_gpuprop, tuple(sample.forward))
        must_raise(lambda: layer(*inputs, **options))

    errors = INFO[name].module_error_inputs_func(INFO[name], training=True, **OPTIONS)
    cases = []
    for error in errors:
        input = error.module_error_input
        sample = Sample(to_call(input.constructor_input), to_call(input.forward_input), True)
        cases.append((sample, error.error_on))
    compare_samples(name, cases, check_raises, refusals.MODULE_ERRORS)


def test_every_module_is_compared() -> None:
    """Every layer that PyTorch has too has samples, or an entry with a reason."""
    common = {name for name in vars(nn) if isinstance(getattr(torch.nn, name, None), type)}
    not_compared = common - {"Module", "Parameter"} - {*NAMES}
    reasons = {*refusals.NOT_IN_MODULE_DB}
    assert not_compared - reasons == set(), "neither compared nor in refusals.NOT_IN_MODULE_DB"
    assert reasons - not_compared == set(), "in refusals.NOT_IN_MODULE_DB without need"


def test_exclusions_name_modules_of_both_libraries() -> None:
    """The tests above check that each excluded sample does fail."""
    assert {e.name for e in [*refusals.MODULES, *refusals.MODULE_ERRORS]} - {*NAMES} == set()


def test_absent(record_property: Record) -> None:
    record_property("absent modules", [name for name in INFO if name not in NAMES])

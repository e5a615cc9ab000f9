"""Every sample of PyTorch's module_db whose module exists here, with PyTorch's own weights, in training and in use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import refusals
import torch
from cases import Call, Record, every, must_refuse
from compare import Difference, Inputs, close, ours, quietly, same_gradients, tree_leaves, tree_map
from torch.testing._internal.common_modules import ModuleErrorEnum, ModuleInfo, module_db

import gpuprop
from gpuprop import nn

HERE = [info for info in module_db if hasattr(nn, info.module_cls.__name__)]
NAMES = [info.module_cls.__name__ for info in HERE]
OPTIONS: dict[str, Any] = {"device": "cpu", "dtype": torch.float64, "requires_grad": True}


class Sample(NamedTuple):
    made: Call  # the constructor's arguments
    given: Call  # forward's
    training: bool


def samples(info: ModuleInfo, training: bool) -> Iterator[Sample]:
    for sample in info.module_inputs_func(info, training=training, **OPTIONS):
        made, given = (Call(tuple(i.args), dict(i.kwargs)) for i in (sample.constructor_input, sample.forward_input))
        yield Sample(made, given, training)


def own(value: Any) -> Any:
    """An argument of a constructor: a tensor among them becomes part of the layer's state, which it may write to."""
    return gpuprop.tensor(value.numpy()) if isinstance(value, torch.Tensor) else ours(value)


def make(name: str, sample: Sample) -> tuple[torch.nn.Module, nn.Module]:
    """A module of PyTorch's and ours, built with the same words and with the same state."""
    theirs = quietly(getattr(torch.nn, name), *sample.made.args, **sample.made.kwargs).double().train(sample.training)
    args, kwargs = tree_map(own, tuple(sample.made))
    mine = getattr(nn, name)(*args, **kwargs).double().train(sample.training)
    mine.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    return theirs, mine


def compare(name: str, sample: Sample) -> None:
    theirs, mine = make(name, sample)
    inputs = Inputs(*sample.given)
    parameters = dict(mine.named_parameters())
    leaves = [(f"input {i}", t, o) for i, (t, o) in enumerate(zip(inputs.theirs, inputs.ours, strict=True))]
    leaves += [(k, p, parameters.pop(k)) for k, p in theirs.named_parameters()]
    if parameters:
        raise Difference(f"parameters PyTorch has not: {', '.join(parameters)}")
    args, kwargs = inputs.filled(inputs.ours)
    same_gradients(tree_leaves(quietly(theirs, *sample.given.args, **sample.given.kwargs)), lambda: mine(*args, **kwargs), leaves)
    after = mine.state_dict()
    for key, value in theirs.state_dict().items():
        close(f"{key} afterwards", after[key], value)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("info", HERE, ids=NAMES)
def test_module(info: ModuleInfo, training: bool, record_property: Record) -> None:
    name = info.module_cls.__name__
    count = every(name, samples(info, training), lambda s: compare(name, s), refusals.MODULES)
    record_property("modules", (name, count))


WITH_ERRORS = [info for info in HERE if info.module_error_inputs_func]


@pytest.mark.parametrize("info", WITH_ERRORS, ids=lambda info: info.module_cls.__name__)
def test_errors(info: ModuleInfo) -> None:
    """What PyTorch's module refuses, ours refuses too."""
    name = info.module_cls.__name__

    def refuses(case: tuple[Sample, Any]) -> None:
        sample, stage = case
        (args, kwargs), (given, options) = tree_map(ours, (tuple(sample.made), tuple(sample.given)))
        if stage is ModuleErrorEnum.CONSTRUCTION_ERROR:
            return must_refuse(lambda: getattr(nn, name)(*args, **kwargs))
        mine = getattr(nn, name)(*args, **kwargs)
        mine = mine.double() if [*mine.parameters()] else mine
        must_refuse(lambda: mine(*given, **options))

    cases = []
    for error in info.module_error_inputs_func(info, training=True, **OPTIONS):
        bad = error.module_error_input
        made, given = (Call(tuple(i.args), dict(i.kwargs)) if i else Call((), {}) for i in (bad.constructor_input, bad.forward_input))
        cases.append((Sample(made, given, True), error.error_on))
    every(name, cases, refuses, refusals.MODULE_ERRORS)


def test_refusals_name_what_both_have() -> None:
    """That the refused samples would fail is seen where they run."""
    assert {r.name for r in [*refusals.MODULES, *refusals.MODULE_ERRORS]} - {*NAMES} == set()


def test_absent(record_property: Record) -> None:
    absent = [info.module_cls.__name__ for info in module_db if info not in HERE]
    record_property("absent modules", absent)
    assert len(HERE) + len(absent) == len(module_db)

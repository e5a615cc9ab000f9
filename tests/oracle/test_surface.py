"""Parameters and defaults: PyTorch's in functional, nn and optim, NumPy's in array functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_overloads

import numpy as np
import pytest
import torch
from names import ARRAY_FUNCTIONS, is_functional
from refusals import DIFFERENT_FROM_NUMPY, LEFT_OUT, OURS_ONLY
from torch._jit_internal import boolean_dispatched
from torch.fx.operator_schemas import get_signature_for_torch_op
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.optim import lr_scheduler

Parameters = dict[str, Any]  # name -> default, in order
used_reasons: set[str] = set()


def common_classes(ours: Any, theirs: Any, *bases: type) -> list[tuple[str, Any, Any]]:
    """(name, PyTorch's class, gpuprop's class) for each name that both modules have."""
    classes = []
    for name, value in sorted(vars(ours).items()):
        other = getattr(theirs, name, None)
        if isinstance(value, type) and isinstance(other, type) and issubclass(other, bases):
            classes.append((name, other, value))
    return classes


LAYERS = common_classes(nn, torch.nn, torch.nn.Module)
OPTIMIZERS = common_classes(optim, torch.optim, torch.optim.Optimizer)
SCHEDULERS = common_classes(lr_scheduler, torch.optim.lr_scheduler, LRScheduler,
                            ReduceLROnPlateau)
FUNCTIONS = [name for name in sorted(vars(F))
             if is_functional(name) and hasattr(torch.nn.functional, name)]
CALLABLES = {  # name -> PyTorch's, gpuprop's
    **{f"functional.{n}": (getattr(torch.nn.functional, n), getattr(F, n)) for n in FUNCTIONS},
    **{f"nn.{n}": (theirs.__init__, ours) for n, theirs, ours in LAYERS},
    **{f"nn.{n}.forward": (theirs.forward, ours.forward) for n, theirs, ours in LAYERS},
    **{f"optim.{n}": (theirs.__init__, ours) for n, theirs, ours in OPTIMIZERS + SCHEDULERS},
}


def parameters_of(f: Callable) -> Parameters:
    """The parameters of a function, without `self`, *args and **kwargs."""
    f = boolean_dispatched[f]["if_true"] if f in boolean_dispatched else f
    f = next(iter(get_overloads(f)), f)  # the first overload of ``f(*args, **kwargs)``
    try:
        parameters = inspect.signature(inspect.unwrap(f)).parameters
    except ValueError:  # a C++ function
        parameters = (get_signature_for_torch_op(f) or [inspect.Signature()])[0].parameters
    return {p.name: comparable(p.default) for p in parameters.values()
            if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def comparable(default: Any) -> Any:
    """A default in a form that is equal for both libraries.

    C++ functions have [1, 1] for 1 and [] for None.  Functions are compared by name.
    """
    if callable(default):
        return default.__name__
    if isinstance(default, list):
        return default[0] if default else None
    return default


def without(name: str, parameters: Parameters, reasons: dict[str, str]) -> Parameters:
    """The parameters that have no reason to differ."""
    remaining = {}
    for parameter, default in parameters.items():
        found = [key for key in (parameter, f"{name}.{parameter}") if key in reasons]
        if found:
            used_reasons.add(found[0])
        else:
            remaining[parameter] = default
    return remaining


@pytest.mark.parametrize("name", CALLABLES)
def test_parameters_are_pytorchs(name: str) -> None:
    """The names, order and defaults agree, except where a reason is given."""
    theirs, ours = map(parameters_of, CALLABLES[name])
    theirs = without(name, theirs, LEFT_OUT)
    ours = without(name, ours, OURS_ONLY)
    if name.endswith("forward") and not (ours and theirs):
        return  # forward(*inputs) accepts everything
    assert [*ours] == [*theirs]
    assert ours == theirs


def array_parameters(name: str) -> tuple[Parameters, Parameters]:
    """NumPy's parameters, and gpuprop's that are not arrays."""
    function = ARRAY_FUNCTIONS[name]
    ours = parameters_of(function)
    spec = getattr(function, "spec", None)
    arrays = [p.name for p in spec.arrays] if spec else [*ours][:1]
    options = {p: default for p, default in ours.items() if p not in arrays}
    return parameters_of(getattr(np, name)), options


IN_NUMPY = [name for name in ARRAY_FUNCTIONS
            if inspect.isfunction(inspect.unwrap(getattr(np, name, len)))]


@pytest.mark.parametrize("name", IN_NUMPY)
def test_options_are_numpys(name: str) -> None:
    """Options are a subset of NumPy's, in the same order and with the same defaults."""
    theirs, ours = array_parameters(name)
    ours = without(name, ours, DIFFERENT_FROM_NUMPY)
    assert [*ours] == [p for p in theirs if p in ours]
    different = {p: default for p, default in ours.items()
                 if theirs[p] is not np._NoValue and default != theirs[p]}
    assert different == {}


def test_reasons_are_needed() -> None:
    """Every reason in refusals.py is about a parameter that exists."""
    used_reasons.clear()
    for name, (theirs, ours) in CALLABLES.items():
        without(name, parameters_of(theirs), LEFT_OUT)
        without(name, parameters_of(ours), OURS_ONLY)
    for name in IN_NUMPY:
        without(name, array_parameters(name)[1], DIFFERENT_FROM_NUMPY)
    assert {*LEFT_OUT, *OURS_ONLY, *DIFFERENT_FROM_NUMPY} - used_reasons == set()

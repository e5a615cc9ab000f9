"""Names, order and defaults of parameters: PyTorch's in functional, nn and optim, NumPy's in array functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_overloads

import numpy as np
import pytest
import torch
from names import ARRAY_FUNCTIONS, public
from refusals import DIFFERENT_FROM_NUMPY, LEFT_OUT, OURS_ONLY
from torch._jit_internal import boolean_dispatched
from torch.fx.operator_schemas import get_signature_for_torch_op
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

import gpuprop.functional as F
from gpuprop import nn, optim
from gpuprop.optim import lr_scheduler

Words = dict[str, Any]  # parameter -> default
used: set[str] = set()


def shared(mine: Any, theirs: Any, *bases: type) -> list[tuple[str, Any, Any]]:
    """The classes of both libraries that have one name."""
    pairs = ((n, getattr(theirs, n, None), v) for n, v in sorted(vars(mine).items()) if isinstance(v, type))
    return [pair for pair in pairs if isinstance(pair[1], type) and issubclass(pair[1], bases)]


LAYERS = shared(nn, torch.nn, torch.nn.Module)
OPTIMIZERS = shared(optim, torch.optim, torch.optim.Optimizer)
SCHEDULERS = shared(lr_scheduler, torch.optim.lr_scheduler, LRScheduler, ReduceLROnPlateau)
FUNCTIONS = [n for n in sorted(vars(F)) if public(n) and hasattr(torch.nn.functional, n)]
SURFACE = {
    **{f"functional.{n}": (getattr(torch.nn.functional, n), getattr(F, n)) for n in FUNCTIONS},
    **{f"nn.{n}": (t.__init__, o) for n, t, o in LAYERS},
    **{f"nn.{n}.forward": (t.forward, o.forward) for n, t, o in LAYERS},
    **{f"optim.{n}": (t.__init__, o) for n, t, o in OPTIMIZERS + SCHEDULERS},
}


def words(f: Callable) -> Words:
    """A function's parameters and their defaults; of those that take any number nothing is to be said."""
    f = boolean_dispatched[f]["if_true"] if f in boolean_dispatched else f
    f = next(iter(get_overloads(f)), f)  # what ``(*args, **kwargs)`` stands for
    try:
        parameters = inspect.signature(inspect.unwrap(f)).parameters
    except ValueError:  # written in C++
        parameters = (get_signature_for_torch_op(f) or [inspect.Signature()])[0].parameters
    return {p.name: one(p.default) for p in parameters.values()
            if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def one(default: Any) -> Any:
    """C++ says [1, 1] where Python says 1, and [] for None; a function is ours of the same name."""
    if callable(default):
        return default.__name__
    return default if not isinstance(default, list) else default[0] if default else None


def without(name: str, parameters: Words, reasons: dict[str, str]) -> Words:
    reason = {p: next((r for r in (p, f"{name}.{p}") if r in reasons), None) for p in parameters}
    used.update(r for r in reason.values() if r)
    return {p: default for p, default in parameters.items() if not reason[p]}


@pytest.mark.parametrize("name", SURFACE)
def test_words(name: str) -> None:
    """Ours are PyTorch's, but for what is left out or added for a reason."""
    theirs, mine = (words(f) for f in SURFACE[name])
    theirs, mine = without(name, theirs, LEFT_OUT), without(name, mine, OURS_ONLY)
    if not name.endswith("forward") or (mine and theirs):  # forward(*inputs) takes any words
        assert [*mine] == [*theirs]
        assert mine == theirs


def array_words(name: str) -> tuple[Words, Words]:
    mine, spec = words(ARRAY_FUNCTIONS[name]), getattr(ARRAY_FUNCTIONS[name], "spec", None)
    arrays = [p.name for p in spec.arrays] if spec else [*mine][:1]
    return words(getattr(np, name)), {p: default for p, default in mine.items() if p not in arrays}


NUMPYS = [n for n in ARRAY_FUNCTIONS if inspect.isfunction(inspect.unwrap(getattr(np, n, len)))]


@pytest.mark.parametrize("name", NUMPYS)
def test_array_function(name: str) -> None:
    """Options are some of NumPy's, in NumPy's order and with NumPy's defaults."""
    theirs, mine = array_words(name)
    mine = without(name, mine, DIFFERENT_FROM_NUMPY)
    assert [*mine] == [p for p in theirs if p in mine]
    assert {p: d for p, d in mine.items() if theirs[p] is not np._NoValue and d != theirs[p]} == {}


def test_reasons_are_needed() -> None:
    """What is left out is a word of PyTorch's, what is added is one of ours."""
    used.clear()
    for name, (theirs, mine) in SURFACE.items():
        without(name, words(theirs), LEFT_OUT)
        without(name, words(mine), OURS_ONLY)
    for name in NUMPYS:
        without(name, array_words(name)[1], DIFFERENT_FROM_NUMPY)
    assert {*LEFT_OUT, *OURS_ONLY, *DIFFERENT_FROM_NUMPY} - used == set()

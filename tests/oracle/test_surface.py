"""Names, order and defaults of parameters: PyTorch's in functional, nn and optim, NumPy's in array functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import names
import numpy as np
import pytest
import refusals
import torch
from torch._jit_internal import boolean_dispatched
from torch.fx.operator_schemas import get_signature_for_torch_op

import gpuprop.functional as F
from gpuprop import nn, optim

FUNCTIONS = sorted(n for n in vars(F) if names.public(n) and hasattr(torch.nn.functional, n))
MODULES = sorted(n for n, v in vars(nn).items() if isinstance(v, type) and hasattr(torch.nn, n))
OPTIMIZERS = sorted(n for n, v in vars(optim).items() if isinstance(v, type) and hasattr(torch.optim, n))
SCHEDULERS = sorted(n for n, v in vars(getattr(optim, "lr_scheduler", optim)).items()
                    if isinstance(v, type) and hasattr(torch.optim.lr_scheduler, n))
used: set[str] = set()

Words = list[tuple[str, Any]]


def words(f: Callable) -> Words:
    """A function's parameters and their defaults."""
    f = boolean_dispatched[f]["if_true"] if f in boolean_dispatched else f
    try:
        signature = inspect.signature(inspect.unwrap(f))
    except ValueError:
        (signature, *_) = get_signature_for_torch_op(f) or [inspect.Signature()]
    return [(p.name, p.default) for p in signature.parameters.values() if p.name != "self"]


def left_out(name: str, theirs: Words, reasons: dict[str, str]) -> Words:
    return [(n, d) for n, d in theirs if n not in reasons and f"{name}.{n}" not in reasons]


def check(name: str, theirs: Words, mine: Words) -> None:
    expected, own = left_out(name, theirs, refusals.LEFT_OUT), left_out(name, mine, refusals.OURS_ONLY)
    assert [n for n, _ in own] == [n for n, _ in expected]
    assert {n: d for n, d in own if not same(d, dict(expected)[n])} == {}


def same(a: Any, b: Any) -> bool:
    return a is b or bool(a == b)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    check(name, words(getattr(torch.nn.functional, name)), words(getattr(F, name)))


@pytest.mark.parametrize("name", MODULES)
def test_module(name: str) -> None:
    check(name, words(getattr(torch.nn, name).__init__), words(getattr(nn, name)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name: str) -> None:
    check(name, words(getattr(torch.optim, name).__init__), words(getattr(optim, name)))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler(name: str) -> None:
    check(name, words(getattr(torch.optim.lr_scheduler, name).__init__), words(getattr(optim.lr_scheduler, name)))


@pytest.mark.parametrize("name", sorted(n for n in names.ARRAY_FUNCTIONS if inspect.isfunction(inspect.unwrap(getattr(np, n, None)))))
def test_array_function(name: str) -> None:
    """Options of an array function are some of NumPy's, in NumPy's order, with NumPy's defaults."""
    arrays = {p.name for p in getattr(names.ARRAY_FUNCTIONS[name], "spec", None).arrays} if hasattr(names.ARRAY_FUNCTIONS[name], "spec") else set()
    theirs = words(getattr(np, name))
    mine = [(n, d) for n, d in words(names.ARRAY_FUNCTIONS[name]) if n not in arrays]
    mine = left_out(name, mine, refusals.BESIDE_NUMPY)
    known = dict(theirs)
    assert [n for n, _ in mine] == [n for n, _ in theirs if n in dict(mine)]
    assert {n: d for n, d in mine if known[n] is not np._NoValue and not same(d, known[n])} == {}


def test_reasons_are_needed() -> None:
    """What is said to be left out is a parameter of some function of PyTorch's that is here, and what is said to be added is ours."""
    pairs = [(n, words(getattr(space, n)), words(getattr(own, n))) for space, own, these in
             ((torch.nn.functional, F, FUNCTIONS), (torch.nn, nn, MODULES), (torch.optim, optim, OPTIMIZERS)) for n in these]
    theirs, mine = ({w for name, *both in pairs for n, _ in both[i] for w in (n, f"{name}.{n}")} for i in (0, 1))
    assert set(refusals.LEFT_OUT) - theirs == set()
    assert set(refusals.OURS_ONLY) - mine == set()

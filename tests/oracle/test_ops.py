"""Every float64 sample of PyTorch's op_db whose function exists here: outputs, gradients, Hessian-vector products."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import names
import pytest
import refusals
import torch
from cases import Call, Record, every, must_refuse
from compare import ours, same_function, tree_map
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo

import gpuprop
import gpuprop.functional as F

CASES = [op for op in op_db if torch.float64 in op.dtypes]
HERE = [op for op in CASES if names.find(op)]
name_of = lambda op: op.name.removeprefix("nn.functional.") + f"-{op.variant_test_name}" * bool(op.variant_test_name)
CURVED = 2  # samples of each function that are compared in the second order too


def samples(op: OpInfo) -> Iterator[Call]:
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=op.supports_autograd):
        yield Call((sample.input, *sample.args), sample.kwargs)


@pytest.mark.parametrize("op", HERE, ids=name_of)
def test_op(op: OpInfo, record_property: Record) -> None:
    our, curved = names.find(op), iter(range(CURVED if op.supports_gradgrad else 0))

    def compare(call: Call) -> None:
        differentiable = any(isinstance(v, torch.Tensor) and v.requires_grad for v in torch.utils._pytree.tree_leaves(call))
        same_function(op.op, our.call, *call, second=differentiable and next(curved, None) is not None)

    record_property("ops", (op.name, every(op.name, samples(op), compare, refusals.OPS)))


@pytest.mark.parametrize("op", [op for op in HERE if op.error_inputs_func], ids=name_of)
def test_errors(op: OpInfo) -> None:
    """What PyTorch's function refuses, ours refuses too."""
    our = names.find(op)

    def refuses(call: Call) -> None:
        args, kwargs = tree_map(ours, tuple(call))
        must_refuse(lambda: our.call(*args, **kwargs))

    inputs = (e.sample_input for e in op.error_inputs("cpu"))
    every(op.name, (Call((i.input, *i.args), i.kwargs) for i in inputs if "out" not in i.kwargs), refuses, refusals.ERRORS)


@pytest.mark.parametrize("refusal", [*refusals.OPS, *refusals.ERRORS], ids=lambda r: r.name)
def test_refusal(refusal: refusals.Refusal) -> None:
    """A refusal names a function that both have; that its cases would fail is seen where they run."""
    assert refusal.name in {op.name for op in HERE}


def test_every_function_is_compared() -> None:
    """Each function of ours is what some case of PyTorch's is about, or it says why none is."""
    own = {*names.ARRAY_FUNCTIONS, *(f"functional.{n}" for n in vars(F) if names.public(n))}
    compared = {name for op in HERE for name in names.find(op).names}
    unexplained = own - compared - set(refusals.NOT_IN_OP_DB)
    assert not unexplained, f"neither compared nor in refusals.NOT_IN_OP_DB: {', '.join(sorted(unexplained))}"
    stale = set(refusals.NOT_IN_OP_DB) - (own - compared)
    assert not stale, f"in refusals.NOT_IN_OP_DB without need: {', '.join(sorted(stale))}"


def test_absent(record_property: Record) -> None:
    record_property("absent ops", sorted({op.name for op in CASES} - {op.name for op in HERE}))

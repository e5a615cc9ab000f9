"""Compare functions and methods with PyTorch on all float64 samples of PyTorch's op_db.

Outputs, gradients and some Hessian-vector products are compared.  int64 samples are compared too,
if the result is not of a float type: NumPy decides which float type integers become.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import refusals
import torch
from cases import Record, compare_samples, must_raise
from compare import (
    FIRST_ORDER,
    compare_functions,
    requires_grad,
    to_gpuprop,
    without_warnings,
)
from names import ARRAY_FUNCTIONS, Counterpart, find, is_functional
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_leaves, tree_map

import gpuprop.functional as F

DTYPES = torch.float64, torch.int64
OPS: dict[str, list[tuple[OpInfo, Counterpart]]] = {}  # PyTorch has several entries for some names
for _info in op_db:
    if {*DTYPES} & _info.dtypes:
        for _name, _counterpart in find(_info):
            OPS.setdefault(_name, []).append((_info, _counterpart))
FUNCTIONS = [name for name in OPS if not name.startswith("Tensor.")]
WITH_ERRORS = [name for name in FUNCTIONS if any(info.error_inputs_func for info, _ in OPS[name])]
MORE: dict[str, list[tuple]] = {  # cases that op_db lacks: the input's shape, other arguments
    "logsumexp": [((0, 3), 0), ((2, 0), (0, 1))],
}
SECOND_ORDER_SAMPLES = 2  # samples of each entry with a Hessian-vector product


class Sample(NamedTuple):
    """The arguments of a call and both functions; `second` adds a Hessian-vector product."""

    args: tuple
    kwargs: dict[str, Any]
    theirs: Callable
    ours: Callable
    second: bool = False

    def __repr__(self) -> str:
        return f"{self.args}, {self.kwargs}"


def samples(name: str) -> Iterator[Sample]:
    for info, counterpart in OPS[name]:
        has_second = info.supports_gradgrad and name in FUNCTIONS
        remaining = SECOND_ORDER_SAMPLES if has_second else 0
        for args, kwargs in calls(info):
            second = remaining > 0 and any(map(requires_grad, tree_leaves((args, kwargs))))
            remaining -= second
            yield Sample(args, kwargs, info.op, counterpart.call, second)


def calls(info: OpInfo) -> Iterator[tuple[tuple, dict[str, Any]]]:
    """The arguments of all samples to compare."""
    for shape, *others in MORE.get(info.name, ()):
        input = torch.testing.make_tensor(shape, dtype=torch.float64, device="cpu",
                                          requires_grad=True)
        yield (input, *others), {}
    for dtype in [d for d in DTYPES if d in info.dtypes]:
        is_leaf = info.supports_autograd and dtype.is_floating_point
        for sample in info.sample_inputs("cpu", dtype, requires_grad=is_leaf):
            args = (sample.input, *sample.args)
            kwargs = {**sample.kwargs}
            if "fractional" in info.name and kwargs.get("_random_samples") is None:
                # both libraries would draw random numbers: give them the same
                n = int(info.name[-2])
                batch_and_channels = (1, *sample.input.shape)[-n - 2:][:2]
                kwargs["_random_samples"] = torch.rand(*batch_and_channels, n, dtype=dtype)
            if dtype is torch.float64 or not returns_float(info.op, args, kwargs):
                yield args, kwargs


def returns_float(f: Callable, args: tuple, kwargs: dict[str, Any]) -> bool:
    results = tree_leaves(without_warnings(f, *args, **kwargs))
    return any(isinstance(v, torch.Tensor) and v.dtype.is_floating_point for v in results)


def compare(sample: Sample, tolerance: float = FIRST_ORDER) -> None:
    compare_functions(sample.theirs, sample.ours, sample.args, sample.kwargs, sample.second,
                      tolerance)


@pytest.mark.parametrize("name", OPS)
def test_op(name: str, record_property: Record) -> None:
    count = compare_samples(name, samples(name), compare, refusals.OPS)
    record_property("functions" if name in FUNCTIONS else "methods", (name, count))


def error_samples(name: str) -> Iterator[Sample]:
    for info, counterpart in OPS[name]:
        for error in info.error_inputs("cpu") if info.error_inputs_func else ():
            sample = error.sample_input
            if "out" not in sample.kwargs:
                args = (sample.input, *sample.args)
                yield Sample(args, sample.kwargs, info.op, counterpart.call)


def check_raises(sample: Sample) -> None:
    def call() -> None:
        args, kwargs = tree_map(to_gpuprop, (sample.args, sample.kwargs))
        sample.ours(*args, **kwargs)

    must_raise(call)


@pytest.mark.parametrize("name", WITH_ERRORS)
def test_errors(name: str) -> None:
    """gpuprop's function raises for arguments for which PyTorch's raises."""
    compare_samples(name, error_samples(name), check_raises, refusals.ERRORS)


def test_every_function_is_compared() -> None:
    """Every function of gpuprop has a case in op_db, or an entry with a reason."""
    functional = {f"functional.{name}" for name in vars(F) if is_functional(name)}
    compared = {name for entries in OPS.values() for _, counterpart in entries
                for name in counterpart.names}
    not_compared = {*ARRAY_FUNCTIONS, *functional} - compared
    reasons = set(refusals.NOT_IN_OP_DB)
    assert not_compared - reasons == set(), "neither compared nor in refusals.NOT_IN_OP_DB"
    assert reasons - not_compared == set(), "in refusals.NOT_IN_OP_DB without need"


def test_exclusions_name_functions_of_both_libraries() -> None:
    """The tests above check that each excluded sample does fail."""
    assert {e.name for e in [*refusals.OPS, *refusals.ERRORS]} - {*OPS} == set()


def test_absent(record_property: Record) -> None:
    present = {info.name for entries in OPS.values() for info, _ in entries}
    record_property("absent functions", sorted({info.name for info in op_db} - present))

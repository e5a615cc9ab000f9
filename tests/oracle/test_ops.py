"""Every float64 sample of PyTorch's op_db whose function or method exists here: outputs, gradients of two orders.

int64 samples are compared too where the result is of integers or bools; what becomes a float is NumPy's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import refusals
import torch
from cases import Record, every, must_refuse
from compare import FIRST, ours, quietly, same_function, wants
from names import ARRAY_FUNCTIONS, Ours, find, public
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_leaves, tree_map

import gpuprop.functional as F

DTYPES = torch.float64, torch.int64
HERE: dict[str, list[tuple[OpInfo, Ours]]] = {}  # by name: PyTorch has several entries for one function
for _op in op_db:
    for _name, _our in find(_op) if {*DTYPES} & _op.dtypes else ():
        HERE.setdefault(_name, []).append((_op, _our))
FUNCTIONS = [name for name in HERE if not name.startswith("Tensor.")]
METHODS = [name for name in HERE if name.startswith("Tensor.")]
MORE: dict[str, list[tuple]] = {  # what op_db forgets: the input's shape, other arguments
    "logsumexp": [((0, 3), 0), ((2, 0), (0, 1))],
}
CURVED = 2  # samples of each entry that are compared in the second order too


class Sample(NamedTuple):
    """The arguments of a call, what both libraries have for it, and whether the second order is compared too."""

    args: tuple
    kwargs: dict[str, Any]
    theirs: Callable
    our: Callable
    second: bool = False

    def __repr__(self) -> str:
        return f"{self.args}, {self.kwargs}"


def samples(name: str) -> Iterator[Sample]:
    for op, our in HERE[name]:
        left = CURVED if op.supports_gradgrad and name in FUNCTIONS else 0
        for args, kwargs in calls(op):
            second = left > 0 and any(map(wants, tree_leaves((args, kwargs))))
            left -= second
            yield Sample(args, kwargs, op.op, our.call, second)


def calls(op: OpInfo) -> Iterator[tuple[tuple, dict[str, Any]]]:
    """The arguments of all samples of a kind that is compared."""
    for shape, *others in MORE.get(op.name, ()):
        yield (torch.testing.make_tensor(shape, dtype=torch.float64, device="cpu", requires_grad=True), *others), {}
    for dtype in [d for d in DTYPES if d in op.dtypes]:
        for sample in op.sample_inputs("cpu", dtype, requires_grad=op.supports_autograd and dtype.is_floating_point):
            args, kwargs = (sample.input, *sample.args), {**sample.kwargs}
            if "fractional" in op.name and kwargs.get("_random_samples") is None:  # both draw: let both have the same
                shape = (1, *sample.input.shape)[-int(op.name[-2]) - 2:]
                kwargs["_random_samples"] = torch.rand(*shape[:2], int(op.name[-2]), dtype=dtype)
            if dtype is torch.float64 or not any(map(is_float, tree_leaves(quietly(op.op, *args, **kwargs)))):
                yield args, kwargs


def is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point


def compare(sample: Sample, tolerance: float = FIRST) -> None:
    same_function(sample.theirs, sample.our, sample.args, sample.kwargs, sample.second, tolerance)


@pytest.mark.parametrize("name", HERE)
def test_op(name: str, record_property: Record) -> None:
    count = every(name, samples(name), compare, refusals.OPS)
    record_property("functions" if name in FUNCTIONS else "methods", (name, count))


def error_samples(name: str) -> Iterator[Sample]:
    for op, our in HERE[name]:
        for error in op.error_inputs("cpu") if op.error_inputs_func else ():
            sample = error.sample_input
            if "out" not in sample.kwargs:
                yield Sample((sample.input, *sample.args), sample.kwargs, op.op, our.call)


def refuses(sample: Sample) -> None:
    def bad() -> None:
        args, kwargs = tree_map(ours, (sample.args, sample.kwargs))
        sample.our(*args, **kwargs)
    must_refuse(bad)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if any(op.error_inputs_func for op, _ in HERE[name])])
def test_errors(name: str) -> None:
    """What PyTorch's function refuses, ours refuses too."""
    every(name, error_samples(name), refuses, refusals.ERRORS)


def test_every_function_is_compared() -> None:
    """Each function of ours is what some case of PyTorch's is about, or it says why none is."""
    own = {*ARRAY_FUNCTIONS, *(f"functional.{n}" for n in vars(F) if public(n))}
    compared = {name for entries in HERE.values() for _, our in entries for name in our.names}
    reasons = set(refusals.NOT_IN_OP_DB)
    assert own - compared - reasons == set(), "neither compared nor in refusals.NOT_IN_OP_DB"
    assert reasons - (own - compared) == set(), "in refusals.NOT_IN_OP_DB without need"


def test_refusals_name_what_both_have() -> None:
    """That the refused samples would fail is seen where they run."""
    assert {r.name for r in [*refusals.OPS, *refusals.ERRORS]} - {*HERE} == set()


def test_absent(record_property: Record) -> None:
    here = {op.name for entries in HERE.values() for op, _ in entries}
    record_property("absent functions", sorted({op.name for op in op_db} - here))

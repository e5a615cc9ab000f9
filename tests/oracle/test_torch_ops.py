"""Compare `gpuprop.torch` with PyTorch on the samples of PyTorch's op_db.

Functions, methods and in-place methods get PyTorch's arguments as they are.  Of float64 and int64
samples, values, shapes, dtypes and gradients must agree; of float32 and bool samples, shapes and
dtypes.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import pytest
import torch
import torch_refusals
from cases import Record, compare_samples
from compare import FIRST_ORDER, Difference, compare_functions, without_warnings
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_leaves, tree_map

import gpuprop.torch as ours
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch._tensor import wrap

SINGLE = 1e-6  # tolerance of results in float32
MOST, FEW = 6, 3  # samples: test_ops.py compares all of them, of functions that both dialects use
DTYPES = torch.float64, torch.int64, torch.float32, torch.bool


class Sample(NamedTuple):
    """The arguments of a call and both functions."""

    args: tuple
    kwargs: dict[str, Any]
    theirs: Callable
    ours: Callable
    dtype: torch.dtype

    def __repr__(self) -> str:
        return f"{self.args}, {self.kwargs}"


def find(path: str) -> Any:
    """The object of `gpuprop.torch` with a dotted name, or None."""
    return functools.reduce(lambda owner, name: getattr(owner, name, None), path.split("."), ours)


def counterparts(info: OpInfo) -> Iterator[tuple[str, Callable, Callable]]:
    """(name, PyTorch's callable, ours) of each function, method and in-place method.

    An alias and a method that are the function itself are left out.
    """
    names = [info.name, *(alias.name for alias in info.aliases)]
    if isinstance(info.op, FunctionType) and info.op.__name__ == "<lambda>":
        words = {**info.op.__globals__, "torch": ours}
        if find(info.name) or find(f"Tensor.{info.name}"):
            yield info.name, info.op, FunctionType(info.op.__code__, words,
                                                   closure=info.op.__closure__)
        functions = []
    else:
        functions = [find(name) for name in names]
        for i, name in enumerate(names):
            if functions[i] and functions[i] not in functions[:i]:
                yield name, info.op, functions[i]
    for variant in (info, *info.aliases):
        theirs = variant.method_variant
        name = getattr(theirs, "__name__", "")
        if hasattr(ours.Tensor, name) and getattr(ours.Tensor, name) not in functions:
            yield f"Tensor.{name}", theirs, functools.partial(_method, name)
        theirs = variant.inplace_variant
        name = getattr(theirs, "__name__", "")
        if hasattr(ours.Tensor, name):
            yield (f"Tensor.{name}", functools.partial(_in_place_on_copy, theirs),
                   functools.partial(_in_place_on_copy, functools.partial(_method, name)))


def _method(name: str, self: Any, *args: Any, **kwargs: Any) -> Any:
    value = getattr(self, name)
    return value(*args, **kwargs) if callable(value) else value


def _in_place_on_copy(method: Callable, self: Any, *args: Any, **kwargs: Any) -> Any:
    copied = self.clone()
    result = method(copied, *args, **kwargs)
    assert result is copied
    return result


OPS: dict[str, list[tuple[OpInfo, Callable, Callable]]] = {}
for _info in op_db:
    if {*DTYPES} & _info.dtypes:
        for _name, _theirs, _ours in counterparts(_info):
            OPS.setdefault(_name, []).append((_info, _theirs, _ours))


def samples(name: str) -> Iterator[Sample]:
    """`MOST` samples in float64, spread over those of PyTorch, and the first of other dtypes."""
    is_in_place = name.endswith("_") and not name.endswith("__")
    for info, theirs, own in OPS[name]:
        for dtype in [d for d in DTYPES if d in info.dtypes]:
            is_leaf = dtype is torch.float64 and info.supports_autograd
            generated = info.sample_inputs("cpu", dtype, requires_grad=is_leaf)
            limit = None if dtype is torch.float64 and not is_in_place else FEW
            found = without_warnings(list, itertools.islice(generated, limit))
            for sample in found[::-(-len(found) // MOST) or 1]:
                if not (is_in_place and sample.broadcasts_input):
                    args = (sample.input, *sample.args)
                    yield Sample(args, sample.kwargs, theirs, own, dtype)


def to_dialect(value: Any) -> Any:
    """Convert an argument of PyTorch; Tensors share memory, which becomes read-only."""
    if isinstance(value, torch.Tensor):
        array = value.detach().numpy()
        array.flags.writeable = False
        t = wrap(array)
        t.requires_grad = value.requires_grad
        return t
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return getattr(ours, str(value).removeprefix("torch."))
    return ours.device(str(value)) if isinstance(value, torch.device) else value


def compare(sample: Sample, tolerance: float = FIRST_ORDER) -> None:
    try:
        results = without_warnings(sample.theirs, *sample.args, **sample.kwargs)
    except Exception:
        if sample.dtype is torch.float64:
            raise
        return  # PyTorch refuses this sample in this dtype
    dtypes = {t.dtype for t in tree_leaves(results) if isinstance(t, torch.Tensor)}
    if any(dtype.is_complex for dtype in dtypes):
        return
    if sample.dtype in (torch.float32, torch.bool) or torch.bfloat16 in dtypes:
        compare_dtypes(sample, results)
    else:
        tolerance = tolerance if sample.dtype is torch.float64 else SINGLE
        compare_functions(sample.theirs, sample.ours, sample.args, sample.kwargs,
                          tolerance=tolerance, convert=to_dialect)


def compare_dtypes(sample: Sample, expected: Any) -> None:
    args, kwargs = tree_map(to_dialect, (sample.args, sample.kwargs))
    with ours.no_grad():
        results = without_warnings(sample.ours, *args, **kwargs)
    for theirs, own in zip(tree_leaves(expected), tree_leaves(results), strict=True):
        assert isinstance(theirs, torch.Tensor) == isinstance(own, Plain)
        if isinstance(theirs, torch.Tensor):
            found = str(own.dtype), tuple(own.shape)
            if found != (str(theirs.dtype).removeprefix("torch."), tuple(theirs.shape)):
                raise Difference(f"{found}, not {theirs.dtype}, {tuple(theirs.shape)}")


@pytest.mark.parametrize("name", OPS)
def test_op(name: str, record_property: Record) -> None:
    count = compare_samples(name, samples(name), compare, torch_refusals.OPS)
    record_property("names of gpuprop.torch", (name, count))


def test_exclusions_name_ops() -> None:
    """The test above checks that each excluded sample does fail."""
    assert {e.name for e in torch_refusals.OPS} - {*OPS} == set()

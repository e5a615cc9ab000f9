"""Results of ops on Tensors of this dialect: class, dtype, and how to run the op again."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop._core.arguments import NUMBERS
from gpuprop._core.dialects import Dialect, dialects
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import Node, raw
from gpuprop._core.namespace import Differentiable
from gpuprop._core.ops import recorded
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch._memory import shares, views_of
from gpuprop.torch._tensor import Parameter, Tensor, as_torch, rank, wrap

default_dtype = ["float32"]  # of floats that a program gives as Python numbers


def finish(result: Any, args: tuple, spec: Any, edges: Sequence, arrays: Sequence,
           constants: dict) -> Any:
    """The result of an op in this dialect: see `dialects.finished`."""
    as_class(Tensor, result, spec, edges, arrays, constants)
    for t in result if type(result) is tuple else (result,):
        _note_memory(t, args)
    if type(result) is tuple or "dtype" in constants:
        return result
    dtype = _dtype(result.array.dtype, spec.promotes, args)
    return result if dtype is result.array.dtype else result.astype(dtype)


def as_class(cls: type, result: Any, spec: Any, edges: Sequence, arrays: Sequence,
             constants: dict) -> Any:
    """Give the Tensors of a result a class, and their nodes what is needed to run the op again."""
    again = spec, origins(edges, arrays), constants
    if type(result) is tuple:
        for i, t in enumerate(result):
            t.__class__ = cls
            if t.node is not None:
                t.node.edges[0].again = again
                t.node.again = t.node.edges[0], i
        return result
    result.__class__ = cls
    if result.node is not None:
        result.node.again = again
    return result


def origins(edges: Sequence, arrays: Sequence) -> list:
    """The inputs of an op: the node or leaf of each that has a gradient, the array of another."""
    return [a if edge is None else edge for edge, a in zip(edges, arrays, strict=True)]


def _note_memory(t: Any, args: tuple) -> None:
    """Remember that a result is a view of an argument."""
    if getattr(t.array, "base", None) is not None:
        for a in args:
            if isinstance(a, Plain) and shares(t.array, a.array):
                views_of(a).add(t)
                return


def _dtype(dtype: Any, promotes: bool, args: tuple) -> Any:
    """The dtype of a result in PyTorch, where NumPy gives it `dtype`.

    Floats made of integers have the default dtype; sums of unsigned integers are int64.  A 0-d
    Tensor does not widen one with axes, unless it is of a higher kind: floats above integers.
    """
    kind = dtype.kind
    if kind == "u" and dtype.itemsize == 8:
        return np.dtype("int64")
    arrays = [a for a in args if type(a) not in NUMBERS]
    if kind == "f" and dtype.itemsize == 8 and not any(is_float(a.dtype) for a in arrays):
        return np.dtype(default_dtype[0])
    if promotes and kind != "b" and len({a.dtype for a in arrays}) > 1:
        top = max(rank(a.dtype) for a in arrays)
        highest = {a.dtype for a in arrays if rank(a.dtype) == top and raw(a).ndim}
        if highest:
            return functools.reduce(np.promote_types, highest)
    return dtype


class Inner(Plain):
    """What definitions of ops run on when gradients are differentiated.

    It speaks NumPy, as bodies of ops do, and its ops can be run again, for third derivatives.
    """

    __slots__ = ()


def inner(t: Any) -> Any:
    """A Tensor as bodies of ops take it, with the same history."""
    if not t.requires_grad:
        return Inner(t.array)
    node = t.node
    if node is None:
        node = Node(IDENTITY, (t,), (lambda d: d,), t.array.shape, t.array.dtype)
        node.again = IDENTITY, [t], {}
    made = recorded(t.array, node)
    made.__class__ = Inner
    return made


def outer(t: Any) -> Any:
    """A Tensor that a definition runs on, in PyTorch's words, with the same history."""
    if not t.requires_grad:
        return wrap(t.array)
    made = recorded(t.array, t.node)
    made.__class__ = Tensor
    return made


IDENTITY: Any = Differentiable.ops["positive"].spec  # type: ignore[attr-defined]


def finish_inner(result: Any, args: tuple, *call: Any) -> Any:
    return as_class(Inner, result, *call)


TORCH = Dialect(finish, inner, as_torch)
INNER = Dialect(finish_inner, lambda t: t, lambda t: t)
dialects.update({Tensor: TORCH, Parameter: TORCH, Inner: INNER})

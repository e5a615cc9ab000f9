"""Gradients as functions: `grad` and `value_and_grad`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpuprop._core.checks import as_callable, as_integer
from gpuprop._core.graph import level, raw
from gpuprop._core.mode import Switch, current
from gpuprop._core.namespace import namespace
from gpuprop._core.tensor import Tensor, check_floating, tensor
from gpuprop._core.tree import tree_map


def grad(f: Callable, argnum: int | Sequence[int] = 0) -> Callable:
    """The function that returns d(f)/d(argument); it can be differentiated too, ``grad(grad(f))``.

    `f` must return an array or Tensor with one element.  `argnum` is the position of the argument,
    or a sequence of positions; the function then returns a tuple.  The argument is an array, a
    Tensor, or a list, tuple or dict of them.  The gradient has the same structure: an array for an
    array, and for a Tensor a Tensor with its history.

    >>> gpuprop.grad(lambda x: (x**3).sum())(np.array([2.0]))
    array([12.])
    """
    both = value_and_grad(as_callable("grad: f", f), argnum)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def value_and_grad(f: Callable, argnum: int | Sequence[int] = 0) -> Callable:
    """The function that returns (f, d(f)/d(argument)); see `grad`."""
    as_callable("value_and_grad: f", f)
    numbers = argnum if isinstance(argnum, list | tuple) else (argnum,)
    wanted = [as_integer("grad: argnum", n) for n in numbers]

    def both(*args: Any, **kwargs: Any) -> tuple:
        if not all(-len(args) <= n < len(args) for n in wanted):
            raise TypeError(f"grad: argnum={argnum} is out of range: the call has {len(args)} "
                            f"positional argument(s), and only these can be differentiated")
        positions = [n % len(args) for n in wanted]
        depth = current.get().depth + 1
        leaves = _Leaves(depth)
        with Switch(depth=depth, recording=True):
            wrapped = {n: tree_map(leaves.wrap, args[n]) for n in positions}
            y = f(*(wrapped.get(i, a) for i, a in enumerate(args)), **kwargs)
            if not hasattr(y, "shape") or y.size != 1:
                got = getattr(y, "shape", type(y).__name__)
                raise ValueError(f"grad needs a function that returns one number, not {got}")
            depends = level(y) == depth
            if depends and y.requires_grad:
                y.backward()
        grads = leaves.gradients()
        found = tuple(
            tree_map(lambda x: None if x is None else next(grads), args[n]) for n in positions)
        value = leaves.like_given(any(leaves.were_tensors), y.array if depends else y)
        return value, found if numbers is argnum else found[0]

    return both


class _Leaves:
    """The arrays with respect to which a function is differentiated.

    Each is wrapped in Tensors up to level `depth`; the outermost Tensor is a leaf.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.tensors: list[Tensor] = []
        self.were_tensors: list[bool] = []

    def wrap(self, x: Any) -> Tensor | None:
        if x is None:
            return None
        inner = x if hasattr(x, "shape") else tensor(x).array
        check_floating(inner)
        while level(inner) < self.depth - 1:
            inner = Tensor(inner)
        self.tensors.append(Tensor(inner, requires_grad=True))
        self.were_tensors.append(isinstance(x, Tensor))
        return self.tensors[-1]

    def gradients(self) -> Any:
        """The gradients in order, zeros for an array on which the function does not depend."""
        for t, was_tensor in zip(self.tensors, self.were_tensors, strict=True):
            g = namespace(t.array).zeros_like(t.array) if t.gradient is None else t.gradient
            yield self.like_given(was_tensor, g)

    def like_given(self, was_tensor: bool, result: Any) -> Any:
        """`result` as a Tensor if a Tensor was given, or inside another `grad`; else an array."""
        return result if was_tensor or self.depth > 2 else raw(result)

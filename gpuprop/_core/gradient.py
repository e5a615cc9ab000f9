"""Gradients as functions: `grad` and `value_and_grad`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpuprop._core.graph import level, raw
from gpuprop._core.mode import Switch, current
from gpuprop._core.namespace import namespace
from gpuprop._core.tensor import Tensor, check_floating, tensor
from gpuprop._core.tree import tree_map


def grad(f: Callable, argnum: int | Sequence[int] = 0) -> Callable:
    """The function that returns d(f)/d(argument), itself differentiable: ``grad(grad(f))``.

    `f` returns one number; `argnum` names the argument, or several by a sequence (the result is then a tuple).  An
    argument is an array, a Tensor or a list, tuple or dict of them; the gradient comes in the same form, arrays for
    arrays and Tensors, with their history, for Tensors.
    """
    both = value_and_grad(f, argnum)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def value_and_grad(f: Callable, argnum: int | Sequence[int] = 0) -> Callable:
    """The function that returns (f, d(f)/d(argument)); see `grad`."""
    given = (argnum,) if isinstance(argnum, int) else tuple(argnum)

    def both(*args: Any, **kwargs: Any) -> tuple:
        if not all(-len(args) <= n < len(args) for n in given):
            raise TypeError(f"grad: argnum={argnum} is to be differentiated, and the call has {len(args)} positional "
                            f"argument(s): give what is differentiated by position")
        numbers = [n % len(args) for n in given]
        depth = current.get().depth + 1
        leaves: list[tuple[Tensor, Any]] = []

        def wrap(x: Any) -> Tensor | None:
            if x is None:
                return None
            inner = x if hasattr(x, "shape") else tensor(x).data
            check_floating(inner)
            while level(inner) < depth - 1:
                inner = Tensor(inner)
            leaves.append((Tensor(inner, requires_grad=True), x))
            return leaves[-1][0]

        with Switch(depth=depth, recording=True):
            wrapped = {n: tree_map(wrap, args[n]) for n in numbers}
            y = f(*(wrapped.get(i, a) for i, a in enumerate(args)), **kwargs)
            if not hasattr(y, "shape") or y.size != 1:
                got = getattr(y, "shape", type(y).__name__)
                raise ValueError(f"grad needs a function that returns one number, not {got}")
            if level(y) == depth and y.requires_grad:  # else it does not depend on the argument
                y.backward()
        zeros = lambda t: namespace(t.data).zeros_like(t.data)
        # a Tensor to who gave one, or is inside a grad themselves; the array to who gave an array
        as_given = lambda tensor, result: result if tensor or depth > 2 else raw(result)
        found = iter([as_given(isinstance(x, Tensor), zeros(t) if t.grad is None else t.grad) for t, x in leaves])
        grads = tuple(tree_map(lambda x: None if x is None else next(found), args[n]) for n in numbers)
        value = as_given(any(isinstance(x, Tensor) for _, x in leaves), y.data if level(y) == depth else y)
        return value, grads[0] if isinstance(argnum, int) else grads

    return both

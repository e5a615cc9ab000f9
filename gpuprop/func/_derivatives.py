"""Products with Jacobians and Hessians, and these matrices row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from gpuprop._core.checks import as_callable
from gpuprop._core.gradient import _Leaves, grad
from gpuprop._core.graph import level, raw
from gpuprop._core.mode import Switch, current
from gpuprop._core.namespace import namespace
from gpuprop._core.tensor import Tensor
from gpuprop._core.tree import tree_leaves, tree_map


def vjp(f: Callable, *primals: Any) -> tuple[Any, Callable[[Any], tuple]]:
    """``f(*primals)``, and the function of v that returns ``v @ J``, where J is the Jacobian of f.

    v is like the output, and the result a tuple with one entry for each of `primals`.

    >>> from gpuprop import func
    >>> y, pull = func.vjp(lambda x: x ** 2, np.array([1.0, 2.0]))
    >>> pull(np.array([1.0, 10.0]))
    (array([ 2., 40.]),)
    """
    as_callable("vjp: f", f)
    depth = current.get().depth + 1
    leaves = _Leaves(depth)
    with Switch(depth=depth, recording=True):
        wrapped = [tree_map(leaves.wrap, primal) for primal in primals]
        y = f(*wrapped)
    outs = list(tree_leaves(y))
    are_tensors = any(leaves.were_tensors)

    def unwrap(t: Any) -> Any:
        return leaves.like_given(are_tensors, t.array) if level(t) == depth else t

    def pull(cotangent: Any) -> tuple:
        given = list(tree_leaves(cotangent))
        if len(given) != len(outs):
            raise ValueError(f"vjp: the function has {len(outs)} outputs, got {len(given)} "
                             f"cotangents")
        for t in leaves.tensors:
            t.gradient = None
        with Switch(depth=depth, recording=True):
            for t, c in zip(outs, given, strict=True):
                if level(t) == depth and t.requires_grad:
                    while level(c) < depth - 1:
                        c = Tensor(c)
                    t.backward(c, retain_graph=True)
        grads = leaves.gradients()
        return tuple(tree_map(lambda x: None if x is None else next(grads), p) for p in primals)

    return tree_map(unwrap, y), pull


def jvp(f: Callable, primals: Sequence, tangents: Sequence) -> tuple[Any, Any]:
    """``f(*primals)`` and ``J @ v``, where v are the `tangents`, one for each of the primals.

    Computed as the gradient of ``u @ J`` by u: three runs of f.

    >>> from gpuprop import func
    >>> func.jvp(lambda x: x ** 2, [np.array([1.0, 2.0])], [np.array([1.0, 10.0])])
    (array([1., 4.]), array([ 2., 40.]))
    """
    primals, tangents = tuple(primals), tuple(tangents)
    if len(primals) != len(tangents):
        raise ValueError(f"jvp: {len(primals)} primals and {len(tangents)} tangents: expected one "
                         f"tangent for each primal")
    y = f(*primals)
    zeros = tree_map(lambda t: namespace(t).zeros_like(t), y)
    _, pull = vjp(lambda u: vjp(f, *primals)[1](u), zeros)
    return y, pull(tangents)[0]


def hvp(f: Callable, primals: Sequence, tangents: Sequence) -> tuple:
    """The product of the Hessian of a function with one output and the `tangents`.

    The result is a tuple with one entry for each of `primals`.

    >>> from gpuprop import func
    >>> func.hvp(lambda x: (x ** 3).sum(), [np.array([1.0, 2.0])], [np.array([1.0, 10.0])])
    (array([  6., 120.]),)
    """
    primals, tangents = tuple(primals), tuple(tangents)
    if len(primals) != len(tangents):
        raise ValueError(f"hvp: {len(primals)} primals and {len(tangents)} tangents: expected one "
                         f"tangent for each primal")
    gradient = grad(f, tuple(range(len(primals))))
    return vjp(gradient, *primals)[1](tangents)


def jacobian(f: Callable, argnum: int = 0) -> Callable:
    """The function that returns the Jacobian of f: shape of the output + shape of the argument.

    It is computed row by row, by one backward for each element of the output.  For trees the result
    has the structure of the output, with that of the argument at each leaf.

    >>> from gpuprop import func
    >>> func.jacobian(lambda x: x ** 2)(np.array([1.0, 2.0]))
    array([[2., 0.],
           [0., 4.]])
    """
    as_callable("jacobian: f", f)

    def jac(*args: Any) -> Any:
        if not -len(args) <= argnum < len(args):
            raise TypeError(f"jacobian: argnum={argnum} is out of range: the call has {len(args)} "
                            f"arguments")
        n = argnum % len(args)
        y, pull = vjp(lambda x: f(*args[:n], x, *args[n + 1:]), args[n])
        outs = list(tree_leaves(y))
        zeros = [namespace(raw(t)).zeros(t.shape, t.dtype) for t in outs]

        def rows(i: int) -> Any:
            found = []
            for j in range(math.prod(outs[i].shape)):
                hot = zeros[i].reshape(-1).copy()
                hot[j] = 1
                given = [*zeros[:i], hot.reshape(outs[i].shape), *zeros[i + 1:]]
                found.append(pull(given)[0])
            if not found:
                found = [tree_map(lambda t: namespace(t).zeros_like(t), args[n])]
            leaves = zip(*map(tree_leaves, found), strict=True)
            stacked = iter([_stacked(row, outs[i].shape) for row in leaves])
            return tree_map(lambda _: next(stacked), args[n])

        numbers = iter(range(len(outs)))
        return tree_map(lambda _: rows(next(numbers)), y)

    return jac


def _stacked(rows: Sequence, shape: tuple) -> Any:
    """The rows of a Jacobian as one array, for an output of this shape."""
    whole = namespace(rows[0]).stack(list(rows))
    return whole[:math.prod(shape)].reshape((*shape, *rows[0].shape))


def hessian(f: Callable, argnum: int = 0) -> Callable:
    """The function that returns the Hessian of f, a function with one output.

    >>> from gpuprop import func
    >>> func.hessian(lambda x: (x ** 3).sum())(np.array([1.0, 2.0]))
    array([[ 6.,  0.],
           [ 0., 12.]])
    """
    return jacobian(grad(as_callable("hessian: f", f), argnum), argnum)

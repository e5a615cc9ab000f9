"""Products with Jacobians and Hessians, and these matrices, as `torch.autograd.functional`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gpuprop._core.mode import enable_grad
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch import _graph
from gpuprop.torch._functions import ones_like, stack, zeros, zeros_like

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]


def _fresh(x: Any, create_graph: bool = True) -> Any:
    """An input of a function: a leaf, or a result of `x` if its gradient may be wanted."""
    if create_graph and x.requires_grad:
        return x.view_as(x)
    return x.detach().requires_grad_()


def _tuple(values: Any) -> tuple:
    return values if isinstance(values, tuple) else tuple(values) if isinstance(
        values, list) else (values,)


def _like(given: Any, values: tuple) -> Any:
    """One value if one was given, else all."""
    return values if isinstance(given, tuple | list) else values[0]


def _grad(outputs: Any, inputs: tuple, seeds: Any, create_graph: bool, strict: bool = False) -> Any:
    """Gradients, zeros for inputs that the outputs do not depend on; with `strict` these raise."""
    pairs = [(y, s) for y, s in zip(outputs, seeds, strict=True) if y.requires_grad]
    if not pairs:
        if strict:
            raise RuntimeError("The output of the user-provided function is independent of the "
                               "input. This is not allowed in strict mode.")
        return tuple(zeros_like(x) for x in inputs)
    ys, given = zip(*pairs, strict=True)
    return _graph.grad(ys, inputs, given, retain_graph=True, create_graph=create_graph,
                       allow_unused=not strict, materialize_grads=not strict)


def _finished(values: tuple, create_graph: bool) -> tuple:
    return values if create_graph else tuple(t.detach() for t in values)


def _run(func: Callable, inputs: tuple) -> tuple[Any, tuple]:
    """The output of a function, and as a tuple."""
    with enable_grad():
        y = func(*inputs)
    outputs = _tuple(y)
    if not all(isinstance(t, Plain) for t in outputs):
        raise TypeError(f"the function must return a Tensor or a tuple of Tensors, got {y!r}")
    return y, outputs


def _seeds(v: Any, outputs: tuple) -> tuple:
    if v is not None:
        return _tuple(v)
    if any(y.numel() != 1 for y in outputs):
        raise RuntimeError("The vector v can only be None if the user-provided function returns a "
                           "single Tensor with a single element.")
    return tuple(ones_like(y) for y in outputs)


def vjp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple:
    """``func(*inputs)`` and ``v @ J``."""
    xs = tuple(_fresh(x, create_graph) for x in _tuple(inputs))
    y, outputs = _run(func, xs)
    grads = _grad(outputs, xs, _seeds(v, outputs), create_graph, strict)
    out = _like(y, _finished(outputs, create_graph))
    return out, _like(inputs, _finished(grads, create_graph))


def jvp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple:
    """``func(*inputs)`` and ``J @ v``, by the gradient of ``u @ J`` with respect to u."""
    xs = tuple(_fresh(x, create_graph) for x in _tuple(inputs))
    if v is None and any(x.numel() != 1 for x in xs):
        raise RuntimeError("The vector v can only be None if the input to the user-provided "
                           "function is a single Tensor with a single element.")
    tangents = tuple(ones_like(x) for x in xs) if v is None else _tuple(v)
    y, outputs = _run(func, xs)
    us = tuple(zeros_like(t).requires_grad_() for t in outputs)
    with enable_grad():
        linear = _grad(outputs, xs, us, True, strict)
    products = _grad(linear, us, tangents, create_graph)
    return (_like(y, _finished(outputs, create_graph)),
            _like(y, _finished(products, create_graph)))


def jacobian(func: Callable, inputs: Any, create_graph: bool = False, strict: bool = False,
             vectorize: bool = False, strategy: str = "reverse-mode") -> Any:
    """The Jacobian, by one backward for each element of the output.

    `vectorize` and `strategy` have no effect.
    """
    xs = tuple(_fresh(x, create_graph) for x in _tuple(inputs))
    y, outputs = _run(func, xs)
    found = []
    for t in outputs:
        rows = []
        for i in range(t.numel()):
            hot = zeros(t.numel(), dtype=t.dtype, device=t.device)
            hot[i] = 1
            rows.append(_grad((t,), xs, (hot.reshape(t.shape),), create_graph, strict))
        if rows:
            blocks = tuple(stack(column).reshape((*t.shape, *x.shape))
                           for column, x in zip(zip(*rows, strict=True), xs, strict=True))
        else:
            blocks = tuple(zeros((*t.shape, *x.shape), dtype=t.dtype, device=t.device) for x in xs)
        found.append(_like(inputs, _finished(blocks, create_graph)))
    return _like(y, tuple(found))


def _scalar(func: Callable) -> Callable:
    """The function, whose output must have one element."""

    def call(*args: Any) -> Any:
        y = func(*args)
        if not isinstance(y, Plain) or math.prod(y.shape) != 1:
            raise RuntimeError("The function given to hessian should return a single Tensor with a "
                               "single element.")
        return y.reshape(())

    return call


def hessian(func: Callable, inputs: Any, create_graph: bool = False, strict: bool = False,
            vectorize: bool = False, outer_jacobian_strategy: str = "reverse-mode") -> Any:
    """The Hessian of a function with one output; `vectorize` and the strategy have no effect."""

    def gradient(*xs: Any) -> Any:
        y = _scalar(func)(*xs)
        return _like(inputs, _grad((y,), xs, (ones_like(y),), True, strict))

    return jacobian(gradient, inputs, create_graph, strict)


def _hessian_product(func: Callable, inputs: Any, v: Any, create_graph: bool,
                     strict: bool) -> tuple:
    xs = tuple(_fresh(x, create_graph) for x in _tuple(inputs))
    y, outputs = _run(_scalar(func), xs)
    vs = tuple(ones_like(x) for x in xs) if v is None else _tuple(v)
    grads = _grad(outputs, xs, (ones_like(y),), True, strict)
    products = _grad(grads, xs, vs, create_graph, strict)
    return (_finished(outputs, create_graph)[0],
            _like(inputs, _finished(products, create_graph)))


def vhp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple:
    """``func(*inputs)``, which has one element, and ``v @ H``."""
    return _hessian_product(func, inputs, v, create_graph, strict)


def hvp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False,
        strict: bool = False) -> tuple:
    """``func(*inputs)``, which has one element, and ``H @ v``; H is symmetric."""
    return _hessian_product(func, inputs, v, create_graph, strict)

"""Functions of functions, as `torch.func`; without `vmap`, so matrices are computed row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

from gpuprop._core.checks import as_callable, as_instance
from gpuprop._core.mode import enable_grad
from gpuprop._core.tree import tree_leaves, tree_map
from gpuprop.func import functional_call
from gpuprop.torch import _graph
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._autograd_functional import _fresh, _grad, jacobian
from gpuprop.torch._functions import ones_like, zeros_like
from gpuprop.torch._tensor import Tensor, Words

__all__ = ["functional_call", "grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp",
           "vjp"]

Argnums = int | tuple[int, ...]


def _split(out: Any, has_aux: bool) -> tuple[Any, Any]:
    return out if has_aux else (out, None)


def _tracks(outputs: list, inputs: list) -> bool:
    """True if the outputs depend on leaves other than the inputs: gradients then keep a history."""
    own = {id(x) for x in inputs}
    roots = [y for y in outputs if y.requires_grad]
    return any(id(leaf) not in own for leaf in _graph._leaves(roots))


def _vjp(func: Callable, primals: tuple, has_aux: bool) -> tuple[Any, Callable, Any, list]:
    """(output, function of cotangents, aux, leaves that the function was called with)"""
    as_callable("func", func)
    for x in tree_leaves(primals):
        as_instance("an argument of the function", x, Words, "a Tensor")
    xs = tree_map(_fresh, primals)
    inputs = list(tree_leaves(xs))
    with enable_grad():
        y, aux = _split(func(*xs), has_aux)
    outputs = list(tree_leaves(y))
    tracks = _tracks(outputs, inputs)

    def pull(cotangents: Any) -> tuple:
        seeds = list(tree_leaves(cotangents))
        create = tracks or any(s.requires_grad for s in seeds)
        grads = iter(_grad(outputs, tuple(inputs), seeds, create))
        return tree_map(lambda _: next(grads), primals)

    kept = (lambda t: t) if tracks else (lambda t: t.detach() if hasattr(t, "detach") else t)
    return tree_map(kept, y), pull, aux if aux is None else tree_map(kept, aux), inputs


def vjp(func: Callable, *primals: Any, has_aux: bool = False) -> tuple:
    """``func(*primals)``, and the function of v that returns ``v @ J`` as a tuple."""
    y, pull, aux, _ = _vjp(func, primals, has_aux)

    def one(*cotangents: Any) -> tuple:
        return pull(cotangents[0] if len(cotangents) == 1 else cotangents)

    return (y, one, aux) if has_aux else (y, one)


def jvp(func: Callable, primals: tuple, tangents: tuple, *, strict: bool = False,
        has_aux: bool = False) -> tuple:
    """``func(*primals)`` and ``J @ v``, by the gradient of ``u @ J`` with respect to u."""
    y, pull, aux, xs = _vjp(func, tuple(primals), has_aux)
    us = tree_map(lambda t: zeros_like(t).requires_grad_(), y)
    with enable_grad():
        linear = pull(us)
    inputs = list(tree_leaves(us))
    create = _tracks(list(tree_leaves(linear)), [*inputs, *xs])
    products = iter(_grad(list(tree_leaves(linear)), tuple(inputs),
                          list(tree_leaves(tuple(tangents))), create))
    result = tree_map(lambda _: next(products), y)
    return (y, result, aux) if has_aux else (y, result)


def grad_and_value(func: Callable, argnums: Argnums = 0, has_aux: bool = False) -> Callable:
    """The function that returns (gradient, value), or (gradient, (value, aux))."""
    as_callable("grad: func", func)
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)

    def call(*args: Any, **kwargs: Any) -> tuple:
        positions = [n % len(args) for n in numbers]

        def of_wanted(*wanted: Any) -> Any:
            new = dict(zip(positions, wanted, strict=True))
            return func(*(new.get(i, a) for i, a in enumerate(args)), **kwargs)

        y, pull, aux, _ = _vjp(of_wanted, tuple(args[i] for i in positions), has_aux)
        if y.dim() != 0:
            raise RuntimeError(f"grad_and_value(f)(*args): Expected f(*args) to return a scalar "
                               f"tensor, got tensor with {y.dim()} dims.")
        grads = pull(ones_like(y).detach())
        found = grads if isinstance(argnums, tuple) else grads[0]
        return found, ((y, aux) if has_aux else y)

    return call


def grad(func: Callable, argnums: Argnums = 0, has_aux: bool = False) -> Callable:
    """The function that returns the gradient, or (gradient, aux)."""
    both = grad_and_value(func, argnums, has_aux)

    def call(*args: Any, **kwargs: Any) -> Any:
        found, value = both(*args, **kwargs)
        return (found, value[1]) if has_aux else found

    return call


def jacrev(func: Callable, argnums: Argnums = 0, has_aux: bool = False, *,
           chunk_size: int | None = None) -> Callable:
    """The function that returns the Jacobian, by one backward for each element of the output."""
    as_callable("jacrev: func", func)

    def call(*args: Any) -> Any:
        numbers = argnums if isinstance(argnums, tuple) else (argnums,)
        positions = [n % len(args) for n in numbers]
        kept = []

        def of_wanted(*wanted: Any) -> Any:
            new = dict(zip(positions, wanted, strict=True))
            y, aux = _split(func(*(new.get(i, a) for i, a in enumerate(args))), has_aux)
            kept.append(aux)
            return y

        inputs = tuple(args[i] for i in positions)
        leaves = tuple(tree_leaves(inputs))
        create = any(x.requires_grad for x in leaves)
        if all(isinstance(x, Tensor) for x in inputs):
            given = inputs if isinstance(argnums, tuple) else inputs[0]
            found = jacobian(of_wanted, given, create_graph=create)
        else:  # dicts and lists of Tensors, for one output
            def of_leaves(*flat: Any) -> Any:
                new = iter(flat)
                return of_wanted(*tree_map(lambda _: next(new), inputs))

            rows = iter(jacobian(of_leaves, leaves, create_graph=create))
            trees = tree_map(lambda _: next(rows), inputs)
            found = trees if isinstance(argnums, tuple) else trees[0]
        return (found, kept[0]) if has_aux else found

    return call


jacfwd = jacrev


def hessian(func: Callable, argnums: int = 0) -> Callable:
    """The function that returns the Hessian of a function with one output."""
    return jacrev(jacrev(func, argnums), argnums)


if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)

"""What an op is: a function on arrays that returns its output and how to pull a gradient back.

``fn(xp, x, ...) -> (out, pullbacks)``, called with Tensors, is recorded; with plain arrays it is a
plain function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, overload

import numpy as np

from gpuprop._core.arguments import (
    NUMBERS,
    autocast_arguments,
    for_half_types,
    promoted,
    resolve,
)
from gpuprop._core.backend import BY_TYPE
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import Node, raw
from gpuprop._core.mode import Switch, current
from gpuprop._core.namespace import Differentiable
from gpuprop._core.signature import public_function
from gpuprop._core.spec import Spec, definitions, forget_choices
from gpuprop._core.tensor import Tensor

__all__ = ["Kernel", "LinearOp", "Op", "Spec", "called_as", "definitions", "forget_choices",
           "kernel", "linear_op", "op"]

P = ParamSpec("P")


class Kernel(Protocol[P]):
    """A function that `kernel` made of a body: it has the body's parameters but `xp`."""

    fn: Callable
    spec: Spec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...


class Op(Kernel[P], Protocol[P]):
    """A function that `op` made of a body: it has the body's parameters but `xp`."""

    def faster(self, version: Callable) -> Callable: ...


class LinearOp(Op[P], Protocol[P]):
    """A function that `linear_op` made of a body."""

    def on(self, xp: Any, *args: P.args, **kwargs: P.kwargs) -> Any: ...


@overload
def op(fn: Callable[Concatenate[Any, P], Any]) -> Op[P]: ...
@overload
def op(*, precision: str | None = None, promote: bool = False, half: str | None = None,
       name: str | None = None) -> Callable[[Callable[Concatenate[Any, P], Any]], Op[P]]: ...
def op(fn: Any = None, *, precision: str | None = None, promote: bool = False,
       half: str | None = None, name: str | None = None) -> Any:
    """Make an op of ``fn(xp, x: Array, n, w: Array = None) -> (out, pullbacks)``.

    Parameters annotated `Array` are arrays, the others constants.  The public function has this
    signature without `xp`.  `pullbacks` is a tuple with one function of the output's gradient for
    each array, which runs only if that gradient is wanted, or one function that returns all of
    them; None means that no gradient passes.  Several outputs are a tuple.

    `precision` is that inside autocast: "low", "full" (float32) or "widest" of the inputs.  With
    `promote`, integer operands are cast to the floating dtype of the others, and never widen it.
    `name` is the name for messages, if it is not the body's; "{n}" in it is the number of spatial
    dimensions of the output.

    Half types (float16, bfloat16) are computed in float32: the engine casts what the body is given
    and rounds once what it returns.  `half` says that the body needs no such help.  "exact": it
    moves, chooses or compares elements, or makes each result by one matrix product or one pointwise
    body; Python numbers are cast to the half type. (`precision` "low" implies it.)  "rounded": it
    makes each result by one operation on arrays; beside a Python number, which would be rounded
    too, it is computed in float32 after all.

    >>> @gpuprop.op
    ... def cube(xp, x: gpuprop.Array):
    ...     return x**3, (lambda dy: 3 * x**2 * dy,)
    >>> x = gpuprop.tensor([2.0], requires_grad=True)
    >>> cube(x).sum().backward()
    >>> x.grad
    array([12.], dtype=float32)
    """
    if fn is None:
        return functools.partial(op, precision=precision, promote=promote, half=half, name=name)
    half = "exact" if precision == "low" else half
    return _make_op(Spec(fn, label=name), precision, promote, half)


def _make_op(spec: Spec, precision: str | None = None, promote: bool = False,
             half: str | None = None) -> Any:
    choose, chosen = spec.choose, spec.chosen
    spec.is_op = True
    computes = half is None

    def record(args: tuple, constants: dict) -> Any:
        arrays, edges, wanted = [], [], 0
        owner = None  # the type of the first array
        has_tensors, has_numbers, is_simple, is_narrow = False, False, True, False
        for a in args:
            edge = None
            if isinstance(a, Tensor):
                has_tensors = True
                if a.requires_grad:
                    edge = a.node or a
                    wanted += 1
                a = a.data
            arrays.append(a)
            edges.append(edge)
            kind = type(a)
            if kind is not owner:
                if owner is None and kind in BY_TYPE:
                    owner = kind
                else:
                    if kind not in NUMBERS:
                        is_simple = False
                    elif a is not None:
                        has_numbers = True
                    continue
            if computes and a.itemsize == 2:
                is_narrow = True
        mode = current.get()
        if mode.low is not None and precision and has_tensors:
            cast = autocast_arguments(args, precision, mode.low)
            if cast is not None:
                with Switch(low=None):
                    return record(cast, constants)
        if not is_simple or owner is None:
            arrays, edges, wanted, owner = resolve(spec, args)
            is_narrow = True  # perhaps
        if promote:
            *_, x, y = arrays
            if type(x) is type(y) and type(x) not in NUMBERS and x.dtype is not y.dtype:
                arrays = promoted(arrays)
        found = None if mode.generic or mode.inspect else chosen.get(owner)
        backend, run = found or choose(owner, mode)
        if is_narrow or (has_numbers and not computes):
            arrays, run = for_half_types(half, arrays, run)
        made = run(backend.xp, *arrays, **constants)
        if type(made) is not tuple:
            raise _wrong_result(spec, made)
        out, pullback = made
        if type(out) is tuple:
            if wanted and type(pullback) is tuple:
                edges, pullback = _only_wanted(spec, edges, pullback)
            recording = wanted and mode.recording
            return _several(spec, out, pullback, edges, backend, recording, has_tensors)
        if type(out) is not backend.array_type:
            if isinstance(out, list | tuple):
                raise _wrong_result(spec, out)
            out = backend.own(out)
        if wanted and mode.recording and pullback is not None:
            if type(pullback) is tuple and not wanted == len(edges) == len(pullback):
                edges, pullback = _only_wanted(spec, edges, pullback)
            return _recorded(out, Node(spec, edges, pullback, out.shape, out.dtype))
        return Tensor(out) if has_tensors else out

    call = public_function(spec.fn, spec.parameters, record)

    def faster(version: Callable) -> Callable:
        """Use a portable faster version of the body; it may write into arrays that it made."""
        spec.add_portable(version)
        return version

    call.fn, call.faster, call.spec = spec.fn, faster, spec
    return call


def kernel(fn: Callable[Concatenate[Any, P], Any]) -> Kernel[P]:
    """Make a kernel of ``fn(xp, a: Array, n)``: it takes Tensors too, and records nothing.

    The body may write into its arguments.
    """
    spec = Spec(fn)

    def run_now(args: tuple, constants: dict) -> Any:
        arrays = [raw(a) for a in args]
        owner = next((type(a) for a in arrays if type(a) in BY_TYPE), None)
        if owner is None:
            owner = resolve(spec, tuple(arrays)).owner
        mode = current.get()
        found = None if mode.generic else spec.chosen.get(owner)
        backend, run = found or spec.choose(owner, mode)
        return run(backend.xp, *arrays, **constants)

    call = public_function(fn, spec.parameters, run_now)
    call.fn, call.spec = fn, spec
    return call


def linear_op(adjoint: Callable) -> Callable[[Callable[Concatenate[Any, P], Any]], LinearOp[P]]:
    """Make an op of ``fn(xp, x, *arrays, **constants) -> out``, linear in `x`, and its adjoint.

    ``adjoint(xp, d, shape_of_x, *arrays, **constants)`` is the gradient.  It is for what NumPy only
    does by writing into an array: the body may do that, since nobody differentiates it; its
    derivative is itself, and its adjoint another such op.  Other bodies call it as ``name.on(xp, x,
    ...)``.
    """

    def decorate(fn: Callable) -> Any:
        spec = Spec(fn)
        if not spec.arrays_first:
            raise TypeError(f"{spec.name}: a linear_op takes its arrays first, then its constants")

        def on(xp: Any, x: Any, *arrays: Any, **constants: Any) -> Any:
            if isinstance(xp, Differentiable):
                return call(x, *arrays, **constants)
            if isinstance(x, np.generic):  # NumPy's operators make scalars of 0-d arrays
                x = np.asarray(x)
            return spec.version_for(BY_TYPE[type(x)])(xp, x, *arrays, **constants)

        @functools.wraps(fn)
        def body(xp: Any, x: Any, *arrays: Any, **constants: Any) -> Any:
            shape = x.shape
            pullback = lambda d: adjoint(xp, d, shape, *arrays, **constants)
            return on(xp, x, *arrays, **constants), (pullback, *(None for _ in arrays))

        call = _make_op(Spec(body, registered=False), half="exact")
        call.fn, call.on, call.spec = fn, on, spec
        return call

    return decorate


def called_as(signature: Callable[P, Any]) -> Callable[[Any], Op[P]]:
    """Tell type checkers that an op is called with the parameters of `signature`.

    For variadic ops: the body has ``*arrays``, and the public function takes one sequence.
    """
    return lambda op: op


# ---- what is recorded ----------------------------------------------------------------------------


def _recorded(out: Any, node: Node) -> Tensor:
    """``Tensor(out, True, node)``, without the checks that only a user's array needs."""
    t = object.__new__(Tensor)
    t.data, t.node, t.requires_grad = out, node, True
    t.grad = t.hooks = None
    return t


def _wrong_result(spec: Spec, made: Any) -> TypeError:
    return TypeError(
        f"{spec.fn.__qualname__}: the body of an op must return (output, pullbacks), where several "
        f"outputs are a tuple, and it returned a {type(made).__name__}: write `return out, None` "
        f"if no gradient passes")


def _only_wanted(spec: Spec, edges: list, pullback: tuple) -> tuple[list, tuple]:
    """The edges that want a gradient and their pullbacks: others would keep arrays alive."""
    if len(edges) != len(pullback):
        raise TypeError(
            f"{spec.fn.__qualname__}: the body returned {len(pullback)} pullbacks for "
            f"{len(edges)} arrays: return one for each array parameter, in order, and None where "
            f"no gradient passes")
    wanted, pullbacks = [], []
    for edge, f in zip(edges, pullback):  # noqa: B905 (equally long; `strict` costs 50 % more)
        if edge is not None:
            wanted.append(edge)
            pullbacks.append(f)
    return wanted, tuple(pullbacks)


def _several(spec: Spec, outs: tuple, pullback: Any, edges: list, backend: Any, recording: Any,
             has_tensors: bool) -> tuple:
    """Several outputs: each has a node that hands its gradient to the op's own node."""
    outs = tuple(o if type(o) is backend.array_type else backend.own(o) for o in outs)
    if not recording or pullback is None:
        return tuple(map(Tensor, outs)) if has_tensors else outs
    kinds = [(o.shape, o.dtype) if is_float(o.dtype) else None for o in outs]

    def pull(grads: list) -> Any:
        filled = tuple(backend.xp.zeros(*kind) if g is None and kind is not None else g
                       for g, kind in zip(grads, kinds, strict=True))  # zeros for unused outputs
        if callable(pullback):
            return pullback(filled)
        return tuple(f and f(filled) for f in pullback)

    main = Node(spec, edges, pull)

    def keep(i: int) -> Callable:
        def pull_one(g: Any) -> tuple:
            main.grad = main.grad or [None] * len(outs)
            main.grad[i] = g
            return (None,)

        return pull_one

    return tuple(Tensor(o, True, Node(spec, (main,), keep(i), *kind)) if kind else Tensor(o)
                 for i, (o, kind) in enumerate(zip(outs, kinds, strict=True)))

"""`op`, `kernel` and `linear_op`: they make public functions of bodies that compute on arrays.

The body of an op, ``fn(xp, x, ...) -> (out, pullbacks)``, returns its output and the functions that
compute the gradients of its inputs.  A call with Tensors is recorded for backward; a call with
plain arrays returns plain arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, overload

import numpy as np

from gpuprop._core.arguments import (
    NUMBERS,
    are_integers,
    autocast_arguments,
    for_half_types,
    in_float64,
    promoted,
    refuse_tensors,
    resolve,
)
from gpuprop._core.backend import BY_TYPE
from gpuprop._core.dialects import dialects, finished
from gpuprop._core.dtypes import FLOATING, NATIVE, is_float
from gpuprop._core.failures import as_arrays, none_error, raise_clearer
from gpuprop._core.graph import Node, raw
from gpuprop._core.mode import Switch, current
from gpuprop._core.namespace import Differentiable
from gpuprop._core.options import check_guarded, option_guards
from gpuprop._core.signature import (
    module_of,
    public_function,
    takes_pytorch_names,
    unwrapped,
)
from gpuprop._core.spec import Spec, definitions
from gpuprop._core.tensor import Parameter, Tensor

__all__ = ["Kernel", "LinearOp", "Op", "Spec", "cache_last", "called_as", "definitions",
           "kernel", "linear_op", "op"]

P = ParamSpec("P")
TENSORS = frozenset((Tensor, Parameter))
PRECISIONS = None, "low", "full", "widest"
HALF_RULES = None, "exact", "rounded"
INTEGER_RULES = None, "float64"


class Kernel(Protocol[P]):
    """A function that `kernel` made of a body: it has the body's parameters except `xp`."""

    fn: Callable
    spec: Spec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any: ...


class Op(Kernel[P], Protocol[P]):
    """A function that `op` made of a body: it has the body's parameters except `xp`."""

    def faster(self, version: Callable) -> Callable: ...


class LinearOp(Op[P], Protocol[P]):
    """A function that `linear_op` made of a body."""

    def on(self, xp: Any, *args: P.args, **kwargs: P.kwargs) -> Any: ...


@overload
def op(fn: Callable[Concatenate[Any, P], Any]) -> Op[P]: ...
@overload
def op(*, precision: str | None = None, promote: bool | str = False, half: str | None = None,
       integers: str | None = None, name: str | None = None,
       ) -> Callable[[Callable[Concatenate[Any, P], Any]], Op[P]]: ...
def op(fn: Any = None, *, precision: str | None = None, promote: bool | str = False,
       half: str | None = None, integers: str | None = None, name: str | None = None) -> Any:
    """Make an op of ``fn(xp, x: Array, n, w: Array = None) -> (out, pullbacks)``.

    Parameters annotated `Array` are arrays; the others are constants.  The public function has the
    body's signature without `xp`.  `pullbacks` is a tuple with one function for each array, which
    takes the gradient of the output and runs only if the gradient of that array is wanted; or one
    function that returns the gradients of all arrays; or None if the output has no gradient.  The
    body returns several outputs as a tuple; its pullbacks then take a tuple of gradients.

    `precision` is the dtype of the computation inside autocast: "low" (autocast's dtype), "full"
    (float32) or "widest" (autocast's dtype if all floating arguments have it, else float32).
    `promote` says which arrays are operands of one expression: all (True), or those of these names,
    as in ``promote="x y"``.  If one of them is floating, integer and bool operands are cast to its
    dtype, so that they never widen it.  `name` is the name for messages if it
    differs from the body's name; "{n}" in it becomes the number of spatial dimensions of the
    output.

    By default an op computes half types (float16, bfloat16) in float32: the engine casts the
    arguments and rounds each result once.  `half` declares that the body accepts half types:

    - "exact": it moves, chooses or compares elements, or each result is one matrix product or one
      pointwise body.  Python floats are rounded to the half type.  ``precision="low"`` implies
      "exact".
    - "rounded": each result is one NumPy operation on arrays.  If an argument is a Python number,
      which must not be rounded, the op is computed in float32.

    ``integers="float64"`` declares that the results are no integers: if all arrays are integers or
    bools, they are cast to float64.  Otherwise the body decides: NumPy would compute the sine of
    int8 in float16.

    >>> @gpuprop.op
    ... def cube(xp, x: gpuprop.Array):
    ...     return x**3, (lambda dy: 3 * x**2 * dy,)
    >>> x = gpuprop.tensor([2.0], requires_grad=True)
    >>> cube(x).sum().backward()
    >>> x.grad
    array([12.], dtype=float32)
    """
    if fn is None:
        return functools.partial(op, precision=precision, promote=promote, half=half,
                                 integers=integers, name=name)
    if half not in HALF_RULES or integers not in INTEGER_RULES:
        raise ValueError(f"op(half={half!r}, integers={integers!r}): expected half of "
                         f"{HALF_RULES} and integers of {INTEGER_RULES}")
    half = "exact" if precision == "low" else half
    of_integers = None if integers is None else lambda arrays, constants: in_float64(arrays)
    return _in_both_words(make_op(Spec(fn, label=name), precision, promote, half, of_integers))


def make_op(spec: Spec, precision: str | None = None, promote: bool | str = False,
            half: str | None = None, of_integers: Callable | None = None) -> Any:
    """The public function of an op; the arguments are those of `op`.

    ``of_integers(arrays, constants)`` returns the arrays to compute with if all of them are
    integers or bools.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"op(precision={precision!r}): expected a precision of {PRECISIONS}")
    if promote and len(spec.arrays) < 2 and not spec.variadic:
        raise TypeError(f"{spec.name}: promote={promote!r} needs two arrays")
    choose = spec.choose
    chosen = spec.chosen
    spec.is_op = True
    spec.precision = precision
    spec.half = half
    spec.promotes = bool(promote)
    spec.of_integers = of_integers
    widens = half is None
    names = [p.name for p in spec.arrays]
    operands = [*map(names.index, names if promote is True else (promote or "").split())]
    promotes_last_two = operands == [len(names) - 2, len(names) - 1]
    simple_dtypes = NATIVE if of_integers is None else FLOATING
    if not spec.is_users:
        spec.guards = option_guards(unwrapped(spec.fn).__annotations__)
    constants = [p for p in spec.parameters if not p.is_array]
    if any([isinstance(p.default, Tensor) for p in constants]):
        refuse_tensors(spec.fn, spec.label(None), {p.name: p.default for p in constants})

    # The path of every call: one loop over the arguments, and no function calls that it can avoid.
    def record(args: tuple, constants: dict, needs_check: bool) -> Any:
        arrays = []
        edges = []  # the node or leaf that receives the gradient of each array, or None
        wanted = 0  # the number of edges that are not None
        owner = None  # the type of the first array
        has_tensors = has_numbers = False
        is_simple = True  # only numbers and arrays of one type, inside at most one Tensor each
        may_have_half = False
        for a in args:
            edge = None
            if isinstance(a, Tensor):
                has_tensors = True
                if a.requires_grad:
                    edge = a.node or a
                    wanted += 1
                a = a.array
            arrays.append(a)
            edges.append(edge)
            kind = type(a)
            if kind is not owner:
                if owner is None and kind in BY_TYPE:
                    owner = kind
                else:
                    if kind not in NUMBERS:
                        is_simple = False
                    elif a is None:
                        if spec.variadic or len(arrays) <= spec.n_required:
                            check_required(spec, args)
                    else:
                        has_numbers = True
                    continue
            if widens and a.itemsize == 2:
                may_have_half = True
            if edge is None and id(a.dtype) not in simple_dtypes:  # Tensors have native dtypes
                is_simple = False
        mode = current.get()
        if mode.low is not None and precision and has_tensors:
            cast_args = autocast_arguments(args, precision, mode.low)
            if cast_args is not None:
                with Switch(low=None):
                    return record(cast_args, constants, needs_check)
        if not is_simple or owner is None:
            arrays, edges, wanted, owner = resolve(spec, args)
            may_have_half = True
            if spec.of_integers is not None and are_integers(arrays):
                arrays = spec.of_integers(arrays, constants)
        if promotes_last_two:
            *_, x, y = arrays
            if type(x) is type(y) and type(x) not in NUMBERS and x.dtype is not y.dtype:
                arrays = promoted(arrays, operands)
        elif operands:
            arrays = promoted(arrays, None if spec.variadic else operands)
        if needs_check:  # a constant may be a Tensor, or a number of a type or value not allowed
            if not TENSORS.isdisjoint(map(type, constants.values())):
                refuse_tensors(spec.fn, spec.label(None), constants)
            check_guarded(spec.label(None), spec.guards, constants)
        found = None if mode.generic or mode.inspect or mode.recorded_in else chosen.get(owner)
        backend, run = found or choose(owner, mode)
        if may_have_half or (has_numbers and not widens):
            arrays, run = for_half_types(half, arrays, run)
        try:
            result = run(backend.xp, *arrays, **constants)
        except Exception as error:
            given = spec.arguments(args) | constants
            raise_clearer(error, spec.label(None), call, given, spec.is_users)
            raise
        if type(result) is not tuple:
            raise _wrong_result(spec, result)
        out, pullback = result
        if type(out) is tuple:
            inputs = edges
            if wanted and type(pullback) is tuple:
                edges, pullback = _only_wanted(spec, edges, pullback)
            recording = wanted and mode.recording
            result = record_outputs(spec, out, pullback, edges, backend, recording, has_tensors)
            return finished(result, args, spec, inputs, arrays, constants) if dialects else result
        if type(out) is not backend.array_type:
            if isinstance(out, list | tuple):
                raise _wrong_result(spec, out)
            out = backend.own(out)
        if wanted and mode.recording and pullback is not None:
            inputs = edges
            if type(pullback) is not tuple:
                if not callable(pullback):
                    raise _wrong_result(spec, pullback)
            elif not wanted == len(edges) == len(pullback):
                edges, pullback = _only_wanted(spec, edges, pullback)
            t = recorded(out, Node(spec, edges, pullback, out.shape, out.dtype))
            return finished(t, args, spec, inputs, arrays, constants) if dialects else t
        if not has_tensors:
            return out
        t = _unrecorded(out)
        return finished(t, args, spec, edges, arrays, constants) if dialects else t

    unchecked = {name: unchecked for name, unchecked, _ in spec.guards}
    call = public_function(spec.fn, spec.parameters, record, _checks_of_sequences(spec), unchecked)
    call.fn, call.faster, call.spec = spec.fn, spec.faster, spec
    return call


def kernel(fn: Callable[Concatenate[Any, P], Any]) -> Kernel[P]:
    """Make a kernel of ``fn(xp, a: Array, n)``: it has no gradient and may write into its arrays.

    The public function has the body's signature without `xp`.  It takes Tensors too: the body gets
    their arrays.  The result is returned as it is.  Unlike a write to a Tensor, a write of a kernel
    to an array that an op has read is not noticed by backward: such an op must read a copy.
    """
    spec = Spec(fn)

    def run_now(args: tuple, constants: dict) -> Any:
        arrays = [raw(a) for a in args]
        owners = {type(a) for a in arrays if type(a) in BY_TYPE}
        if len(owners) == 1:
            owner = owners.pop()
        else:
            arrays, *_, owner = resolve(spec, tuple(arrays))
        mode = current.get()
        found = None if mode.generic or mode.recorded_in else spec.chosen.get(owner)
        backend, run = found or spec.choose(owner, mode)
        return run(backend.xp, *arrays, **constants)

    call = public_function(fn, spec.parameters, run_now, _checks_of_sequences(spec))
    call.fn, call.spec = fn, spec
    return _in_both_words(call)


def _in_both_words(call: Any) -> Any:
    """A public function of the library also takes PyTorch's keywords for axes."""
    return takes_pytorch_names(call) if module_of(call.fn).startswith("gpuprop.") else call


def linear_op(adjoint: Callable) -> Callable[[Callable[Concatenate[Any, P], Any]], LinearOp[P]]:
    """Make an op of ``fn(xp, x, *arrays, **constants) -> out``, linear in `x`, and its adjoint.

    ``adjoint(xp, dy, shape_of_x, *arrays, **constants)`` returns the gradient of `x`; `dy` is the
    gradient of the output.  The body may write into arrays, as ``y[key] = x`` for example, because
    it is not differentiated: the op is linear, so `adjoint` alone gives its gradient.  `adjoint`
    consists of ops, which are differentiated in turn.  Other bodies call the op as
    ``name.on(xp, x, ...)``.
    """

    def decorate(fn: Callable) -> Any:
        spec = Spec(fn)
        if not spec.arrays_first:
            raise TypeError(f"{spec.name}: the parameters of a linear_op must be first its arrays, "
                            f"then its constants")

        def on(xp: Any, x: Any, *arrays: Any, **constants: Any) -> Any:
            if isinstance(xp, Differentiable):
                return call(x, *arrays, **constants)
            if isinstance(x, np.generic):  # NumPy's operators make scalars of 0-d arrays
                x = np.asarray(x)
            return spec.version_for(BY_TYPE[type(x)])(xp, x, *arrays, **constants)

        @functools.wraps(fn)
        def body(xp: Any, x: Any, *arrays: Any, **constants: Any) -> Any:
            shape = x.shape
            pullback = lambda dy: adjoint(xp, dy, shape, *arrays, **constants)
            return on(xp, x, *arrays, **constants), (pullback, *(None for _ in arrays))

        call = make_op(Spec(body, registered=False), half="exact")
        call.fn, call.on, call.spec = fn, on, spec
        return call

    return decorate


def cache_last(f: Callable) -> Callable:
    """`f` with a cache of its last result, found by the identity of the argument.

    For pullbacks of several inputs that share work: each calls ``f(dy)``, and `f` runs once.
    """
    last: list = [None, None]

    def call(d: Any) -> Any:
        if last[0] is not d:
            last[:] = d, f(d)
        return last[1]

    return call


def called_as(signature: Callable[P, Any]) -> Callable[[Any], Op[P]]:
    """Tell type checkers that an op has the parameters of `signature`.

    For variadic ops: the body has ``*arrays``, but the public function takes one sequence.
    """
    return lambda op: op


# ---- recording -----------------------------------------------------------------------------------


def recorded(out: Any, node: Node) -> Tensor:
    """``Tensor(out, True, node)`` without the checks of `Tensor.__init__`."""
    t = object.__new__(Tensor)
    t.array, t.node, t.requires_grad = out, node, True
    t.gradient = t.hooks = None
    return t


def _unrecorded(out: Any) -> Tensor:
    """``Tensor(out)`` without the checks of `Tensor.__init__`."""
    t = object.__new__(Tensor)
    t.array, t.requires_grad = out, False
    t.node = t.gradient = t.hooks = None
    return t


def _checks_of_sequences(spec: Spec) -> dict[str, Callable]:
    """The check of the sequence of arrays that a variadic op takes, by its name."""
    if not spec.variadic:
        return {}
    caller = f"{spec.label(None)}()"
    return {p.name: functools.partial(as_arrays, caller, p.name)
            for p in spec.arrays if p.variadic}


def check_required(spec: Spec, args: tuple) -> None:
    """Raise TypeError if an array that must be given is None."""
    for i in range(len(args)) if spec.variadic and spec.required else spec.required:
        if args[i] is None:
            raise none_error(f"{spec.label(None)}()", spec.argument_name(i))


def _wrong_result(spec: Spec, result: Any) -> TypeError:
    return TypeError(
        f"{spec.fn.__qualname__}: the body of an op must return (output, pullbacks), where several "
        f"outputs are a tuple, but it returned a {type(result).__name__}: write `return out, None` "
        f"if the output has no gradient")


def _only_wanted(spec: Spec, edges: list, pullback: tuple) -> tuple[list, tuple]:
    """The edges that want a gradient, and their pullbacks: the others would keep arrays alive."""
    if len(edges) != len(pullback):
        raise TypeError(
            f"{spec.fn.__qualname__}: the body returned {len(pullback)} pullbacks for "
            f"{len(edges)} arrays: return one for each array parameter, in order, and None for an "
            f"array without gradient")
    wanted = []
    pullbacks = []
    for edge, f in zip(edges, pullback):  # noqa: B905 (equally long; `strict` costs 50 % more)
        if edge is not None:
            wanted.append(edge)
            pullbacks.append(f)
    return wanted, tuple(pullbacks)


def record_outputs(spec: Spec, outs: tuple, pullback: Any, edges: list, backend: Any,
                     recording: Any, has_tensors: bool, fills: bool = True) -> tuple:
    """The Tensors of several outputs.

    The op has one node, whose gradient is a list with one item per output.  Each floating output
    has a node of its own, which puts its gradient into that list.  The pullback gets zeros for
    unused outputs, or None if not `fills`.
    """
    outs = tuple(o if type(o) is backend.array_type else backend.own(o) for o in outs)
    if not recording or pullback is None:
        return tuple(map(Tensor, outs)) if has_tensors else outs
    # None for outputs that cannot have a gradient
    shapes_and_dtypes = [(o.shape, o.dtype) if is_float(o.dtype) else None for o in outs]

    def pull(grads: list) -> Any:
        filled = []
        for g, shape_and_dtype in zip(grads, shapes_and_dtypes, strict=True):
            if g is None and shape_and_dtype is not None and fills:  # an unused output
                g = backend.xp.zeros(*shape_and_dtype)
            filled.append(g)
        given = tuple(filled)
        if callable(pullback):
            return pullback(given)
        return tuple(f and f(given) for f in pullback)

    op_node = Node(spec, edges, pull)

    def store_gradient(i: int) -> Callable:
        def store(g: Any) -> tuple:
            op_node.grad = op_node.grad or [None] * len(outs)
            op_node.grad[i] = g
            return (None,)

        return store

    tensors = []
    for i, (out, shape_and_dtype) in enumerate(zip(outs, shapes_and_dtypes, strict=True)):
        if shape_and_dtype is None:
            tensors.append(Tensor(out))
        else:
            node = Node(spec, (op_node,), store_gradient(i), *shape_and_dtype)
            tensors.append(Tensor(out, True, node))
    return tuple(tensors)

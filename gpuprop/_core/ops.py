"""What an op is: a function on arrays that returns its output and how to pull a gradient back.

``fn(xp, x, ...) -> (out, pullbacks)``, called with Tensors, is recorded; with plain arrays it is a plain function.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, overload

import numpy as np

from gpuprop._core.backend import BY_TYPE, SEVERAL, Backend, BackendMismatchError
from gpuprop._core.dtypes import HALF, is_float, widened
from gpuprop._core.graph import Node, level, raw
from gpuprop._core.mode import Switch, current
from gpuprop._core.namespace import Differentiable
from gpuprop._core.placement import on_device_of, on_device_of_arguments
from gpuprop._core.registry import HOST, backend_of, checks, default_backend, get_backend
from gpuprop._core.signature import Array, parameters, public_function, public_module, text_of
from gpuprop._core.tensor import Tensor

__all__ = ["Array", "Kernel", "LinearOp", "Op", "Spec", "kernel", "linear_op", "op"]

P = ParamSpec("P")
definitions: dict[str, Callable] = {}  # the body of every op and kernel by its name: what overrides are overrides of
PLAIN = {int, float, bool, type(None)}
_choices: list[dict] = []  # every op's choice of version by array type, to be forgotten when versions change


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
def op(*, precision: str | None = None, promote: bool = False, half: str | None = None, name: str | None = None,
       ) -> Callable[[Callable[Concatenate[Any, P], Any]], Op[P]]: ...
def op(fn: Any = None, *, precision: str | None = None, promote: bool = False, half: str | None = None,
       name: str | None = None) -> Any:
    """Lift ``fn(xp, x: Array, n, w: Array = None) -> (out, pullbacks)`` to Tensors.

    Parameters annotated `Array` are arrays, the others constants; the public call has this signature without `xp`.
    `pullbacks` is a tuple of one function of the output's gradient an array, each run only if that gradient is wanted,
    or one function that returns them all; None says that no gradient passes.  Several outputs are a tuple.
    `precision` says what autocast does: "low", "full" (float32) or "widest" of the inputs.  With `promote`, integer
    operands take the floating dtype of the others, and never widen it.

    Half types (float16, bfloat16) are computed in float32: the engine casts what the body is given and rounds what it
    returns, once.  `half` says that the body needs no help: "exact", it moves, chooses or compares elements, or makes
    each result by one matrix product or one pointwise body, and numbers beside it take the half type (of products,
    `precision` "low", that is understood); "rounded", it makes each result by one operation on arrays, but beside a
    number, which would be rounded too, it is computed in float32 after all.
    """
    if fn is None:
        return functools.partial(op, precision=precision, promote=promote, half=half, name=name)
    return _lift(Spec(fn, label=name), precision, promote, "exact" if precision == "low" else half)


def _lift(spec: Spec, precision: str | None = None, promote: bool = False, half: str | None = None) -> Any:
    choose, chosen, spec.lifted, spec.precision = spec.choose, spec.chosen, True, precision
    computes = half is None

    def record(args: tuple, constants: dict) -> Any:
        arrays, edges = [], []
        wanted, owner, tensors, simple, numbers, narrow = 0, None, False, True, False, False
        for a in args:
            edge = None
            if isinstance(a, Tensor):
                tensors = True
                if a.requires_grad:
                    edge = a.node or a
                    wanted += 1
                a = a.data
            arrays.append(a)
            edges.append(edge)
            kind = type(a)
            if kind is not owner:
                if owner is None and kind in BY_TYPE:
                    owner = kind  # the first array's type decides
                else:
                    if kind not in PLAIN:
                        simple = False
                    elif a is not None:
                        numbers = True
                    continue
            if computes and a.itemsize == 2:
                narrow = True
        mode = current.get()
        if mode.low is not None and precision and tensors:
            cast = _autocast(args, precision, mode.low)
            if cast is not None:
                with Switch(low=None):
                    return record(cast, constants)
        if not simple or owner is None:
            arrays, edges, wanted, owner = _resolve(spec, args)
            narrow = True  # perhaps
        if promote:
            *_, x, y = arrays
            if type(x) is type(y) and type(x) not in PLAIN and x.dtype is not y.dtype:
                arrays = _promote(arrays)
        backend, run = (None if mode.generic or mode.inspect else chosen.get(owner)) or choose(owner, mode)
        if narrow or (numbers and not computes):
            arrays, run = _of_half(half, arrays, run)
        made = run(backend.xp, *arrays, **constants)
        if type(made) is not tuple:
            raise TypeError(f"{spec.fn.__qualname__}: the body of an op must return (output, pullbacks), and returned "
                            f"{type(made).__name__}: return out, None where no gradient passes")
        out, pullback = made
        if type(out) is tuple:
            if wanted and type(pullback) is tuple:
                edges, pullback = _wanted(spec, edges, pullback)
            return _several(spec, out, pullback, edges, backend, wanted and mode.recording, tensors)
        if type(out) is not backend.array_type:
            if isinstance(out, list | tuple):
                raise TypeError(f"{spec.fn.__qualname__}: several outputs are a plain tuple, "
                                f"not a {type(out).__name__}")
            out = backend.own(out)
        if wanted and mode.recording and pullback is not None:
            if type(pullback) is tuple and not wanted == len(edges) == len(pullback):
                edges, pullback = _wanted(spec, edges, pullback)
            return _recorded(out, Node(spec, edges, pullback, out.shape, out.dtype))
        return Tensor(out) if tensors else out

    call = public_function(spec.fn, spec.parameters, record)

    def faster(version: Callable) -> Callable:
        """A portable faster version of the same contract; it may write into arrays it made."""
        spec.check(version)
        spec.portable = version
        forget_choices()
        return version

    call.fn, call.faster, call.spec = spec.fn, faster, spec
    return call


def kernel(fn: Callable[Concatenate[Any, P], Any]) -> Kernel[P]:
    """Lift ``fn(xp, a: Array, n)`` to a call without `xp` that unwraps Tensors and records nothing.

    The body may write into its arguments.
    """
    spec = Spec(fn)

    def run_now(args: tuple, constants: dict) -> Any:
        arrays = [raw(a) for a in args]
        owner = next((type(a) for a in arrays if type(a) in BY_TYPE), None)
        if owner is None:
            owner = _resolve(spec, tuple(arrays))[3]
        mode = current.get()
        backend, run = (None if mode.generic else spec.chosen.get(owner)) or spec.choose(owner, mode)
        return run(backend.xp, *arrays, **constants)

    call = public_function(fn, spec.parameters, run_now)
    call.fn, call.spec = fn, spec
    return call


def linear_op(adjoint: Callable) -> Callable[[Callable[Concatenate[Any, P], Any]], LinearOp[P]]:
    """Lift ``fn(xp, x, *arrays, **constants) -> out``, linear in `x`, with ``adjoint(xp, d, shape_of_x, ...)``.

    For what NumPy's names say only by writing into an array: the body may, since nobody differentiates it; its
    derivative is itself, and its adjoint is another op.  Other bodies call it as ``name.on(xp, x, ...)``.
    """

    def decorate(fn: Callable) -> Any:
        spec = Spec(fn)
        if not spec.leading:
            raise TypeError(f"{spec.name}: a linear_op takes its arrays first, then its constants")

        def on(xp: Any, x: Any, *arrays: Any, **constants: Any) -> Any:
            if isinstance(xp, Differentiable):
                return call(x, *arrays, **constants)
            if isinstance(x, np.generic):  # NumPy's operators make scalars of 0-d arrays
                x = np.asarray(x)
            return spec.version(type(x))(xp, x, *arrays, **constants)

        @functools.wraps(fn)
        def body(xp: Any, x: Any, *arrays: Any, **constants: Any) -> Any:
            shape = x.shape
            return on(xp, x, *arrays, **constants), (
                lambda d: adjoint(xp, d, shape, *arrays, **constants), *(None for _ in arrays))

        call = _lift(Spec(body, registered=False), half="exact")
        call.fn, call.on, call.spec = fn, on, spec
        return call

    return decorate


class Spec:
    """What an op's or kernel's signature says, its versions, and the choice among them."""

    def __init__(self, fn: Callable, registered: bool = True, label: str | None = None) -> None:
        self.fn = fn
        self.portable: Callable | None = None
        self.name = f"{public_module(fn.__module__)}:{fn.__qualname__}"
        self._label = label or fn.__name__
        self.parameters = parameters(fn)
        self.arrays = [p for p in self.parameters if p.is_array]
        if not self.arrays:
            raise TypeError(f"{self.name}: annotate the parameters that are arrays with gpuprop.Array")
        self.variadic = self.arrays[0].variadic
        self.leading = self.variadic or self.parameters[: len(self.arrays)] == self.arrays
        self.chosen: dict[type, tuple[Any, Callable]] = {}  # outside generic()
        self.lifted = False  # an op, not a kernel
        self.precision: str | None = None
        _choices.append(self.chosen)
        if registered:
            definitions[self.name] = fn
        else:
            self.name = ""  # no override is looked up: the body chooses among its own versions

    def label(self, shape: tuple | None) -> str:
        """The name of the op for messages; "{n}" in it is the number of spatial dimensions of the output's shape."""
        return self._label.format(n="n" if shape is None else len(shape) - 2)

    def check(self, version: Callable) -> None:
        """A version must have the definition's parameters, by name, order and default."""
        own, other = ([(p.name, repr(p.default)) for p in of] for of in (self.parameters, parameters(version)))
        if own != other:
            raise TypeError(f"{self.name}: a faster version must have the parameters {text_of(self.fn)}, "
                            f"not {text_of(version)}")

    def choose(self, owner: type, mode: Any) -> tuple[Any, Callable]:
        """The backend of `owner` and what runs on it: its override, the portable version or the definition."""
        if isinstance(owner, Differentiable):
            return owner, self._by_position(self.fn)
        backend = BY_TYPE[owner]
        faster = None if mode.generic else backend.kernels.get(self.name) or self.portable
        run = self._by_position(faster or self.fn)
        inspected = mode.inspect is not None and self.lifted
        if inspected:
            run = mode.inspect(self, backend, run)
        if backend in SEVERAL:
            run = _where_arrays_are(self, backend, run)
        if not mode.generic and not inspected:
            self.chosen[owner] = backend, run
        return backend, run

    def version(self, owner: type) -> Callable:
        """What runs on arrays of this type, for the bodies of other ops."""
        kernels = BY_TYPE[owner].kernels
        return self.fn if current.get().generic else kernels.get(self.name) or self.portable or self.fn

    def _by_position(self, run: Callable) -> Callable:
        """`run` with its arrays first, where the signature has constants among them."""
        if self.leading:
            return run
        names = [p.name for p in self.arrays]
        return lambda xp, *arrays, **constants: run(xp, **dict(zip(names, arrays, strict=True)), **constants)


def definition(name: str) -> Callable:
    """The body of an op or kernel by its name, such as "gpuprop.functional:gelu", for overrides that fall back on it."""
    return definitions[name]


def check_overrides(name: str, backend: Backend) -> None:
    """Refuse a backend whose `kernels` name ops that do not exist, or have other parameters than these."""
    for key, override in backend.kernels.items():
        with contextlib.suppress(ImportError):
            importlib.import_module(key.partition(":")[0])  # where the op is defined
        if key not in definitions:
            raise TypeError(f"backend {name!r} overrides {key!r}, which is no op or kernel")
        expected, given = ([p.name for p in parameters(f)] for f in (definitions[key], override))
        if expected != given:
            raise TypeError(f"backend {name!r}: the override of {key!r} has the parameters (xp, {', '.join(given)}), "
                            f"and must have (xp, {', '.join(expected)})")


checks.append(check_overrides)


def forget_choices() -> None:
    """Choose versions anew at the next calls: a backend's `kernels` or a portable version changed."""
    for chosen in _choices:
        chosen.clear()


def _where_arrays_are(spec: Spec, backend: Backend, run: Callable) -> Callable:
    """`run` on the device on which its arrays lie, whichever is the current one."""

    def go(xp: Any, *arrays: Any, **constants: Any) -> Any:
        own = [i for i, a in enumerate(arrays) if type(a) is backend.array_type]
        first = own[0]
        other = next((i for i in own if backend.device_of(arrays[i]) != backend.device_of(arrays[first])), None)
        if other is not None:
            one, two = (f"{backend.name}:{backend.device_of(arrays[i])}" for i in (first, other))
            raise BackendMismatchError(
                f"{spec.fn.__name__}(): {_argument(spec, first)!r} is on {one!r} and {_argument(spec, other)!r} on "
                f"{two!r}: bring them together, for example by {_argument(spec, other)}.to({one!r})")
        with backend.at(arrays[first]):
            return run(xp, *arrays, **constants)

    return go


# ---- half types -----------------------------------------------------------------------------------------------------

def _of_half(half: str | None, arrays: list, run: Callable) -> tuple[list, Callable]:
    """The arguments and the body of an op as they are for half types, if there are any among the arrays."""
    dtype = next((a.dtype for a in arrays if type(a) not in PLAIN and a.dtype.char in HALF), None)
    if dtype is None:
        return arrays, run
    numbers = any(type(a) in (int, float) for a in arrays)
    if half is None or (half == "rounded" and numbers):
        return arrays, in_float32(run)
    if numbers:  # CuPy compares them in float32
        arrays = [float(np.asarray(a).astype(dtype)) if type(a) is float else a for a in arrays]
    return arrays, run


def in_float32(run: Callable) -> Callable:
    """An op's body with its half types computed in float32: its results are rounded once, its gradients by the engine.

    A result is rounded where all floating arrays given were of one half type: beside float32, or of float16 and
    bfloat16, NumPy's rules of promotion give float32.
    """

    def compute(xp: Any, *arrays: Any, **constants: Any) -> Any:
        given = {a.dtype for a in arrays if type(a) not in PLAIN and is_float(a.dtype)}
        made = run(xp, *[a if type(a) in PLAIN else widened(a) for a in arrays], **constants)
        if type(made) is not tuple:
            return made
        out, pullback = made
        if len(given) == 1:
            narrow = lambda a: a.astype(*given) if a.dtype == "float32" else a
            out = tuple(map(narrow, out)) if type(out) is tuple else narrow(out)
        if pullback is None:
            return out, None
        return out, tuple(f and _of_widened(f) for f in pullback) if type(pullback) is tuple else _of_widened(pullback)

    return on_device_of_arguments(compute) if SEVERAL else compute


def _of_widened(pullback: Callable) -> Callable:
    """A pullback that is given float32 for half types; integer outputs have no gradient, which is None."""
    widen = lambda d: tuple(g if g is None else widened(g) for g in d) if type(d) is tuple else widened(d)
    return functools.wraps(pullback)(lambda d: pullback(widen(d)))


def _recorded(out: Any, node: Node) -> Tensor:
    """``Tensor(out, True, node)``, without the questions that only a user's array needs to answer."""
    t = object.__new__(Tensor)
    t.data, t.node, t.requires_grad = out, node, True
    t.grad = t.hooks = None
    return t


def _wanted(spec: Spec, edges: list, pullback: tuple) -> tuple[list, tuple]:
    """No pullback, and no array in it, that nobody wants."""
    if len(edges) != len(pullback):
        raise TypeError(f"{spec.fn.__qualname__}: the body returned {len(pullback)} pullbacks for {len(edges)} arrays: "
                        f"one for each array parameter, in order, None where no gradient passes")
    wanted, pullbacks = [], []
    for edge, f in zip(edges, pullback):  # noqa: B905 (their lengths agree, and `strict` costs half as much again)
        if edge is not None:
            wanted.append(edge)
            pullbacks.append(f)
    return wanted, tuple(pullbacks)


def _several(spec: Spec, outs: tuple, pullback: Any, edges: list, backend: Any, record: Any, tensors: bool) -> tuple:
    """Several outputs: each has a node that leaves its gradient with the op's own."""
    outs = tuple(o if type(o) is backend.array_type else backend.own(o) for o in outs)
    if not record or pullback is None:
        return tuple(map(Tensor, outs)) if tensors else outs
    kinds = [(o.shape, o.dtype) if is_float(o.dtype) else None for o in outs]

    def whole(grads: list) -> Any:  # zeros for the outputs nobody used
        d = tuple(g if g is not None or k is None else backend.xp.zeros(*k) for g, k in zip(grads, kinds, strict=True))
        return pullback(d) if callable(pullback) else tuple(f and f(d) for f in pullback)

    main = Node(spec, edges, whole)

    def leave(i: int) -> Callable:
        def keep(g: Any) -> tuple:
            main.grad = main.grad or [None] * len(outs)
            main.grad[i] = g
            return (None,)
        return keep

    return tuple(Tensor(o, True, Node(spec, (main,), leave(i), *k)) if k else Tensor(o)
                 for i, (o, k) in enumerate(zip(outs, kinds, strict=True)))


# ---- the slow road: Python numbers, foreign arrays, casts --------------------------------------------


def _resolve(spec: Spec, args: tuple) -> tuple[list, list, int, Any]:
    """Nested Tensors, Python numbers only, foreign arrays, or two backends in one call.

    Among Tensors of several depths the deepest are differentiated now; to them the shallower ones are constants,
    that keep their own history.
    """
    deepest = max(map(level, args), default=0)
    now = [isinstance(a, Tensor) and level(a) == deepest for a in args]
    bare = [a if isinstance(a, Tensor) else _bare(a, spec, i) for i, a in enumerate(args)]
    backend = _owner(spec, [raw(a) for a in bare])
    arrays = [a.data if n else a for a, n in zip(bare, now, strict=True)]
    edges = [(a.node or a) if n and a.requires_grad else None for a, n in zip(bare, now, strict=True)]
    wanted = sum(e is not None for e in edges)
    if deepest > 1:
        arrays = [Tensor(a) if type(a) is backend.array_type else a for a in arrays]
        return arrays, edges, wanted, Differentiable(backend.xp)
    if not any(type(a) is backend.array_type for a in arrays):  # numbers only
        arrays = [a if a is None else backend.asarray(a, "float32" if type(a) is float else None) for a in arrays]
    return arrays, edges, wanted, backend.array_type


def _bare(a: Any, spec: Spec | None = None, position: int = 0) -> Any:
    """NumPy's scalars as Python numbers, array subclasses as their base; what is no array is refused by name."""
    if isinstance(a, np.generic):
        return a.item() if a.dtype.kind in "biuf" else np.asarray(a)
    if isinstance(a, np.ndarray):
        return get_backend(HOST).asarray(a)
    if isinstance(a, int | float) and type(a) not in PLAIN:  # an IntEnum, a Tensor's size
        return int(a) if isinstance(a, int) else float(a)
    if spec is not None and type(a) not in PLAIN and type(a) not in BY_TYPE:
        try:
            backend_of(a)
        except TypeError:
            kind = f"{type(a).__module__}.{type(a).__qualname__}".removeprefix("builtins.")
            shared = ", or with gpuprop.from_dlpack(...), which does not copy it" * hasattr(a, "__dlpack__")
            raise TypeError(
                f"{spec.fn.__name__}(): {_argument(spec, position)!r} must be a Tensor, an array or a number, "
                f"not {kind}: convert it with gpuprop.tensor(...){shared}") from None
    return a


def _argument(spec: Spec, position: int) -> str:
    return f"{spec.arrays[0].name}[{position}]" if spec.variadic else spec.arrays[position].name


def _owner(spec: Spec, arrays: list) -> Backend:
    backend, first = None, 0
    for i, a in enumerate(arrays):
        if type(a) in PLAIN:
            continue
        b = backend_of(a)
        if backend is None:
            backend, first = b, i
        elif b is not backend:
            one, other = _argument(spec, first), _argument(spec, i)
            raise BackendMismatchError(
                f"{spec.fn.__name__}(): {one!r} is on backend {backend.name!r} and {other!r} on {b.name!r}: "
                f"bring them together, for example by {other}.to({backend.name!r})")
    return backend or default_backend()


def _promote(arrays: list) -> list:
    """The last two operands, an integer or bool one in the floating dtype of the other: it never widens it."""
    *rest, x, y = arrays
    if is_float(x.dtype) and y.dtype.kind in "iub":
        with on_device_of((y,)):
            y = y.astype(x.dtype)
    elif is_float(y.dtype) and x.dtype.kind in "iub":
        with on_device_of((x,)):
            x = x.astype(y.dtype)
    return [*rest, x, y]


def _autocast(args: tuple, precision: str, low: Any) -> tuple | None:
    """The arguments in the precision the op asks for, by recorded casts; None where they are in it."""
    full, cast = np.dtype("float32"), Differentiable.ops["astype"]
    floating = lambda a: hasattr(a, "dtype") and is_float(a.dtype)
    dtypes = {a.dtype for a in args if floating(a)}
    if not dtypes or np.dtype("float64") in dtypes:
        return None
    target = {"low": low, "full": full, "widest": low if dtypes == {low} else full}[precision]
    if dtypes == {target}:
        return None
    return tuple(cast(a, target) if floating(a) and a.dtype != target else a for a in args)

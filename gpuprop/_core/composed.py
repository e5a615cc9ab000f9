"""`composed`: functions of Tensors that take plain arrays too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from gpuprop._core.arguments import refuse_tensors
from gpuprop._core.dialects import dialects
from gpuprop._core.dtypes import is_float, is_half, widened
from gpuprop._core.failures import bound, raise_clearer
from gpuprop._core.options import check_guarded, option_guards
from gpuprop._core.placement import on_device_of
from gpuprop._core.signature import needs_check, takes_pytorch_names, unwrapped
from gpuprop._core.tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def checks_arguments(fn: Callable[P, R]) -> Callable[P, R]:
    """Check the numbers among the arguments of `fn` before each call.

    The error of a call that fails names the function and the argument (`failures.raise_clearer`).
    """
    guards = option_guards(fn.__annotations__)
    code = unwrapped(fn).__code__
    names = code.co_varnames[:code.co_argcount]

    @functools.cache
    def test() -> Callable[..., bool]:  # compiled when first used: `import gpuprop` is faster
        return needs_check(fn, {name: unchecked for name, unchecked, _ in guards})

    def checked(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        options = {**dict(zip(names, args, strict=False)), **kwargs}
        check_guarded(fn.__name__, guards, options)
        n = min(len(args), len(names))
        return ((*(options[name] for name in names[:n]), *args[n:]),
                {name: options[name] for name in kwargs})

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if guards and test()(*args, **kwargs):
            args, kwargs = checked(args, kwargs)
        try:
            return fn(*args, **kwargs)
        except Exception as error:
            raise_clearer(error, fn.__name__, fn, bound(fn, args, kwargs) or {})
            raise

    return takes_pytorch_names(call)


@overload
def composed(fn: Callable[P, Any]) -> Callable[P, Any]: ...
@overload
def composed(*, full: bool) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...
def composed(fn: Any = None, *, full: bool = False) -> Any:
    """Let `fn`, a function of Tensors that calls ops, take plain arrays too.

    If no argument is a Tensor, the function returns a plain array.  It runs on the device of its
    arrays.  With `full`, half types are computed in float32 from the first op to the last, and the
    results are rounded once.
    """
    if fn is None:
        return functools.partial(composed, full=full)

    code = fn.__code__
    names = code.co_varnames[:code.co_argcount]
    constants = {name for name, annotation in fn.__annotations__.items()
                 if str(annotation).startswith(("float", "int", "bool", "str"))}

    def as_tensor(a: Any) -> Any:
        if not hasattr(a, "shape"):
            return a
        if not isinstance(a, Tensor):
            return Tensor(a)
        dialect = dialects.get(type(a))
        return a if dialect is None else dialect.enter(a)

    @checks_arguments
    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            if isinstance(value, Tensor) and name in constants:
                refuse_tensors(fn, fn.__name__, {name: value})
        arrays = [a for a in (*args, *kwargs.values()) if hasattr(a, "shape")]
        dtypes = {a.dtype for a in arrays if is_float(a.dtype)} if full else set()
        all_half = bool(dtypes) and all(map(is_half, dtypes))
        half = next(iter(dtypes)) if all_half and len(dtypes) == 1 else None  # else float32
        widen = lambda a: widened(as_tensor(a)) if hasattr(a, "shape") else a
        convert = widen if all_half else as_tensor
        with on_device_of(arrays):
            out = fn(*map(convert, args), **{k: convert(v) for k, v in kwargs.items()})
            if half is not None:
                narrow = lambda t: t.astype(half) if t.dtype == "float32" else t
                out = tuple(map(narrow, out)) if isinstance(out, tuple) else narrow(out)
        if any(isinstance(a, Tensor) for a in arrays):
            dialect = next((dialects[k] for k in map(type, arrays) if k in dialects), None)
            return out if dialect is None else dialect.leave(out)
        return tuple(t.array for t in out) if isinstance(out, tuple) else out.array

    return call

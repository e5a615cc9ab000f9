"""The signature of an op's body: which parameters are arrays, and the public function of it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from types import CodeType, FunctionType, UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, Union, get_args, get_origin

if TYPE_CHECKING:
    Array = Any
else:

    class Array:
        """Annotates the parameters of an op that are arrays.

        An argument may be a Tensor, an array of a backend, a Python number or None.
        """


REQUIRED = object()  # in place of the default of a parameter that has none
CO_VARARGS = 4  # inspect's; importing it takes 15 ms
LOOKS_LIKE_AN_ARRAY = re.compile(r"\b(Array|ArrayLike|NDArray|ndarray|Tensor)\b")


class Parameter(NamedTuple):
    """One parameter of a body."""

    name: str
    default: Any  # or `REQUIRED`
    is_array: bool
    variadic: bool


def parameters(fn: Callable) -> list[Parameter]:
    """The parameters of a body after `xp`, in a tenth of the time of `inspect.signature`."""
    fn = unwrapped(fn)
    code, notes = fn.__code__, fn.__annotations__
    stop = code.co_argcount + code.co_kwonlyargcount
    positional = code.co_varnames[1:code.co_argcount]
    keyword = code.co_varnames[code.co_argcount:stop]
    rest = code.co_varnames[stop:stop + 1] if code.co_flags & CO_VARARGS else ()
    given = fn.__defaults__ or ()
    defaults = dict(zip(positional[len(positional) - len(given):], given, strict=True))
    defaults |= fn.__kwdefaults__ or {}
    return [Parameter(name, defaults.get(name, REQUIRED),
                      name in notes and is_array(fn, name, notes[name]), name in rest)
            for name in (*positional, *rest, *keyword)]


def is_array(fn: Any, name: str, annotation: Any) -> bool:
    """True for `Array`, ``gpuprop.Array`` and ``Array | None``, also postponed to a string.

    Raises TypeError for other annotations that look like arrays, which would otherwise make a
    constant of an array.
    """
    if annotation is Array:
        return True
    if annotation == "Array" and fn.__globals__.get("Array", Array) is Array:
        return True
    text = annotation
    if not isinstance(annotation, str):
        text = getattr(annotation, "__name__", str(annotation))
    if not LOOKS_LIKE_AN_ARRAY.search(text):
        return False
    found = annotation
    if isinstance(annotation, str):
        try:
            found = eval(annotation, fn.__globals__)
        except Exception:
            found = None
    parts = get_args(found) if get_origin(found) in (Union, UnionType) else (found,)
    if Array in parts and set(parts) <= {Array, type(None)}:
        return True
    raise TypeError(
        f"{fn.__qualname__}(): {name!r} is annotated {text!r}: annotate an array with "
        f"gpuprop.Array or gpuprop.Array | None, several arrays with *{name}: gpuprop.Array, and "
        f"a constant with another type")


def unwrapped(fn: Any) -> Any:
    """The function inside of all that `functools.wraps` put around it."""
    while hasattr(fn, "__wrapped__"):
        fn = fn.__wrapped__
    return fn


def text_of(fn: Callable) -> str:
    """The signature of a body, as an error message shows it."""
    import inspect

    return str(inspect.signature(fn))


# ---- the public function -------------------------------------------------------------------------


@functools.cache
def _template(text: str) -> CodeType:
    return compile(text, "<op>", "exec").co_consts[0]


def public_function(fn: Any, params: list[Parameter], record: Callable) -> Any:
    """The function that users call: the body's signature without `xp`, bound by Python itself.

    It calls ``record(arrays, constants)``.  For tracebacks, `inspect.getsource` and editors it lies
    where the body does.
    """
    constants = [p.name for p in params if not p.is_array]
    arrays = [p.name for p in params if p.is_array]
    variadic = next(p for p in params if p.is_array).variadic
    # *arrays are a sequence to the user
    given = f"tuple({arrays[0]})" if variadic else f"({' '.join(f'{name},' for name in arrays)})"
    bound = "none"
    if constants:
        bound = "{" + ", ".join(f"{name!r}: {name}" for name in constants) + "}"
    header = ", ".join(p.name for p in params)
    body = unwrapped(fn)
    code = _template(f"def call({header}): return record({given}, {bound})").replace(
        co_name=body.__name__, co_qualname=body.__qualname__,
        co_filename=body.__code__.co_filename, co_firstlineno=body.__code__.co_firstlineno)
    defaults = tuple(p.default for p in params if p.default is not REQUIRED)
    call: Any = FunctionType(code, {"record": record, "none": {}}, body.__name__, defaults)
    call.__module__, call.__qualname__ = public_module(fn.__module__), fn.__qualname__
    call.__doc__ = fn.__doc__
    call.__annotations__ = {n: v for n, v in body.__annotations__.items() if n != "xp"}
    return call


def public_module(name: str) -> str:
    """The public package of a module: "gpuprop.functional" for "gpuprop.functional._loss"."""
    package, _, private = name.partition("._")
    return package if private else name

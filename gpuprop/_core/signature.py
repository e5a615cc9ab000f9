"""The signature of an op's body: which parameters are arrays, and the public function."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from types import CellType, CodeType, FunctionType, UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, Union, get_args, get_origin

if TYPE_CHECKING:
    Array = Any
else:

    class Array:
        """Annotates the parameters of an op that are arrays.

        An argument may be a Tensor, an array of a backend, a Python number or None.
        """


REQUIRED = object()  # stands for the default of a parameter without one
ARRAY_BY_NAME = re.compile(r"(\w+\.)*Array( *\| *None)?|None *\| *(\w+\.)*Array")
CO_VARARGS = 4  # inspect's; importing it takes 15 ms
CO_VARKEYWORDS = 8
LOOKS_LIKE_AN_ARRAY = re.compile(r"\b(Array|ArrayLike|NDArray|ndarray|Tensor)\b")


class Parameter(NamedTuple):
    """One parameter of a body."""

    name: str
    default: Any  # or `REQUIRED`
    is_array: bool
    variadic: bool
    keyword_only: bool
    must_be_given: bool = True  # False if the argument may be None


def parameters(fn: Callable) -> list[Parameter]:
    """The parameters of a body after `xp`, in a tenth of the time of `inspect.signature`.

    Raises TypeError for a function that cannot be a body.
    """
    fn = unwrapped(fn)
    if not isinstance(fn, FunctionType):
        raise TypeError(f"the body of an op must be a Python function, got {fn!r}")
    code = fn.__code__
    annotations = fn.__annotations__
    stop = code.co_argcount + code.co_kwonlyargcount
    positional = code.co_varnames[1:code.co_argcount]
    keyword = code.co_varnames[code.co_argcount:stop]
    rest = code.co_varnames[stop:stop + 1] if code.co_flags & CO_VARARGS else ()
    given = fn.__defaults__ or ()
    defaults = dict(zip(positional[len(positional) - len(given):], given, strict=True))
    defaults |= fn.__kwdefaults__ or {}
    result = []
    for name in (*positional, *rest, *keyword):
        annotation = annotations.get(name)
        array = name in annotations and is_array(fn, name, annotation)
        default = defaults.get(name, REQUIRED)
        must_be_given = default is REQUIRED and "None" not in str(annotation)
        result.append(Parameter(
            name, default, array, name in rest, name in keyword, must_be_given))
    arrays = [p for p in result if p.is_array]
    if code.co_flags & CO_VARKEYWORDS or any(p.variadic and arrays != [p] for p in result):
        raise TypeError(f"{fn.__qualname__}(): a body has no **parameters, and *parameters only if "
                        f"they are its only arrays")
    if code.co_posonlyargcount > 1:
        raise TypeError(f"{fn.__qualname__}(): a body has no positional-only parameters but xp")
    return result


def is_array(fn: Any, name: str, annotation: Any) -> bool:
    """True for the annotations `Array`, ``gpuprop.Array`` and ``Array | None``, also as strings.

    Raises TypeError for any other annotation that looks like an array, because the parameter would
    be taken for a constant.
    """
    if annotation is Array:
        return True
    if annotation == "Array" and fn.__globals__.get("Array", Array) is Array:
        return True
    text = annotation
    if isinstance(annotation, type) and not get_args(annotation):
        text = annotation.__name__
    elif not isinstance(annotation, str):
        text = str(annotation)
    looks_like_one = LOOKS_LIKE_AN_ARRAY.search(text) is not None
    if not looks_like_one and module_of(fn).startswith("gpuprop."):
        return False  # no alias of Array is used here
    found = annotation
    if isinstance(annotation, str):
        try:
            found = eval(annotation, fn.__globals__ | _closure(fn))
        except Exception:  # a name that is local to another function, or only for type checkers
            if ARRAY_BY_NAME.fullmatch(annotation):
                return True
            found = None
    parts = get_args(found) if get_origin(found) in (Union, UnionType) else (found,)
    if Array in parts and set(parts) <= {Array, type(None)}:
        return True
    if looks_like_one or Array in parts or LOOKS_LIKE_AN_ARRAY.search(str(found)):
        raise TypeError(
            f"{fn.__qualname__}(): {name!r} is annotated {text!r}: annotate an array with "
            f"gpuprop.Array or gpuprop.Array | None, several arrays with *{name}: gpuprop.Array, "
            f"and a constant with another type")
    return False


def _closure(fn: Any) -> dict[str, Any]:
    """The variables of enclosing functions that `fn` uses, by name."""
    found = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # empty, such as the name of a function being made
            found[name] = cell.cell_contents
    return found


def unwrapped(fn: Any) -> Any:
    """The innermost function inside all wrappers made with `functools.wraps`."""
    while hasattr(fn, "__wrapped__"):
        fn = fn.__wrapped__
    return fn


def signature_text(fn: Callable) -> str:
    """The signature of a body for an error message."""
    import inspect  # 15 ms that `import gpuprop` does not need

    return str(inspect.signature(fn))


# ---- the public function -------------------------------------------------------------------------


@functools.cache
def _compiled(header: str, result: str, free: str) -> CodeType:
    """The code object of ``def call(header): return result``, with these free variables."""
    source = f"def make({free}):\n def call({header}): return {result}\n return call"
    make = compile(source, "<op>", "exec").co_consts[0]
    return next(const for const in make.co_consts if isinstance(const, CodeType))


def needs_check(fn: Any, tests: Mapping[str, str]) -> Callable[..., bool]:
    """A function with the parameters of `fn`: whether one is not its default and fails its test.

    `tests` are expressions by name.
    """
    fn = unwrapped(fn)
    code = fn.__code__
    n = code.co_argcount
    stop = n + code.co_kwonlyargcount
    names = code.co_varnames
    header = [*names[:n]]
    rest = names[stop:]
    if code.co_flags & CO_VARARGS:
        header.append(f"*{rest[0]}")
        rest = rest[1:]
    elif stop > n:
        header.append("*")
    header += names[n:stop]
    if code.co_flags & CO_VARKEYWORDS:
        header.append(f"**{rest[0]}")
    given = fn.__defaults__ or ()
    defaults = dict(zip(names[n - len(given):n], given, strict=True)) | (fn.__kwdefaults__ or {})
    values = {f"__default_{name}": defaults.get(name, REQUIRED) for name in tests}
    test = _compiled(", ".join(header), _untested(tests, tests), ", ".join(values)).replace(
        co_name=code.co_name, co_qualname=code.co_qualname)
    cells = tuple(CellType(values[name]) for name in test.co_freevars)
    call = FunctionType(test, fn.__globals__, fn.__name__, fn.__defaults__, cells)
    call.__kwdefaults__ = fn.__kwdefaults__
    return call


def _untested(names: Iterable[str], tests: Mapping[str, str]) -> str:
    """The expression that is false if each parameter is ``__default_name`` or passes its test."""
    alternatives = [f"({name} is __default_{name} or {tests.get(name, False)})" for name in names]
    return f"not ({' and '.join(alternatives)})" if alternatives else "False"


RECORD = "__record"  # names that no parameter has
CHECKS = "__checks"


def public_function(fn: Any, params: list[Parameter], record: Callable,
                    checks: Mapping[str, Callable], tests: Mapping[str, str] | None = None) -> Any:
    """The function that users call: it has the body's signature without `xp`.

    It calls ``record(arrays, constants)``, with a tuple and a dict.  Python itself binds the
    arguments.  Tracebacks, `inspect.getsource` and editors show the body in its place.  `checks`
    has the check of a variadic parameter, by name.

    With `tests`, expressions of some constants by name, `record` also gets whether another constant
    is not its default, and whether one of these neither is its default nor passes its test.
    """
    body = unwrapped(fn)
    arrays = ", ".join(f"*({p.name} if type({p.name}) is list else {CHECKS}[{p.name!r}]({p.name}))"
                       if p.variadic else p.name for p in params if p.is_array)
    constants = ", ".join(f"{p.name!r}: {p.name}" for p in params if not p.is_array)
    is_variadic = any(p.variadic for p in params)  # the user passes one sequence of arrays
    keyword_only = [] if is_variadic else [p for p in params if p.keyword_only]
    positional = [p for p in params if p not in keyword_only]
    header = [p.name for p in positional]
    if keyword_only:
        header += ["*", *(p.name for p in keyword_only)]
    values = {RECORD: record, CHECKS: checks}
    result = f"({arrays},), {{{constants}}}"
    if tests is not None:
        defaults_of = {p.name: p.default for p in params if not p.is_array}
        values |= {f"__default_{name}": default for name, default in defaults_of.items()}
        others = [name for name in defaults_of if name not in tests]
        result += f", {_untested(others, {})}, {_untested(tests, tests)}"
    code = _compiled(", ".join(header), f"{RECORD}({result})", ", ".join(values)).replace(
        co_name=body.__name__, co_qualname=body.__qualname__,
        co_filename=body.__code__.co_filename, co_firstlineno=body.__code__.co_firstlineno)
    defaults = tuple(p.default for p in positional if p.default is not REQUIRED)
    cells = tuple(CellType(values[name]) for name in code.co_freevars)
    call: Any = FunctionType(code, body.__globals__, body.__name__, defaults, cells)
    call.__kwdefaults__ = {
        p.name: p.default for p in keyword_only if p.default is not REQUIRED} or None
    call.__module__ = public_module(module_of(fn))
    call.__qualname__ = fn.__qualname__
    call.__doc__ = fn.__doc__
    call.__annotations__ = {n: v for n, v in body.__annotations__.items() if n != "xp"}
    call.__annotations__ |= {p.name: "Sequence[Array]" for p in params if p.variadic}
    return call


def module_of(fn: Any) -> str:
    """The name of the module of a function; code that `exec` runs may have none."""
    return fn.__module__ or "__main__"


def public_module(name: str) -> str:
    """The public package of a module: "gpuprop.functional" for "gpuprop.functional._loss"."""
    package, _, private = name.partition("._")
    return package if private else name

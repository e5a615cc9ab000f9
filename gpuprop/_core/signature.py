"""The signature of an op's body: which parameters are arrays, and the public function."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from types import CellType, CodeType, FunctionType, UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, Union, get_args, get_origin

import numpy as np

if TYPE_CHECKING:
    Array = Any
else:

    class Array:
        """Annotates the parameters of an op that are arrays.

        An argument may be a Tensor, an array of a backend, a Python number or None.
        """


REQUIRED = object()  # stands for the default of a parameter without one
ARRAY_BY_NAME = r"(\w+\.)*Array( *\| *None)?|None *\| *(\w+\.)*Array"
CO_VARARGS = 4  # inspect's; importing it takes 15 ms
CO_VARKEYWORDS = 8
NAMES_OF_ARRAYS = r"\b(Array|ArrayLike|NDArray|ndarray|Tensor)\b"
PYTORCH_NAMES = {  # PyTorch's keyword -> NumPy's
    "dim": "axis",
    "dims": "axis",
    "dim1": "axis1",
    "dim2": "axis2",
    "start_dim": "start_axis",
    "end_dim": "end_axis",
    "keepdim": "keepdims",
    "correction": "ddof",
}
NUMPY_NAMES = frozenset(PYTORCH_NAMES.values())

# The values of a constant that need no check: those of some types, or those for which an expression
# is true, in which {0} is the value.
Unchecked = frozenset[type] | str
NO_ARRAYS = frozenset({bool, int, float, complex, str, tuple, list, dict, slice, type, np.dtype,
                       type(None)})


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
    looks_like_one = _looks_like_an_array(text)
    if not looks_like_one and module_of(fn).startswith("gpuprop."):
        return False  # no alias of Array is used here
    found = annotation
    if isinstance(annotation, str):
        try:
            found = eval(annotation, fn.__globals__ | _closure(fn))
        except Exception:  # a name that is local to another function, or only for type checkers
            if re.fullmatch(ARRAY_BY_NAME, annotation):
                return True
            found = None
    parts = get_args(found) if get_origin(found) in (Union, UnionType) else (found,)
    if Array in parts and set(parts) <= {Array, type(None)}:
        return True
    if looks_like_one or Array in parts or _looks_like_an_array(str(found)):
        raise TypeError(
            f"{fn.__qualname__}(): {name!r} is annotated {text!r}: annotate an array with "
            f"gpuprop.Array or gpuprop.Array | None, several arrays with *{name}: gpuprop.Array, "
            f"and a constant with another type")
    return False


def _looks_like_an_array(text: str) -> bool:
    may_be_one = "rray" in text or "Tensor" in text  # most are not: `import gpuprop` is faster
    return may_be_one and re.search(NAMES_OF_ARRAYS, text) is not None


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


def _compiled(header: str, result: str, free: str) -> CodeType:
    """The code object of ``def call(header): return result``, with these free variables."""
    source = f"def make({free}):\n def call({header}): return {result}\n return call"
    make = compile(source, "<op>", "exec").co_consts[0]
    return next(const for const in make.co_consts if isinstance(const, CodeType))


def needs_check(fn: Any, unchecked: Mapping[str, Unchecked]) -> Callable[..., bool]:
    """A function with the parameters of `fn`: whether one of those named needs a check.

    A parameter needs none if it is its default or one of `unchecked`.
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
    tests = {}
    values = {}
    for name, which in unchecked.items():
        tests[name] = which if isinstance(which, str) else None
        values[f"__default_{name}"] = defaults.get(name, REQUIRED)
        values[f"__types_{name}"] = which
    test = _compiled(", ".join(header), _needs_check(tests), ", ".join(values)).replace(
        co_name=code.co_name, co_qualname=code.co_qualname)
    cells = tuple(CellType(values[name]) for name in test.co_freevars)
    call = FunctionType(test, fn.__globals__, fn.__name__, fn.__defaults__, cells)
    call.__kwdefaults__ = fn.__kwdefaults__
    return call


def _needs_check(tests: Mapping[str, str | None]) -> str:
    """The expression that is false if each variable has its default or passes its test.

    Without a test, the types in ``__types_name`` pass.
    """
    passed = [f"({name} is __default_{name} or "
              f"{test.format(name) if test else f'type({name}) in __types_{name}'})"
              for name, test in tests.items()]
    return f"not ({' and '.join(passed)})" if passed else "False"


RECORD = "__record"  # names that no parameter has
CHECKS = "__checks"


# What the code of a public function depends on, of one parameter: whether it is an array, variadic,
# keyword-only, and the expression of a constant that needs no check, or None if types need none.
Kind = tuple[bool, bool, bool, str | None]


@functools.cache  # functions whose signatures differ only in names share one compilation
def _call_of(kinds: tuple[Kind, ...], has_checks: bool) -> CodeType:
    """The code of a public function; its parameters are named p0, p1, ...

    Its defaults are in ``__default_p0``, ..., the types that need no check in ``__types_p0``, ...
    """
    arrays: list[str] = []
    constants: dict[str, str | None] = {}
    positional: list[str] = []
    keyword_only: list[str] = []
    for i, (is_array, variadic, by_keyword, test) in enumerate(kinds):
        name = f"p{i}"
        (keyword_only if by_keyword else positional).append(name)
        if variadic:
            arrays.append(f"*({name} if type({name}) is list else {CHECKS}[{name!r}]({name}))")
        elif is_array:
            arrays.append(name)
        else:
            constants[name] = test
    header = [*positional, "*", *keyword_only] if keyword_only else positional
    as_dict = ", ".join(f"{name!r}: {name}" for name in constants)
    result = f"({', '.join(arrays)},), {{{as_dict}}}"
    free = [RECORD, CHECKS]
    if has_checks:
        free += [f"__{what}_{name}" for name in constants for what in ("default", "types")]
        result += f", {_needs_check(constants)}"
    return _compiled(", ".join(header), f"{RECORD}({result})", ", ".join(free))


def _renamed(consts: tuple, names: Mapping[str, str]) -> tuple:
    """The constants of a code object, with other names of the parameters."""
    return tuple([_renamed(const, names) if type(const) is tuple
                  else names.get(const, const) if type(const) is str else const
                  for const in consts])


def public_function(fn: Any, params: list[Parameter], record: Callable,
                    checks: Mapping[str, Callable],
                    unchecked: Mapping[str, Unchecked] | None = None) -> Any:
    """The function that users call: it has the body's signature without `xp`.

    It calls ``record(arrays, constants)``, with a tuple and a dict.  Python itself binds the
    arguments.  Tracebacks, `inspect.getsource` and editors show the body in its place.  `checks`
    has the check of a variadic parameter, by name.

    With `unchecked`, `record` also gets whether a constant needs a check: whether it is not its
    default and none of `unchecked`, or of `NO_ARRAYS` if it is not named there.
    """
    body = unwrapped(fn)
    is_variadic = any([p.variadic for p in params])  # the user passes one sequence of arrays
    kinds = []
    names = {}
    values = {RECORD: record, CHECKS: checks}
    defaults = []
    keyword_defaults = {}
    for i, p in enumerate(params):
        by_keyword = p.keyword_only and not is_variadic
        passing = unchecked.get(p.name, NO_ARRAYS) if unchecked else NO_ARRAYS
        test = passing if type(passing) is str else None
        kinds.append((p.is_array, p.variadic, by_keyword, test))
        names[f"p{i}"] = p.name
        values[f"__default_p{i}"] = p.default
        values[f"__types_p{i}"] = passing
        if p.default is REQUIRED:
            continue
        if by_keyword:
            keyword_defaults[p.name] = p.default
        else:
            defaults.append(p.default)
    code = _call_of(tuple(kinds), unchecked is not None)
    code = code.replace(
        co_name=body.__name__, co_qualname=body.__qualname__,
        co_filename=body.__code__.co_filename, co_firstlineno=body.__code__.co_firstlineno,
        co_varnames=_renamed(code.co_varnames, names), co_consts=_renamed(code.co_consts, names))
    cells = tuple([CellType(values[name]) for name in code.co_freevars])
    call: Any = FunctionType(code, body.__globals__, body.__name__, tuple(defaults), cells)
    call.__kwdefaults__ = keyword_defaults or None
    call.__module__ = public_module(module_of(fn))
    call.__qualname__ = fn.__qualname__
    call.__doc__ = fn.__doc__
    call.__annotations__ = {n: v for n, v in body.__annotations__.items() if n != "xp"}
    if is_variadic:
        call.__annotations__ |= {p.name: "Sequence[Array]" for p in params if p.variadic}
    return call


def takes_pytorch_names(fn: Callable) -> Callable:
    """`fn`, whose keywords may also be PyTorch's, such as `dim` for `axis`; `fn` if it has none."""
    code = unwrapped(fn).__code__
    own = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    if NUMPY_NAMES.isdisjoint(own):
        return fn
    numpy_names = {theirs: ours for theirs, ours in PYTORCH_NAMES.items() if ours in own}
    are_numpys = frozenset(numpy_names).isdisjoint

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs and not are_numpys(kwargs):
            renamed = {numpy_names.get(name, name): value for name, value in kwargs.items()}
            if len(renamed) < len(kwargs):
                raise TypeError(f"{fn.__name__}() takes an axis by one of its names, "
                                f"got {', '.join(kwargs)}")
            kwargs = renamed
        return fn(*args, **kwargs)

    call.pytorch_names = numpy_names  # type: ignore[attr-defined]  # read by the stub's generator
    return call


def module_of(fn: Any) -> str:
    """The name of the module of a function; code that `exec` runs may have none."""
    return fn.__module__ or "__main__"


def public_module(name: str) -> str:
    """The public package of a module: "gpuprop.functional" for "gpuprop.functional._loss"."""
    package, _, private = name.partition("._")
    return package if private else name

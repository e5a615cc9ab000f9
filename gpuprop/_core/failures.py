"""Clearer errors of calls that failed: they name the function and the argument.

Nothing here runs in a call that succeeds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from numpy.exceptions import AxisError

from gpuprop._core.options import option_checks
from gpuprop._core.signature import module_of, public_module, unwrapped

# compiled when first used: `import gpuprop` has no time for it
TAKES_AN_ARRAY = r"\bArray\b"
TAKES_ANYTHING = r"\b(Array|Any)\b"
TAKES_A_NUMBER = r"\b(float|int)\b"
ABOUT_A_NUMBER = (  # messages of Python, of NumPy and of an inner function
    r"'(int|float|bool)' object|(class|type) '(int|float|bool)'|array of dimension 0"
    r"|must be a Tensor or an array, not (int|float|bool)\b")
KINDS = (AxisError, TypeError, ValueError, IndexError, OverflowError, ZeroDivisionError,
         AttributeError)
MAX_ITEMS = 4  # of a sequence in a message


def raise_clearer(error: Exception, caller: str, fn: Callable, arguments: Mapping[str, Any],
                  is_users: bool = False) -> None:
    """Raise an error that says more than `error` about a failed call of `fn`, if there is one.

    It names the argument that is no array or no option of its kind.  Otherwise, in a public
    function, it has the text of `error` and lists the arguments.  The other errors of a user's own
    function are left as they are.
    """
    clearer: Exception | None = array_error(error, f"{caller}()", fn, arguments)
    if not is_users:
        clearer = (clearer or _option_error(error, caller, fn, arguments)
                   or _listing(error, caller, fn, arguments))
    if clearer is not None:
        try:
            raise clearer from clearer.__cause__
        finally:
            del clearer  # its traceback holds this frame


def array_error(error: Exception, caller: str, fn: Callable,
                arguments: Mapping[str, Any]) -> TypeError | None:
    """The error of a call that was given something else for an array.

    None if all arguments for parameters annotated as arrays may be arrays.  In the forward of a
    layer, such parameters are annotated `Any`.
    """
    parameters = _parameters(fn)
    takes_array = TAKES_AN_ARRAY if fn.__name__ != "forward" else TAKES_ANYTHING
    needs_no_number = re.search(ABOUT_A_NUMBER, str(error)) is not None
    found = None
    for name, value in arguments.items():
        parameter = parameters[name]
        annotation = str(parameter.annotation)
        is_required = parameter.default is parameter.empty
        is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_variadic or hasattr(value, "shape") or not re.search(takes_array, annotation):
            continue
        if isinstance(value, int | float):
            if needs_no_number and not re.search(TAKES_A_NUMBER, annotation):
                found = found or no_array_error(caller, name, value)
        elif value is None:
            if is_required and "None" not in annotation:
                return _caused_by(error, none_error(caller, name))
        elif not (isinstance(value, list | tuple) and (
                type(value) not in (list, tuple)  # such as a PackedSequence
                or "Sequence" in annotation or ("Any" in annotation and not is_required))):
            return _caused_by(error, no_array_error(caller, name, value))
    return _caused_by(error, found) if found else None


def none_error(caller: str, name: str) -> TypeError:
    """The error of a call whose argument `name` must not be None."""
    return TypeError(f"{caller}: {name} is None, but must be an array or a Tensor: check that the "
                     f"function or forward that computed it returns its result")


def no_array_error(caller: str, name: str, value: Any) -> TypeError:
    """The error of a call whose argument `name` is no array."""
    hint = ""
    if isinstance(value, list | tuple):
        hint = ": convert it with gpuprop.tensor(...), or join tensors with gpuprop.stack(...)"
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return TypeError(f"{caller}: {name} must be a Tensor or an array, not {kind}{hint}")


def _parameters(fn: Callable) -> Mapping[str, Any]:
    import inspect  # 15 ms that `import gpuprop` does not need

    return inspect.signature(fn).parameters


def bound(fn: Callable, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments of a call by name; None if they do not fit the parameters."""
    import inspect

    try:
        return inspect.signature(fn).bind_partial(*args, **kwargs).arguments
    except TypeError:
        return None


def as_arrays(caller: str, name: str, value: Any) -> tuple:
    """A sequence of arrays as a tuple."""
    try:
        items = iter(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{caller}: {name} must be a sequence of Tensors or arrays, not {kind}: "
                        f"write {caller[:-1]}[a, b])") from None
    return tuple(items)


def _caused_by(error: Exception, clearer: Any) -> Any:
    clearer.__cause__ = error
    return clearer


def _option_error(error: Exception, caller: str, fn: Callable,
                  arguments: Mapping[str, Any]) -> Exception | None:
    """The error of a call with an option that is not of the annotated kind."""
    annotations = {p.name: p.annotation for p in _parameters(fn).values()
                   if p.name in arguments and arguments[p.name] is not p.default
                   and p.name != "dtype" and not re.search(TAKES_AN_ARRAY, str(p.annotation))}
    no_limits = dict.fromkeys(annotations)
    checks = option_checks(annotations, no_limits, unwrapped(fn).__globals__)
    for name, check in checks.items():
        try:
            check(f"{caller}: {name}", arguments[name])
        except (TypeError, ValueError) as clearer:
            return _caused_by(error, clearer)
    return None


def _listing(error: Exception, caller: str, fn: Callable,
             arguments: Mapping[str, Any]) -> Exception | None:
    """`error` with the call before its text, unless this starts with the name of the function."""
    kind = next((kind for kind in KINDS if isinstance(error, kind)), None)
    is_plain = type(error).__module__.partition(".")[0] in ("builtins", "numpy")
    public = getattr(sys.modules.get(public_module(module_of(fn))), "__all__", ())
    is_public = fn.__name__ in public or "." in fn.__qualname__  # a method
    if kind is None or not is_plain or not is_public or re.match(rf"{caller}\b", str(error)):
        return None
    return with_call(error, kind, caller, fn, arguments)


def with_call(error: Exception, kind: type[Exception], caller: str, fn: Callable,
              arguments: Mapping[str, Any]) -> Exception:
    """An error of a class, with the text of `error` after the call that failed."""
    parameters = _parameters(fn)
    given = ", ".join(f"{name}: {_text(value)}" for name, value in arguments.items()
                      if value is not parameters[name].default)
    clearer = kind(f"{caller}({given}): {error}")
    vars(clearer).update(vars(error))  # notes
    clearer.__cause__ = error.__cause__
    return clearer.with_traceback(error.__traceback__)


def _text(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {tuple(value.shape)}"
    if type(value) in (list, tuple):
        items = [*map(_text, value[:MAX_ITEMS]), *["..."] * (len(value) > MAX_ITEMS)]
        return f"[{', '.join(items)}]"
    import reprlib  # `import gpuprop` has no time for it

    return reprlib.repr(value)

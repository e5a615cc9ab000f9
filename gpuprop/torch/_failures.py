"""Clearer errors of calls that failed: they name the function and the argument."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from numpy.linalg import LinAlgError

from gpuprop._core.failures import bound, with_call
from gpuprop._core.tensor import Tensor

# What a wrong argument raises, by the class of the error inside.
KINDS = {AttributeError: TypeError, TypeError: TypeError, KeyError: ValueError,
         ZeroDivisionError: ValueError, IndexError: IndexError, OverflowError: OverflowError,
         ValueError: ValueError}
EXPLAINED: tuple[type[Exception], ...] = tuple(KINDS)
# The parameters that are Tensors, those that are Tensors or numbers, and those that are several.
TENSORS = set("""input self tensor index src source mask condition mat mat1 mat2 vec vec1 vec2
    batch1 batch2 tensor1 tensor2 x y boundaries elements A B L""".split())
OPERANDS = {"other", "exponent", "weight", "values", "value", "min", "max", "end", "std", "mean"}
SEQUENCES = {"tensors", "matrices"}


def explains(fn: Callable) -> Callable:
    """`fn`, whose errors name it and the argument that is wrong."""

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except EXPLAINED as error:
            raise_clearer(error, fn, args, kwargs)
            raise

    return call


def explain_all(namespace: dict, names: Any) -> None:
    """Let the functions of these names in a namespace explain their errors.

    Those that are ops by other names of their parameters do so themselves.
    """
    for name in names:
        value = namespace[name]
        if isinstance(value, FunctionType) and not value.__module__.endswith("_arguments"):
            namespace[name] = explains(value)


def raise_clearer(error: Exception, fn: Callable, args: tuple, kwargs: Mapping) -> None:
    """Raise an error that says more than `error` about a failed call, if there is one."""
    import inspect  # most programs need no error

    is_plain = type(error).__module__.partition(".")[0] in ("builtins", "numpy")
    kind = next((KINDS[base] for base in KINDS if isinstance(error, base)), None)
    arguments = bound(fn, args, kwargs)
    if kind is None or arguments is None or not is_plain or isinstance(error, LinAlgError):
        return
    name = fn.__name__
    parameters = inspect.signature(fn).parameters
    given = {p: value for p, value in arguments.items() if value is not parameters[p].default}
    clearer = _not_a_tensor(name, given)
    if clearer is None and (kind is not type(error) or f"{name}(" not in str(error)):
        clearer = with_call(error, kind, name, fn, arguments)
        wrong = _of_wrong_type(error, arguments) if kind is TypeError else None
        if wrong is not None:  # Python's own message says only what it could not do with it
            clearer = TypeError(f"{name}: argument {wrong!r} cannot be of type "
                                f"{type(arguments[wrong]).__name__}: {clearer}")
    if clearer is not None:
        try:
            raise clearer from error
        finally:
            del clearer  # its traceback holds this frame


def _not_a_tensor(name: str, arguments: Mapping[str, Any]) -> Exception | None:
    """The error of a call with something else in place of a Tensor."""
    for parameter, value in arguments.items():
        is_operand = parameter in OPERANDS and not isinstance(value, int | float)
        if parameter in SEQUENCES:
            what = "a sequence of Tensors"
            is_wrong = not (isinstance(value, list | tuple) and value
                            and all(isinstance(v, Tensor) for v in value))
        else:
            what = "a Tensor or a number" if is_operand else "a Tensor"
            is_wrong = (parameter in TENSORS or is_operand) and not isinstance(value, Tensor)
        if is_wrong:
            hint = ": write torch.from_numpy(a)" if hasattr(value, "__array_interface__") else ""
            return TypeError(f"{name}(): argument {parameter!r} must be {what}, not "
                             f"{type(value).__name__}{hint}")
    return None


def _of_wrong_type(error: Exception, arguments: Mapping[str, Any]) -> str | None:
    """The only argument, if there is one, of a type that the text of an error quotes."""
    quoted = set(re.findall(r"'(\w+)'", str(error)))
    for types in quoted - {"int", "float", "bool"}, quoted:
        wrong = [p for p, value in arguments.items() if type(value).__name__ in types]
        if wrong:
            return wrong[0] if len(wrong) == 1 else None
    return None

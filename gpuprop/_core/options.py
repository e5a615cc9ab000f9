"""Options of constructors and functions, checked by their names and annotations.

A parameter annotated `int`, `float`, `bool`, `str` or `Sizes`, or a union of these with None, takes
no other values, and numbers only within the limits of its name.  One that is annotated with a class
takes its objects, `Tensor` in a constructor also arrays, and `Callable` functions.  The other
parameters are left to the code that uses them.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, overload

import numpy as np

from gpuprop._core.backend import BY_TYPE
from gpuprop._core.checks import as_bool, as_callable, as_instance, as_integer, as_number
from gpuprop._core.dtypes import as_dtype, is_float
from gpuprop._core.registry import parse_backend
from gpuprop._core.signature import Array, Unchecked, unwrapped
from gpuprop._core.tensor import Tensor

F = TypeVar("F", bound=Callable)
Check = Callable[[str, Any], Any]  # (what, value) -> the checked value
Limits = Mapping[str, Any]  # name -> minimum of integers, or interval of numbers

LIMITS: Limits = {
    # sizes and counts
    **dict.fromkeys("""in_features out_features in1_features in2_features in_channels out_channels
        num_embeddings embedding_dim num_features num_channels num_parameters dim_feedforward kdim
        vdim padding output_padding output_size proj_size blank num_encoder_layers
        num_decoder_layers normalized_shape""".split(), 0),
    **dict.fromkeys("""kernel_size stride dilation groups num_groups input_size hidden_size
        num_layers embed_dim num_heads nhead d_model upscale_factor downscale_factor size
        n_power_iterations top_k beams max_new_tokens batch max_length heads max_seq_len
        n_classes""".split(), 1),
    "shape": 0,
    "chunks": 1,
    # numbers
    **dict.fromkeys("dropout dropout_p label_smoothing momentum sparsity".split(), "[0, 1]"),
    **dict.fromkeys("eps layer_norm_eps std".split(), "[0, inf)"),
    **dict.fromkeys("base delta div_value temperature scale_factor".split(), "(0, inf)"),
    "top_p": "(0, 1]",
    "max_norm": "[0, inf]",
}
SPATIAL = "kernel_size", "stride", "padding", "dilation", "output_padding"
CHOICES = {"reduction": ("none", "mean", "sum"), "approximate": ("none", "tanh")}


@overload
def checks_options(fn: F) -> F: ...
@overload
def checks_options(**limits: Any) -> Callable[[F], F]: ...
def checks_options(fn: Any = None, **limits: Any) -> Any:
    """Check the options of a constructor or function before it runs.

    `limits` replaces those of `LIMITS` for this function: a minimum for integers, an interval such
    as "[0, 1]" for numbers.
    """
    if fn is None:
        return functools.partial(checks_options, **limits)
    is_constructor = fn.__name__ == "__init__"

    @functools.cache
    def signature() -> tuple[Any, dict[str, Check]]:
        import inspect  # 15 ms that `import gpuprop` does not need

        found = inspect.signature(fn)
        annotations = {p.name: p.annotation for p in found.parameters.values()
                       if p.kind is not p.VAR_POSITIONAL}
        return found, option_checks(annotations, limits, unwrapped(fn).__globals__,
                                    is_constructor)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        found, checks = signature()
        try:
            bound = found.bind(*args, **kwargs)
        except TypeError:
            named = names_class(fn) if is_constructor else fn
            return named(*args, **kwargs)  # raises, and names the class or function
        caller = type(args[0]).__name__ if is_constructor else fn.__name__
        check_options(caller, bound.arguments, checks)
        return fn(*bound.args, **bound.kwargs)

    return call


def names_class(init: F) -> F:
    """A constructor that subclasses have too: errors of calls name the class that is made.

    Python's own name the class in which the constructor is written.
    """

    @functools.wraps(init)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except TypeError as error:
            message, written = str(error), f"{init.__qualname__}()"
            if not message.startswith(written):
                raise
            name = f"{type(self).__name__}.__init__()"
            raise TypeError(name + message.removeprefix(written)) from None

    return call  # type: ignore[return-value]


def check_options(caller: str, arguments: dict[str, Any], checks: Mapping[str, Check]) -> None:
    """Check arguments by name, and replace NumPy's numbers among them by Python's."""
    for name, check in checks.items():
        if name in arguments:
            arguments[name] = check(f"{caller}: {name}", arguments[name])


def option_checks(annotations: Mapping[str, Any], limits: Limits,
                  classes: Mapping[str, Any] = MappingProxyType({}),
                  takes_arrays: bool = False) -> dict[str, Check]:
    """The checks of the parameters whose annotations, as text, say what they take.

    `classes` are the global variables of the function: the classes that annotations name.  With
    `takes_arrays`, an array may be given for a Tensor.
    """
    checks = {}
    for name, annotation in annotations.items():
        kinds = [kind.strip() for kind in str(annotation).split("|")]
        limit = limits.get(name, LIMITS.get(name))
        given = [k for k in kinds if k != "None"]
        check = _check(name, given, limit) or _check_of_class(given, classes, takes_arrays)
        if check is not None:
            checks[name] = functools.partial(_unless_none, check) if "None" in kinds else check
    return checks


def _unless_none(check: Check, what: str, value: Any) -> Any:
    return None if value is None else check(what, value)


def _check(name: str, kinds: list[str], limit: Any) -> Check | None:
    if name == "dtype":
        return as_floating_dtype
    if name == "device":
        return as_device
    if kinds == ["str"]:
        choices = limit or CHOICES.get(name)
        return as_text if choices is None else _one_of(choices)
    if kinds == ["bool"]:
        return as_bool
    if kinds == ["int"]:
        return lambda what, value: as_integer(what, value, limit)
    if "float" in kinds and "str" in kinds:
        return lambda what, value: value if isinstance(value, str) else as_number(what, value)
    if "float" in kinds and set(kinds) <= {"int", "float"}:
        return lambda what, value: as_number(what, value, limit or "[-inf, inf]")
    if kinds == ["Any"] and name == "output_size":
        return lambda what, value: as_sizes(what, value, limit, may_be_none=True)
    if "Sequence[float]" in kinds:
        return lambda what, value: as_numbers(what, value, limit or "[-inf, inf]")
    if set(kinds) & {"Sizes", "Sequence[int]", "tuple[int, int]", "tuple[int, ...]"}:
        if not set(kinds) & {"int", "Sizes"}:
            return lambda what, value: as_sizes(what, _as_sequence(what, value), limit)
        is_spatial = name in SPATIAL and limit is not None
        may_be_text = "str" in kinds
        return lambda what, value: as_sizes(what, value, limit, is_spatial, may_be_text)
    return None


def _check_of_class(kinds: list[str], classes: Mapping[str, Any],
                    takes_arrays: bool) -> Check | None:
    """The check of a parameter that is annotated with one class, or as Callable."""
    if len(kinds) != 1:
        return None
    if kinds[0].startswith("Callable"):
        return as_callable
    cls: Any = classes.get(kinds[0])
    if cls is Tensor and takes_arrays:
        return as_array_option
    is_own = isinstance(cls, type) and cls.__module__.startswith("gpuprop.")
    if not is_own or cls is Array:
        return None
    return lambda what, value: as_instance(what, value, cls, f"a {cls.__name__}")


def _one_of(choices: Sequence[str]) -> Check:
    def check(what: str, value: Any) -> str:
        if as_text(what, value) not in choices:
            *others, last = map(repr, choices)
            raise ValueError(f"{what} must be {', '.join(others)} or {last}, got {value!r}")
        return value

    return check


def as_text(what: str, value: Any) -> str:
    return as_instance(what, value, str, "a string")


def as_device(what: str, value: Any) -> str | None:
    """`value`, the name of a usable device, or None."""
    if value is None:
        return None
    as_instance(what, value, str, "the name of a device, such as 'cpu' or 'cuda:0', or None")
    try:
        parse_backend(value)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    return value


def as_array_option(what: str, value: Any) -> Any:
    """`value`, a Tensor or an array that becomes one."""
    return as_instance(what, value, (Tensor, np.ndarray, *BY_TYPE),
                       "a Tensor or an array, such as gpuprop.tensor([...])")


def as_floating_dtype(what: str, value: Any) -> Any:
    """`value`, the dtype of parameters or None."""
    try:
        dtype = "float32" if value is None else value
        if is_float(as_dtype(dtype)):
            return value
    except TypeError as error:
        raise TypeError(f"{what} must be a floating dtype such as 'float32', got {value!r}: "
                        f"{error}") from None
    raise TypeError(f"{what} must be a floating dtype such as 'float32', got {value!r}")


def as_numbers(what: str, value: Any, interval: str) -> Any:
    """`value`, a number or a sequence of numbers."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return as_number(what, value, interval)
    return [as_number(f"{what}[{i}]", number, interval) for i, number in enumerate(value)]


def _as_sequence(what: str, value: Any) -> Any:
    is_array = isinstance(value, np.ndarray) and value.ndim == 1
    return value if is_array else as_instance(what, value, Sequence, "a sequence of integers")


def as_sizes(what: str, value: Any, minimum: int | None = None, is_spatial: bool = False,
             may_be_text: bool = False, may_be_none: bool = False) -> Any:
    """`value`, an integer, or a sequence or one-dimensional array of integers.

    A spatial option of "Conv2d" and the like has 1 or 2 of them.
    """
    if (may_be_text and isinstance(value, str)) or (may_be_none and value is None):
        return value
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, Sequence) or isinstance(value, str):
        return as_integer(what, value, minimum)
    sizes = [None if may_be_none and size is None else as_integer(f"{what}[{i}]", size, minimum)
             for i, size in enumerate(value)]
    n = re.match(r"\w*?([123])d:", what)
    if is_spatial and n is not None and len(value) not in (1, int(n[1])):
        raise ValueError(f"{what} must be an integer or a sequence of {n[1]} integers, "
                         f"got {value!r}")
    if all(map(operator.is_, sizes, value)):
        return value
    return tuple(sizes) if isinstance(value, tuple) else sizes


# ---- in every call of a function -----------------------------------------------------------------

# (name, the values that need no check, check)
Guard = tuple[str, Unchecked, Check]


ONLY_BOOL = frozenset({bool})
ONLY_INT = frozenset({int})
INT_OR_TUPLE = frozenset({int, tuple})


def option_guards(annotations: Mapping[str, Any]) -> list[Guard]:
    """Guards of the parameters that are numbers, flags or axes.

    Sizes and names are left out, which the functions check themselves.
    """
    found = (_guard(name, str(annotation)) for name, annotation in annotations.items())
    return [guard for guard in found if guard is not None]


@functools.cache  # many functions have an option of one name and type
def _guard(name: str, annotation: str) -> Guard | None:
    kinds = {kind.strip() for kind in annotation.split("|")} - {"None"}
    limit = LIMITS.get(name)
    check = option_checks({name: annotation}, {}).get(name)
    if check is None:
        return None
    if kinds == {"bool"}:
        return name, ONLY_BOOL, check
    if kinds == {"int"}:
        at_least = f"type({{0}}) is int and {{0}} >= {limit}"
        return name, ONLY_INT if limit is None else at_least, check
    if kinds <= {"int", "float"}:
        return name, _number_test(limit or "[-inf, inf]"), check
    if name == "axis" and kinds == {"int", "tuple[int, ...]"}:
        return name, INT_OR_TUPLE, functools.partial(_as_axes, check)
    return None


def _as_axes(check: Check, what: str, value: Any) -> Any:
    """`value`, an axis or a tuple of axes; a list becomes a tuple."""
    checked = check(what, value)
    return tuple(checked) if isinstance(checked, Sequence) else checked


def _number_test(interval: str) -> str:
    low, high = interval[1:-1].replace("inf", "1e999").split(",")
    above = "<=" if interval[0] == "[" else "<"
    below = "<=" if interval[-1] == "]" else "<"
    return f"type({{0}}) is float and {low} {above} {{0}} {below} {high}"


def check_guarded(caller: str, guards: Sequence[Guard], options: dict[str, Any]) -> None:
    """Check the options of a call by name, and replace NumPy's numbers among them by Python's."""
    for name, _, check in guards:
        if name in options:
            options[name] = check(f"{caller}: {name}", options[name])

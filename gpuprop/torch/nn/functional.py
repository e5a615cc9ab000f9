"""Functions, as `torch.nn.functional`: those of `gpuprop.functional`.

With ``inplace=True`` they write their result into the input.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

import gpuprop.functional as _functional
from gpuprop.functional import *  # noqa: F403
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._failures import explains
from gpuprop.torch._results import inner, outer
from gpuprop.torch._tensor import Words
from gpuprop.torch.nn._reduction import with_legacy_reduction

__all__ = list(_functional.__all__)


def _with_inplace(fn: Any, position: int) -> Callable:
    """`fn`, whose argument at a position is `inplace`."""

    @functools.wraps(fn)
    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        is_given = len(args) >= position
        inplace = args[position - 1] if is_given else kwargs.get("inplace", False)
        output = fn(input, *args, **kwargs)
        return input.update_(output) if inplace else output

    return call


def _in_place(fn: Any) -> Callable:
    """The function ``name_``, which always writes in place."""

    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        output = fn(input, *args, **kwargs)
        if not isinstance(input, Words):
            raise TypeError(f"{fn.__name__}_: input must be a Tensor, got {type(input).__name__}")
        return input.update_(output)

    call.__doc__ = f"In-place version of `{fn.__name__}`."
    return call


for _name in _functional.__all__:
    _fn = getattr(_functional, _name)
    _parameters = getattr(inspect.unwrap(_fn), "__code__", _in_place.__code__).co_varnames
    if "inplace" in _parameters:
        globals()[_name] = _with_inplace(_fn, _parameters.index("inplace"))
        globals()[f"{_name}_"] = _in_place(_fn)
        __all__.append(f"{_name}_")
    elif "reduction" in _parameters:
        globals()[_name] = with_legacy_reduction(_fn)


def _of_elements(fn: Any) -> Callable:
    """`dropout2d`, which drops single elements of an input with two axes."""

    @explains
    @functools.wraps(fn)
    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        if input.array.ndim != 2:
            return fn(input, *args, **kwargs)
        warnings.warn("dropout2d: Received a 2-D input to dropout2d, which is deprecated: please "
                      "use dropout instead.", stacklevel=2)
        return globals()["dropout"](input, *args, **kwargs)

    return call


def _with_distance(fn: Any) -> Callable:
    """`triplet_margin_with_distance_loss`, whose distance is a function of the program."""

    @functools.wraps(fn)
    def call(*args: Any, distance_function: Callable | None = None, **kwargs: Any) -> Any:
        def distance(a: Any, b: Any) -> Any:
            return inner(distance_function(outer(a), outer(b)))  # type: ignore[misc]

        given = None if distance_function is None else distance
        return fn(*args, distance_function=given, **kwargs)

    return call


globals()["dropout2d"] = _of_elements(globals()["dropout2d"])
triplet_margin_with_distance_loss = _with_distance(globals()["triplet_margin_with_distance_loss"])

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)

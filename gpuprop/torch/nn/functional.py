"""Functions, as `torch.nn.functional`: those of `gpuprop.functional`.

With ``inplace=True`` they write their result into the input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gpuprop.functional as _functional
from gpuprop.functional import *  # noqa: F403

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
        return input.update_(fn(input, *args, **kwargs))

    call.__doc__ = f"In-place version of `{fn.__name__}`."
    return call


for _name in _functional.__all__:
    _fn = getattr(_functional, _name)
    _parameters = getattr(_fn, "__wrapped__", _fn).__code__.co_varnames
    if "inplace" in _parameters:
        globals()[_name] = _with_inplace(_fn, _parameters.index("inplace"))
        globals()[f"{_name}_"] = _in_place(_fn)
        __all__.append(f"{_name}_")

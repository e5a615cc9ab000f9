"""`deprecated`: a public function keeps working, with a warning, until it is removed."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def deprecated(
        instead: str, since: str, removal: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as deprecated: each call issues a DeprecationWarning at the caller's line.

    `instead` is the code to use now.  The function is deprecated since version `since` and will be
    removed in version `removal`.  CONTRIBUTING.md has the policy.

    >>> from gpuprop._core.deprecation import deprecated
    >>> @deprecated(instead="gpuprop.new(x)", since="0.2", removal="0.4")
    ... def old(x):
    ...     return x
    """

    def decorate(fn: Callable[P, R]) -> Callable[P, R]:
        name = f"{fn.__module__}.{fn.__qualname__}"

        @functools.wraps(fn)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            warnings.warn(f"{name} is deprecated since gpuprop {since} and will be removed in "
                          f"{removal}: use {instead}", DeprecationWarning, stacklevel=2)
            return fn(*args, **kwargs)

        note = f"Deprecated since {since}: use {instead}."
        call.__doc__ = f"{fn.__doc__ or ''}\n\n    {note}\n    ".lstrip()
        return call

    return decorate

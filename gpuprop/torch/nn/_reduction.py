"""The options of losses from before PyTorch 1.0: `size_average` and `reduce`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any


def with_legacy_reduction(fn: Any) -> Callable:
    """`fn`, whose `reduction` may also be given as `size_average` and `reduce`."""

    @functools.wraps(fn)
    def call(*args: Any, size_average: Any = None, reduce: Any = None, **kwargs: Any) -> Any:
        if size_average is not None or reduce is not None:
            reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
            warnings.warn(f"size_average and reduce args will be deprecated, please use "
                          f"reduction={reduction!r} instead.", stacklevel=2)
            kwargs["reduction"] = reduction
        return fn(*args, **kwargs)

    return call

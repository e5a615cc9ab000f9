"""Checks of arguments that several functions share."""

from __future__ import annotations

from typing import Any


def check_dtypes(name: str, input: Any, *weights: Any) -> None:
    """Raise TypeError if a weight has another dtype than the input.

    Otherwise the output would have a wider dtype than the input, and so would all that follows.
    """
    for weight in weights:
        if weight is not None and weight.dtype != input.dtype:
            casts = f"input.astype({weight.dtype.name!r})"
            if input.dtype.kind not in "iub":
                casts += f" or model.to(dtype={input.dtype.name!r})"
            raise TypeError(f"{name}: input is {input.dtype.name} but weight is "
                            f"{weight.dtype.name}: use {casts}")

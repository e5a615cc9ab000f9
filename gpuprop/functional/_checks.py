"""Checks of arguments that several functions share."""

from __future__ import annotations

from typing import Any


def check_dtypes(name: str, input: Any, *weights: Any) -> None:
    """Refuse an input of another dtype than the weights, which would change the dtype of all that follows."""
    for weight in weights:
        if weight is not None and weight.dtype != input.dtype:
            remedies = f"input.astype({weight.dtype.name!r})"
            if input.dtype.kind not in "iub":
                remedies += f" or model.to(dtype={input.dtype.name!r})"
            raise TypeError(f"{name}: input is {input.dtype.name} and weight {weight.dtype.name}: use {remedies}")

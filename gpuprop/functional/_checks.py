"""Argument checks that several functions share."""

from __future__ import annotations

from typing import Any


def check_dtypes(name: str, input: Any, *weights: Any) -> None:
    """Raise TypeError if a weight or bias has another dtype than the input.

    Otherwise the output, and the outputs of all later layers, would have the wider dtype.
    """
    for weight in weights:
        if weight is not None and weight.dtype != input.dtype:
            casts = f"input.astype({weight.dtype.name!r})"
            if input.dtype.kind not in "iub":
                casts += f" or model.to(dtype={input.dtype.name!r})"
            raise TypeError(f"{name}: input is {input.dtype.name} but a bias or weight is "
                            f"{weight.dtype.name}: use {casts}")


def broadcasts_to(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """True if an array of this shape broadcasts to exactly `target`."""
    return len(shape) <= len(target) and all(
        n in (1, t) for n, t in zip(shape[::-1], target[::-1], strict=False))

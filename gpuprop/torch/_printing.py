"""Tensors as text, in PyTorch's format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# The options of `set_printoptions`.
options: dict[str, Any] = {"precision": 4, "threshold": 1000, "edgeitems": 3, "linewidth": 80,
                           "sci_mode": None}


def as_text(array: np.ndarray, indent: int) -> str:
    """The elements of an array, whose first line begins after `indent` characters."""
    is_shortened = array.size > options["threshold"]
    if not array.size:
        return "[]"
    shown = (_edges(array) if is_shortened else array).reshape(-1)
    number = _number_format(shown)
    if array.dtype.kind not in "iub":  # NaN, infinity and 0 do not widen the others
        shown = shown[np.isfinite(shown) & (shown != 0)]
    width = 0 if array.ndim == 0 else max(map(len, map(number, shown)), default=0)
    return _text(array, indent, lambda x: number(x).rjust(width), width, is_shortened)


def _text(array: np.ndarray, indent: int, write: Callable[[Any], str], width: int,
          is_shortened: bool) -> str:
    if array.ndim == 0:
        return write(array[()])
    edge = options["edgeitems"]
    items: list[Any] = list(array)
    is_cut = is_shortened and len(items) > 2 * edge
    if is_cut:
        items = items[:edge] + items[-edge:]
    if array.ndim > 1:
        texts = [_text(item, indent + 1, write, width, is_shortened) for item in items]
        if is_cut:
            texts.insert(edge, "...")
        separator = "," + "\n" * (array.ndim - 1) + " " * (indent + 1)
        return f"[{separator.join(texts)}]"
    texts = [write(item) for item in items]
    if is_cut:
        texts.insert(edge, " ...")
    n = max(1, (options["linewidth"] - indent) // (width + 2))
    lines = [", ".join(texts[k:k + n]) for k in range(0, len(texts), n)]
    separator = ",\n" + " " * (indent + 1)
    return f"[{separator.join(lines)}]"


def _edges(array: np.ndarray) -> np.ndarray:
    """The elements that are written of a large array."""
    edge = options["edgeitems"]
    for axis, n in enumerate(array.shape):
        if n > 2 * edge:
            array = array.take(np.r_[:edge, n - edge:n], axis)
    return array


def _number_format(elements: np.ndarray) -> Callable[[Any], str]:
    """The function that writes one element, in a format that suits all of them."""
    if elements.dtype.kind in "iub":
        return str
    precision, sci_mode = options["precision"], options["sci_mode"]
    values = elements.astype("float64")
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    are_integers = bool((sizes == np.ceil(sizes)).all())
    if sci_mode is None:
        smallest, largest = (sizes.min(), sizes.max()) if sizes.size else (1.0, 1.0)
        sci_mode = largest / smallest > 1000 or largest > 1e8 or smallest < 1e-4
    if sci_mode:
        return lambda x: f"{float(x):.{precision}e}"
    if are_integers:
        return lambda x: f"{float(x):.0f}." if np.isfinite(x) else f"{float(x):.0f}"
    return lambda x: f"{float(x):.{precision}f}"

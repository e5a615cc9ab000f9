"""Padding with PyTorch's order of widths: from the last axis to the first."""

from __future__ import annotations

from collections.abc import Sequence

from gpuprop._array import shape
from gpuprop._array.scatter import inner_slices
from gpuprop._core.composed import composed
from gpuprop._core.options import as_sizes
from gpuprop._core.signature import Array

NUMPY_MODES = {  # PyTorch's mode -> NumPy's
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


@composed
def pad(input: Array, pad: Sequence[int], mode: str = "constant",
        value: float | None = None) -> Array:
    """Pad the last axes of an array.

    `pad` has two ints per padded axis, (before, after), from the last axis to the first:
    ``(left, right, top, bottom)`` for the last two axes.  Negative ints remove elements.

    `mode` is "constant" (filled with `value`, 0 by default), "reflect" (mirrored at the edge
    elements, which are not repeated), "replicate" (copies of the edge elements) or "circular"
    (elements of the opposite end).

    Raises ValueError for an unknown mode and for widths that do not fit.  On each side of an axis
    of size n, "reflect" adds at most n - 1 elements and "circular" at most n.

    >>> import numpy as np, gpuprop.functional as F
    >>> F.pad(np.array([[1, 2, 3]]), (1, 2))
    array([[0, 1, 2, 3, 0, 0]])
    >>> F.pad(np.array([[1, 2, 3]]), (1, 2), mode="reflect")
    array([[2, 1, 2, 3, 2, 1]])
    """
    if mode not in NUMPY_MODES:
        raise ValueError(f"pad: mode must be one of {', '.join(map(repr, NUMPY_MODES))}, "
                         f"not {mode!r}")
    if value is not None and mode != "constant":
        raise ValueError(f"pad: mode {mode!r} takes no value, but value={value} is given")
    pad = as_sizes("pad: pad", pad)
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"pad: expected (before, after) for at most {input.ndim} axes, "
                         f"not {tuple(pad)}")
    pairs = tuple((pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2))
    widths = ((0, 0),) * (input.ndim - len(pairs)) + pairs
    for axis, width in enumerate(widths):
        check_width(mode, axis, width, input.shape)
    has_negative = any(min(width) < 0 for width in widths)
    if has_negative and mode in ("constant", "circular"):  # the others index the input
        input = crop_negative(input, widths)
        widths = tuple((max(before, 0), max(after, 0)) for before, after in widths)
    if not any(map(any, widths)):
        return input
    return shape.pad(input, widths, NUMPY_MODES[mode], 0 if value is None else value)


def crop_negative(x, widths):
    """`x` without the elements that negative widths remove."""
    starts = [(-min(before, 0), 0) for before, _ in widths]
    sizes = [max(n + min(before, 0) + min(after, 0), 0)
             for n, (before, after) in zip(x.shape, widths, strict=True)]
    return x[inner_slices(starts, sizes)]


def check_width(mode: str, axis: int, width: tuple[int, int], shape: tuple[int, ...]) -> None:
    """Check the padding of one axis against its size."""
    n = shape[axis]
    if n + sum(width) < 0 or n + min(width) < 0:
        raise ValueError(f"pad: {width} removes more elements than there are on axis {axis} of "
                         f"input {shape}")
    limits = {"reflect": max(n - 1, 0), "circular": n}
    if mode in limits and max(width) > limits[mode]:
        raise ValueError(f"pad: mode {mode!r} can add at most {limits[mode]} elements on each side "
                         f"of axis {axis} of input {shape}, not {width}")

"""Padding, said as PyTorch says it: from the last axis on."""

from __future__ import annotations

from collections.abc import Sequence

from gpuprop._array import shape
from gpuprop._array.scatter import inner
from gpuprop._core.composed import composed
from gpuprop._core.signature import Array

MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # PyTorch's: NumPy's


@composed
def pad(input: Array, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Array:
    """More elements around the last axes: (before, after) of the last, then of the last but one, and so on.

    They are `value` (0 if None), or elements of the input: "reflect" at the edges, which come once, "replicate" the
    edges, or "circular".  Negative numbers take elements away.
    """
    if mode not in MODES:
        raise ValueError(f"pad: mode is {', '.join(map(repr, MODES))}, not {mode!r}")
    if value is not None and mode != "constant":
        raise ValueError(f"pad: mode {mode!r} takes no value, and {value} is given")
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"pad: a pair (before, after) for each of at most {input.ndim} axes, not {tuple(pad)}")
    widths = tuple((pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2))
    widths = ((0, 0),) * (input.ndim - len(widths)) + widths
    for axis, (n, width) in enumerate(zip(input.shape, widths, strict=True)):
        _check(mode, axis, n, width, input.shape)
    if mode in ("constant", "circular") and any(w < 0 for width in widths for w in width):
        input = input[inner([(-min(b, 0), 0) for b, _ in widths], _kept(input.shape, widths))]
        widths = tuple((max(b, 0), max(a, 0)) for b, a in widths)
    if not any(map(any, widths)):
        return input
    return shape.pad(input, widths, MODES[mode], 0 if value is None else value)


def _kept(sizes, widths):
    """What is left of each axis when the negative widths are taken away."""
    return [max(n + min(b, 0) + min(a, 0), 0) for n, (b, a) in zip(sizes, widths, strict=True)]


def _check(mode: str, axis: int, n: int, width: tuple[int, int], sizes: tuple[int, ...]) -> None:
    where = f"axis {axis} of input {sizes}"
    if n + sum(width) < 0 or n + min(width) < 0:
        raise ValueError(f"pad: {width} takes more from {where} than it has")
    most = {"reflect": n - 1, "circular": n}.get(mode, max(width))
    if max(width) > max(most, 0):
        raise ValueError(f"pad: mode {mode!r} adds at most {most} elements on a side of {where}, not {width}")

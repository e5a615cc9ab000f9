"""Padding layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop._core.options import checks_options
from gpuprop.nn._module import Module


class Padding(Module):
    """Abstract: pads the spatial dimensions of (N, C, *space) or (C, *space).

    `padding` is one int for all sides, or a pair (before, after) for each spatial dimension, the
    last dimension first.  Negative padding crops.
    """

    _dims: ClassVar[int]  # spatial dimensions
    _mode: ClassVar[str]
    value: float | None = None

    @checks_options(padding=None)
    def __init__(self, padding: int | Sequence[int]) -> None:
        sides = 2 * self._dims
        self.padding = (padding,) * sides if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != sides:
            raise ValueError(f"{type(self).__name__}: padding must be an int or {sides} ints, "
                             f"got {padding}")

    def forward(self, input: Any) -> Any:
        ndims = (self._dims + 1, self._dims + 2)
        if self._mode != "constant" and input.ndim not in ndims:
            raise ValueError(f"{type(self).__name__}: input must have {ndims[0]} or {ndims[1]} "
                             f"axes, got shape {input.shape}")
        return F.pad(input, self.padding, self._mode, self.value)

    def extra_repr(self) -> str:
        return str(self.padding)


class ConstantPadding(Padding):
    """Abstract: pads with `value`."""

    _mode = "constant"

    @checks_options(padding=None)
    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(ConstantPadding):
    """Pad (N, C, L) or (C, L) with `value`.

    `padding` is one int for both sides, or (left, right).
    """

    _dims = 1


class ConstantPad2d(ConstantPadding):
    """Pad (N, C, H, W) or (C, H, W) with `value`.

    `padding` is one int for all sides, or (left, right, top, bottom).
    """

    _dims = 2


class ConstantPad3d(ConstantPadding):
    """Pad (N, C, D, H, W) or (C, D, H, W) with `value`.

    `padding` is one int for all sides, or (left, right, top, bottom, front, back).
    """

    _dims = 3


class ZeroPad1d(Padding):
    """Pad (N, C, L) or (C, L) with zeros.

    `padding` is one int for both sides, or (left, right).
    """

    _dims = 1
    _mode = "constant"


class ZeroPad2d(Padding):
    """Pad (N, C, H, W) or (C, H, W) with zeros.

    `padding` is one int for all sides, or (left, right, top, bottom).
    """

    _dims = 2
    _mode = "constant"


class ZeroPad3d(Padding):
    """Pad (N, C, D, H, W) or (C, D, H, W) with zeros.

    `padding` is one int for all sides, or (left, right, top, bottom, front, back).
    """

    _dims = 3
    _mode = "constant"


class ReflectionPad1d(Padding):
    """Pad (N, C, L) or (C, L) with its reflection, without the edge: 1 2 3 -> 2 1 2 3 2.

    `padding` is one int for both sides, or (left, right).
    """

    _dims = 1
    _mode = "reflect"


class ReflectionPad2d(Padding):
    """Pad (N, C, H, W) or (C, H, W) with its reflection, without the edge: 1 2 3 -> 2 1 2 3 2.

    `padding` is one int for all sides, or (left, right, top, bottom).
    """

    _dims = 2
    _mode = "reflect"


class ReflectionPad3d(Padding):
    """Pad (N, C, D, H, W) or (C, D, H, W) with its reflection, without the edge.

    Example: 1 2 3 -> 2 1 2 3 2.

    `padding` is one int for all sides, or (left, right, top, bottom, front, back).
    """

    _dims = 3
    _mode = "reflect"


class ReplicationPad1d(Padding):
    """Pad (N, C, L) or (C, L) with its edge elements: 1 2 3 -> 1 1 2 3 3.

    `padding` is one int for both sides, or (left, right).
    """

    _dims = 1
    _mode = "replicate"


class ReplicationPad2d(Padding):
    """Pad (N, C, H, W) or (C, H, W) with its edge elements: 1 2 3 -> 1 1 2 3 3.

    `padding` is one int for all sides, or (left, right, top, bottom).
    """

    _dims = 2
    _mode = "replicate"


class ReplicationPad3d(Padding):
    """Pad (N, C, D, H, W) or (C, D, H, W) with its edge elements: 1 2 3 -> 1 1 2 3 3.

    `padding` is one int for all sides, or (left, right, top, bottom, front, back).
    """

    _dims = 3
    _mode = "replicate"


class CircularPad1d(Padding):
    """Pad (N, C, L) or (C, L) with the elements of the other side: 1 2 3 -> 3 1 2 3 1.

    `padding` is one int for both sides, or (left, right).
    """

    _dims = 1
    _mode = "circular"


class CircularPad2d(Padding):
    """Pad (N, C, H, W) or (C, H, W) with the elements of the other side: 1 2 3 -> 3 1 2 3 1.

    `padding` is one int for all sides, or (left, right, top, bottom).
    """

    _dims = 2
    _mode = "circular"


class CircularPad3d(Padding):
    """Pad (N, C, D, H, W) or (C, D, H, W) with the elements of the other side.

    Example: 1 2 3 -> 3 1 2 3 1.

    `padding` is one int for all sides, or (left, right, top, bottom, front, back).
    """

    _dims = 3
    _mode = "circular"

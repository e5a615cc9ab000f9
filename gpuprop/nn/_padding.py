"""Padding: a number for all sides, or a pair (before, after) for each axis, from the last one on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gpuprop.functional as F
from gpuprop.nn._module import Module


class Pad(Module):
    """Abstract: (N, C, *space) or (C, *space) with more elements around the axes of space."""

    n: ClassVar[int]  # axes of space
    mode: ClassVar[str]
    value: float | None = None

    def __init__(self, padding: int | Sequence[int]) -> None:
        self.padding = (padding,) * 2 * self.n if isinstance(padding, int) else tuple(padding)
        if len(self.padding) != 2 * self.n:
            raise ValueError(f"{type(self).__name__}: padding is a number or {2 * self.n}, not {padding}")

    def forward(self, input: Any) -> Any:
        if self.mode != "constant" and input.ndim not in (self.n + 1, self.n + 2):
            raise ValueError(f"{type(self).__name__}: input has {self.n + 1} or {self.n + 2} axes, "
                             f"not {input.ndim}, as {input.shape} has")
        return F.pad(input, self.padding, self.mode, self.value)

    def extra_repr(self) -> str:
        return str(self.padding)


class ConstantPad(Pad):
    """Abstract: with `value`."""

    mode = "constant"

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(ConstantPad):
    n = 1


class ConstantPad2d(ConstantPad):
    n = 2


class ConstantPad3d(ConstantPad):
    n = 3


class ZeroPad1d(Pad):
    n, mode = 1, "constant"


class ZeroPad2d(Pad):
    n, mode = 2, "constant"


class ZeroPad3d(Pad):
    n, mode = 3, "constant"


class ReflectionPad1d(Pad):
    n, mode = 1, "reflect"


class ReflectionPad2d(Pad):
    n, mode = 2, "reflect"


class ReflectionPad3d(Pad):
    n, mode = 3, "reflect"


class ReplicationPad1d(Pad):
    n, mode = 1, "replicate"


class ReplicationPad2d(Pad):
    n, mode = 2, "replicate"


class ReplicationPad3d(Pad):
    n, mode = 3, "replicate"


class CircularPad1d(Pad):
    n, mode = 1, "circular"


class CircularPad2d(Pad):
    n, mode = 2, "circular"


class CircularPad3d(Pad):
    n, mode = 3, "circular"

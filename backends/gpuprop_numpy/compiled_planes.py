"""Planes of convolutions that Numba's loops fill and read."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gpuprop_numpy import compiled
from gpuprop_numpy.microkernels import microkernels
from gpuprop_numpy.planes import Layout, Planes

ALIGNMENT = 16  # windows: rows are padded to multiples of it, which no vector exceeds
MIN_LENGTH = 48  # windows of a row: as many as the largest tile


class PlaneLoops(NamedTuple):
    """Loops over the images of a task.

    ``forward(first, parts, planes, starts, places, windows, *boxes, filters, bias)`` and
    ``grad(...)`` compute `parts` of a batch from the image `first` on.  The boxes are those of the
    images in planes, of the first images of x, of the windows in `windows`, and of the first images
    of y or dy.  `planes` is flat; ``starts[g, k]`` is where the windows meet the term k of group g.
    `windows` is (groups, O / groups, windows).  `places` is empty, unless the loops copy windows:
    then it says where they are in a plane.  `grad` adds to its last argument, (groups, O / groups,
    terms).
    """

    forward: Callable
    grad: Callable


class CompiledPlanes(Planes):
    """Planes whose loops compute all images of a task in one call.

    So threads do not wait for Python's lock.
    """

    def __init__(self, layout: Layout, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__(layout, x, y)
        g = layout.geometry
        shape = self.windows_shape(layout)
        count = math.prod(shape)
        length = max(MIN_LENGTH, math.ceil(count / ALIGNMENT) * ALIGNMENT)
        windows = np.zeros((g.groups, g.group_out, length), y.dtype)
        inside = self.inside(windows.reshape(g.out, -1)[:, :count].reshape(-1, *shape))
        of_images = [x[elements] for _, elements in layout.inside]
        self._arguments = (
            self.planes.reshape(-1), layout.starts.reshape(g.groups, -1),
            self.places(layout, y.dtype), windows,
            boxes(self.images()), boxes(of_images), boxes([inside]), boxes([y[:len(inside)]]))

    def forward(self, filters: np.ndarray, bias: np.ndarray | None,
                parts: Sequence[slice]) -> None:
        bias = np.zeros(self.geometry.out, self.y.dtype) if bias is None else np.array(bias)
        loops = self.loops(self.y.dtype)
        loops.forward(parts[0].start, len(parts), *self._arguments, filters, bias)

    def grad(self, parts: Sequence[slice]) -> np.ndarray:
        _, starts, _, windows, *_ = self._arguments
        terms = starts.shape[1]
        length = math.ceil(terms / ALIGNMENT) * ALIGNMENT
        grad = np.zeros((*windows.shape[:2], length), windows.dtype)[..., :terms]
        loops = self.loops(windows.dtype)
        loops.grad(parts[0].start, len(parts), *self._arguments, grad)
        return grad

    @staticmethod
    def windows_shape(layout: Layout) -> tuple[int, ...]:
        """The shape of the windows of one output, with or without those across rows."""
        return layout.shape

    @staticmethod
    def places(layout: Layout, dtype: np.dtype) -> np.ndarray:
        """Where the windows are in a plane; empty if they follow each other."""
        return np.empty(0, np.int64)

    @staticmethod
    @abstractmethod
    def loops(dtype: np.dtype) -> PlaneLoops:
        """The loops for a dtype."""


def boxes(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of the address, five steps in bytes and five sizes, for arrays (N, C, *space).

    So one compiled function copies arrays in any memory order.
    """
    return np.array([
        [a.__array_interface__["data"][0], *_five_axes(a.strides, 0), *_five_axes(a.shape, 1)]
        for a in arrays])


def _five_axes(values: tuple, missing: int) -> tuple:
    """The values of four or five axes; four get one more, `missing`, before the last."""
    return values[:3] + (missing,) * (5 - len(values)) + values[3:]


def plane_loops(dtype: np.dtype, apply: Callable, add_grad: Callable) -> PlaneLoops:
    """The loops around these, of one block.

    They are ``apply(planes, starts, places, filters, bias, windows)`` and ``add_grad(planes,
    starts, places, windows, grad)``, compiled by Numba.
    """
    copy = microkernels(dtype).copy
    decorate = compiled.njit()
    assert decorate is not None  # apply and add_grad are compiled

    @decorate
    def move(to: Any, to_image: Any, source: Any, image: Any) -> None:
        """Copy the images of a box, and those after the first of `source`."""
        for c in range(to[7]):
            for i in range(to[8]):
                for n in range(to[6]):
                    for j in range(to[9]):
                        copy(to[0] + (to_image + n) * to[1] + c * to[2] + i * to[3] + j * to[4],
                             to[5], source[0] + (image + n) * source[1] + c * source[2]
                             + i * source[3] + j * source[4], source[5], to[10])

    @decorate
    def forward(first: Any, parts: Any, planes: Any, starts: Any, places: Any, windows: Any,
                in_planes: Any, in_x: Any, in_windows: Any, in_y: Any, filters: Any,
                bias: Any) -> None:
        images = in_windows[0, 6]
        for image in range(first, first + parts * images, images):
            for phase in range(len(in_planes)):
                move(in_planes[phase], 0, in_x[phase], image)
            apply(planes, starts, places, filters, bias, windows)
            move(in_y[0], image, in_windows[0], 0)

    @decorate
    def grad(first: Any, parts: Any, planes: Any, starts: Any, places: Any, windows: Any,
             in_planes: Any, in_x: Any, in_windows: Any, in_dy: Any, total: Any) -> None:
        images = in_windows[0, 6]
        for image in range(first, first + parts * images, images):
            for phase in range(len(in_planes)):
                move(in_planes[phase], 0, in_x[phase], image)
            move(in_windows[0], 0, in_dy[0], image)
            add_grad(planes, starts, places, windows, total)

    return PlaneLoops(compiled.Loop(forward), compiled.Loop(grad))

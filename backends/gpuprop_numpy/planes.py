"""The layout in which convolutions on the CPU read images, and the loop over a batch.

The images of a block are copied to planes, one per channel, in which rows follow each other with
zeros in between.  There, the windows at one offset of the filter are one slice, from another start.
The slice also has windows across the ends of rows; their results are left out, which costs less
than copying the rows of every offset.  A stride s splits the planes: element i of a padded axis is
element ``i // s`` of phase ``i % s``.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuprop_numpy.threads import in_threads

WORK_PER_TASK = 1 << 23  # multiplications of BLAS
EVENLY = 4  # more than two tasks are a multiple of it, so that 2 or 4 threads get equal shares
SLACK = 128  # elements after the last window, which loops of Numba read
KEPT = 1 << 9  # sizes whose layouts are kept; to compute one takes 0.1 ms


class Geometry:
    """The sizes of a convolution of one image.

    A signal, with one axis, is an image of one row.
    """

    def __init__(self, space: Sequence[int], weight_shape: Sequence[int], stride: Sequence[int],
                 padding: Sequence[tuple[int, int]], dilation: Sequence[int], groups: int) -> None:
        self.out, self.group_channels, *size = weight_shape
        self.groups, self.group_out = groups, self.out // groups
        self.channels = self.group_channels * groups
        if len(size) == 1:
            space, size, stride, dilation = (1, *space), [1, *size], (1, *stride), (1, *dilation)
            padding = ((0, 0), *padding)
        self.size, self.stride, self.dilation = tuple(size), stride, dilation
        self._set_space(space, padding)

    def with_space(self, space: Sequence[int], padding: Sequence[tuple[int, int]]) -> Geometry:
        """The same filters on an image of another size."""
        other = copy.copy(self)
        other._set_space(space, padding)
        return other

    def _set_space(self, space: Sequence[int], padding: Sequence[tuple[int, int]]) -> None:
        size, stride, dilation = self.size, self.stride, self.dilation
        self.space, self.padding = tuple(space), padding
        padded = [n + before + after for n, (before, after) in zip(space, padding, strict=True)]
        self.counts = tuple((n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(
            padded, size, stride, dilation, strict=True))
        self.windows = math.prod(self.counts)
        # the windows are the elements of the image
        self.is_product = list(space) == padded and math.prod((*size, *stride)) == 1
        self.work = self.out * self.group_channels * math.prod(size) * self.windows


class Axis:
    """One axis of the planes: its length, its phases, and where the offsets of the filter are."""

    def __init__(self, g: Geometry, axis: int) -> None:
        before, after = g.padding[axis]
        stride, n = g.stride[axis], g.space[axis]
        # the zeros after a row are those before the next one
        zeros = max(before, after) if axis else before + max(after, 0)
        self.length = max(g.counts[axis], math.ceil((n + zeros) / stride))
        places = [divmod(i * g.dilation[axis], stride) for i in range(g.size[axis])]
        phases = sorted({phase for _, phase in places})
        self.offsets = [(phases.index(phase), start) for start, phase in places]
        self.inside = []  # for each phase: the part of the planes, and the elements of the images
        for phase in phases:
            first = max(0, math.ceil((before - phase) / stride))
            start = first * stride + phase - before
            count = len(range(start, n, stride))
            self.inside.append((slice(first, first + count), slice(start, None, stride)))
        self.phases = len(phases)

    def rows(self, phase: int) -> slice:
        """The offsets of the filter in a phase."""
        return slice([p for p, _ in self.offsets].index(phase), None, self.phases)


class Layout:
    """Where the images and their windows are in the planes of a block.

    A plane has the axes (rows, images, *other axes), so that the windows across the ends of images
    are no more than those across the ends of rows.
    """

    def __init__(self, g: Geometry, images: int) -> None:
        self.geometry = g
        self.axes = [Axis(g, i) for i in range(len(g.size))]
        lengths = [axis.length for axis in self.axes]
        self.steps = [math.prod(lengths[i + 1:]) for i in range(len(lengths))]
        self.steps[0] *= images
        self.shape = (g.counts[0], images, *lengths[1:])  # of the windows
        self.windows = math.prod(self.shape)
        self.phases = math.prod(axis.phases for axis in self.axes)
        self.plane_shape = (lengths[0], images, *lengths[1:])
        elements = math.prod(self.plane_shape)
        end = self.windows + sum(step * max(start for _, start in axis.offsets)
                                 for axis, step in zip(self.axes, self.steps, strict=True))
        self.length = max(elements, end) + SLACK  # of a plane
        # for each phase: indices of (C, *plane_shape), images first, and of (N, C, *space)
        self.inside = [tuple((..., *part) for part in zip(*parts, strict=True))
                       for parts in itertools.product(*(axis.inside for axis in self.axes))]
        phases, starts = np.array(self.places(0, len(self.axes))).T
        planes = np.arange(g.channels)[:, None] + phases * g.channels
        self.starts = planes * self.length + starts  # of the windows, (C, offsets)

    def places(self, first: int, end: int) -> list[tuple[int, int]]:
        """The phase, and the start in its plane, of all offsets along some axes."""
        found = [(0, 0)]
        for axis, step in zip(self.axes[first:end], self.steps[first:end], strict=True):
            found = [(phase * axis.phases + i, before + start * step)
                     for phase, before in found for i, start in axis.offsets]
        return found


@functools.lru_cache(KEPT)
def geometry(*sizes: Any) -> Geometry:
    """``Geometry(*sizes)``."""
    return Geometry(*sizes)


@functools.lru_cache(KEPT)
def layout(g: Geometry, images: int) -> Layout:
    """``Layout(g, images)``."""
    return Layout(g, images)


class Planes(ABC):
    """The planes of a block of images of x (N, C, *space), for windows of y (N, O, *counts).

    They are (phases, C, length).  A subclass applies the filters, in an order of its own.
    """

    cost = 1  # of a multiplication, compared with BLAS
    min_windows = 512  # of a block; longer matrix products are not faster
    max_elements = 1 << 17  # of a block, unless it would have too few windows

    def __init__(self, layout: Layout, x: np.ndarray, y: np.ndarray) -> None:
        self.layout = layout
        self.geometry = layout.geometry
        self.x, self.y = x, y
        self.planes = np.zeros((layout.phases, self.geometry.channels, layout.length), x.dtype)

    def images(self) -> list[np.ndarray]:
        """The places of the images, (images, C, ...) for each phase."""
        shape = self.layout.plane_shape
        planes = self.planes[..., :math.prod(shape)].reshape(*self.planes.shape[:2], *shape)
        return [_images_first(plane)[inside]
                for plane, (inside, _) in zip(planes, self.layout.inside, strict=True)]

    def inside(self, windows: np.ndarray) -> np.ndarray:
        """(O, *shape) -> a view (images, O, *counts), without the windows across rows."""
        index: tuple[Any, ...] = (..., *map(slice, self.geometry.counts))
        return _images_first(windows)[index]

    @staticmethod
    @abstractmethod
    def elements(g: Geometry) -> int:
        """The number of elements in memory per window."""

    @staticmethod
    @abstractmethod
    def filters(weight: np.ndarray, g: Geometry) -> np.ndarray:
        """(O, C / groups, *size) -> the filters."""

    @abstractmethod
    def forward(self, filters: np.ndarray, bias: np.ndarray | None,
                parts: Sequence[slice]) -> None:
        """Apply the filters to equal parts of the batch, and write y."""

    @abstractmethod
    def grad(self, parts: Sequence[slice]) -> np.ndarray:
        """The gradient of the filters, of equal parts of the batch; y is that of the windows."""

    @staticmethod
    def weight_grad(grad: np.ndarray, g: Geometry) -> np.ndarray:
        """The gradient of the filters -> (O, C / groups, *size)."""
        return grad.reshape(g.out, g.group_channels, *g.size)


class NumpyPlanes(Planes):
    """Planes that NumPy reads, one part of the batch after the other."""

    def __init__(self, layout: Layout, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__(layout, x, y)
        self._images = self.images()

    def read(self, part: slice) -> None:
        """Copy a part of the batch."""
        for place, (_, elements) in zip(self._images, self.layout.inside, strict=True):
            place[...] = self.x[part][elements]

    def forward(self, filters: np.ndarray, bias: np.ndarray | None,
                parts: Sequence[slice]) -> None:
        y = self.y
        windows = np.empty((self.geometry.out, *self.layout.shape), y.dtype)
        result = self.inside(windows)
        per_channel = None if bias is None else bias.reshape(-1, *(1,) * (y.ndim - 2))
        for part in parts:
            self.read(part)
            self.apply(filters, windows)
            if per_channel is None:
                y[part] = result
            else:
                np.add(result, per_channel, out=y[part])

    def grad(self, parts: Sequence[slice]) -> np.ndarray:
        windows = self.new_dy()
        inside = self.inside(windows)
        grad = self.new_grad()
        for part in parts:
            self.read(part)
            inside[...] = self.y[part]
            self.add_grad(grad, windows)
        return grad

    @abstractmethod
    def apply(self, filters: np.ndarray, out: np.ndarray) -> None:
        """Write the products of the filters and all windows to out, (O, *shape)."""

    def new_dy(self) -> np.ndarray:
        """Zeros, (O, *shape)."""
        return np.zeros((self.geometry.out, *self.layout.shape), self.planes.dtype)

    @abstractmethod
    def new_grad(self) -> np.ndarray:
        """Zeros in the order of the gradient of the filters."""

    @abstractmethod
    def add_grad(self, grad: np.ndarray, dy: np.ndarray) -> None:
        """Add the gradient of the filters, for dy (O, *shape)."""


def _images_first(a: np.ndarray) -> np.ndarray:
    """(C, rows, images, ...) -> (images, C, rows, ...)."""
    return a.transpose(2, 0, 1, *range(3, a.ndim))


def tasks_of(n: int, work: int, max_tasks: int | None = None) -> list[slice]:
    """Slices of similar length of n items, each of so much work.

    They are 1, 2 or a multiple of EVENLY, but no more than `n` and `max_tasks`.
    """
    count = max(1, math.ceil(n * work / WORK_PER_TASK))
    if count > 2:
        count = math.ceil(count / EVENLY) * EVENLY
    count = min(count, max_tasks or n, n)
    return [slice(i * n // count, (i + 1) * n // count) for i in range(count)]


def in_blocks(kind: type[Planes], g: Geometry, x: np.ndarray, y: np.ndarray,
              work: Callable[[Any, Sequence[slice]], Any], max_tasks: int | None = None) -> list:
    """The results of ``work(block, parts)`` for tasks of a few parts of the batch.

    A thread uses one block for all of its tasks.
    """
    n = len(x)
    windows = max(kind.min_windows, kind.max_elements // kind.elements(g))
    images = max(1, windows // max(1, g.windows))
    images = max(1, math.ceil(n / max(1, math.ceil(n / images))))  # parts of equal size
    parts = [slice(i, i + images) for i in range(0, n - images + 1, images)]
    tasks = [parts[task] for task in tasks_of(len(parts), kind.cost * g.work * images, max_tasks)]
    if n % images:
        tasks.append([slice(n - n % images, n)])
    layouts = {size: layout(g, size) for size in {task[0].stop - task[0].start for task in tasks}}
    local = threading.local()

    def run(task: Sequence[slice]) -> Any:
        of_task = layouts[task[0].stop - task[0].start]
        block = getattr(local, "block", None)
        if block is None or block.layout is not of_task:
            block = local.block = kind(of_task, x, y)
        return work(block, task)

    return in_threads(run, tasks)

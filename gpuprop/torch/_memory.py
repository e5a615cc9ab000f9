"""Memory that several Tensors share, and writes to it that have a gradient.

Without a gradient, a write goes to the memory, and all its Tensors see it.  With one, the memory is
copied, so that the old values stay for backward; all living Tensors move to the copy, and those
that overlap the written one get its history too.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuprop._array.arithmetic import where
from gpuprop._array.indexing import take
from gpuprop._array.shape import reshape
from gpuprop._core.graph import extent
from gpuprop._core.namespace import get_array_module
from gpuprop._core.tensor import is_retaining


class Views:
    """The Tensors of one history in one memory.  `detach()` starts another history in it.

    `histories` is the list of all Views of the memory.  `leaf` is a weak reference to the leaf that
    the memory belongs to.  `is_lent` tells that an optimizer is going to use the memory again.
    """

    __slots__ = ("histories", "is_lent", "leaf", "limit", "tensors")

    def __init__(self, beside: Views | None = None) -> None:
        self.tensors: list[weakref.ref] = []
        self.limit = 8  # the number of references at which dead ones are removed
        self.histories: list[Views] = [] if beside is None else beside.histories
        self.leaf: Callable[[], Any] = (lambda: None) if beside is None else beside.leaf
        self.is_lent: bool = beside is not None and beside.is_lent
        self.histories.append(self)
        if len(self.histories) > 8:
            self.histories[:] = [v for v in self.histories if v is self or v.is_alive()]

    def add(self, t: Any) -> None:
        """Let `t` be one of the Tensors."""
        t.memory = self
        self.tensors.append(weakref.ref(t))
        if len(self.tensors) > self.limit:
            self.tensors = [r for r in self.tensors if r() is not None]
            self.limit = 2 * len(self.tensors) + 8

    def is_alive(self) -> bool:
        return next(self.living(), None) is not None

    def take_back(self) -> None:
        """Let the Tensors have a copy of the memory, which is going to be used again."""
        for views in self.histories:
            views.is_lent = False
        tensors = [t for views in self.histories for t in views.living()]
        for dtype in {t.array.dtype for t in tensors}:
            move_to_copy([t for t in tensors if t.array.dtype == dtype])

    def living(self) -> Iterator[Any]:
        """The Tensors that exist and have not left the memory."""
        for reference in self.tensors:
            t = reference()
            if t is not None and getattr(t, "memory", None) is self:
                yield t


def views_of(t: Any) -> Views:
    """The Views that a Tensor belongs to."""
    try:
        return t.memory
    except AttributeError:
        Views().add(t)
        return t.memory


def leave(t: Any) -> None:
    """Declare that the array of `t` is not in the memory any more."""
    if hasattr(t, "memory"):
        del t.memory


def shares(a: Any, b: Any) -> bool:
    """True if array `a` is a view of the memory of array `b`."""
    return a.base is not None and _owner(a) is _owner(b)


def _owner(array: Any) -> Any:
    """The object that owns the memory of an array."""
    if not isinstance(array, np.ndarray) and hasattr(array, "data"):
        return getattr(array.data, "mem", array)  # CuPy's allocation
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


def others_in_memory(t: Any) -> list[Any]:
    """The other living Tensors in the memory of `t`."""
    if not hasattr(t, "memory"):
        return []
    owner = _owner(t.array)
    return [other for views in t.memory.histories for other in views.living()
            if other is not t and _owner(other.array) is owner]


def overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """True if two ranges of addresses have one in common."""
    return one[0] < other[1] and other[0] < one[1]


def is_self_overlapping(array: Any) -> bool:
    """True if several elements are at one address, as after `expand`."""
    return array.size > 0 and any(
        n > 1 and stride == 0
        for n, stride in zip(array.shape, array.strides, strict=True))


def write_with_history(t: Any, new: Any, others: list[Any]) -> None:
    """Let `t` have the value and the history of `new`, and `others` see it, as after a write."""
    tensors = [t, *others]
    if any(other.array.dtype != t.array.dtype for other in others):
        raise RuntimeError("an in-place operation with a gradient, on memory that a tensor of "
                           "another dtype views: write x = x.op(...) in place of x.op_(...)")
    numbers = _numbers(tensors)
    order = np.argsort(numbers[0], axis=None)
    written = numbers[0].reshape(-1)[order]
    flat = reshape(new, (-1,))
    xp = get_array_module(t.array)
    for other, own in zip(others, numbers[1:], strict=True):
        place = np.minimum(np.searchsorted(written, own), len(written) - 1)
        is_written = written[place] == own
        if other.memory is t.memory and is_written.any():
            changed = where(xp.asarray(is_written), take(flat, xp.asarray(order[place])), other)
            take_history(other, changed)
    move_to_copy(tensors, numbers)
    t.array[...] = new.array
    take_history(t, new)


def take_history(t: Any, new: Any) -> None:
    """Let `t` have the history of `new`; its `grad` is that of its new value from now on."""
    retaining = [] if t.node is None else [h for h in t.node.hooks or () if is_retaining(h)]
    for hook in retaining:
        t.node.hooks.remove(hook)
    t.node, t.requires_grad = new.node, new.requires_grad
    if retaining:
        t.retain_grad()


def move_to_copy(tensors: list[Any], numbers: list[np.ndarray] | None = None) -> None:
    """Move Tensors of one dtype in one memory to a copy of it, where they overlap as before."""
    numbers = numbers or _numbers(tensors)
    memory = _Memory(tensors, numbers)
    for x, own in zip(tensors, numbers, strict=True):
        x.array = memory.window(x.array, own)


def follow(moved: Any, old: Any) -> list[Any]:
    """Let the Tensors in the memory `old` of a Tensor move with it to its new memory.

    Returns those that cannot: they are not in `old` alone, or are of another dtype.
    """
    memory = getattr(moved, "memory", None)
    owner = _owner(old)
    tensors = [t for views in (memory.histories if memory else ()) for t in views.living()
               if t is not moved and _owner(t.array) is owner]
    left = []
    first, end = extent(old)
    flat = moved.array.reshape(-1)
    for t in tensors:
        start, stop = extent(t.array)
        if not overlap((start, stop), (first, end)):
            continue
        is_inside = first <= start and stop <= end and t.array.dtype == flat.dtype
        if is_inside and old.flags.c_contiguous and min(t.array.strides, default=0) >= 0:
            t.array = get_array_module(flat).lib.stride_tricks.as_strided(
                flat[(start - first) // flat.itemsize:], t.array.shape, t.array.strides)
        else:
            left.append(t)
    return left


def _numbers(tensors: list[Any]) -> list[np.ndarray]:
    """The numbers of each Tensor's elements, counted from the first element of all."""
    start = min(extent(x.array)[0] for x in tensors)
    return [_element_numbers(x.array, start) for x in tensors]


class _Memory:
    """A copy of the memory of Tensors, without the parts that none of them is in."""

    def __init__(self, tensors: list[Any], numbers: list[np.ndarray]) -> None:
        self.xp = get_array_module(tensors[0].array)
        count = 1 + max(int(n.max()) for n in numbers if n.size)
        self.flat = self.xp.empty(count, tensors[0].array.dtype)
        for x, own in zip(tensors, numbers, strict=True):
            self.window(x.array, own)[...] = x.array

    def window(self, array: Any, numbers: np.ndarray) -> Any:
        """The view of the copy at the place that `array` has in the memory."""
        first = int(numbers.flat[0]) if numbers.size else 0
        return self.xp.lib.stride_tricks.as_strided(self.flat[first:], array.shape, array.strides)


def _element_numbers(array: Any, start: int) -> np.ndarray:
    """The number of each element in the memory that begins at address `start`."""
    steps = [stride // array.itemsize for stride in array.strides]
    first = (extent(array)[0] - start) // array.itemsize
    first -= sum((n - 1) * step for n, step in zip(array.shape, steps, strict=True) if step < 0)
    numbers = np.full(array.shape, first)
    for axis, (n, step) in enumerate(zip(array.shape, steps, strict=True)):
        numbers += (np.arange(n) * step).reshape(-1, *(1,) * (array.ndim - axis - 1))
    return numbers

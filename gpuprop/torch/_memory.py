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


class Views:
    """The Tensors of one history in one memory.  `detach()` starts another history in it.

    `histories` is the list of all Views of the memory.  `leaf` is a weak reference to the leaf that
    the memory belongs to.
    """

    __slots__ = ("histories", "leaf", "limit", "tensors")

    def __init__(self, beside: Views | None = None) -> None:
        self.tensors: list[weakref.ref] = []
        self.limit = 8  # the number of references at which dead ones are removed
        self.histories: list[Views] = [] if beside is None else beside.histories
        self.leaf: Callable[[], Any] = (lambda: None) if beside is None else beside.leaf
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
    start = min(extent(x.array)[0] for x in tensors)
    numbers = [_element_numbers(x.array, start) for x in tensors]
    memory = _Memory(tensors, numbers)
    order = np.argsort(numbers[0], axis=None)
    written = numbers[0].reshape(-1)[order]
    flat = reshape(new, (-1,))
    xp = get_array_module(t.array)
    for other, own in zip(others, numbers[1:], strict=True):
        place = np.minimum(np.searchsorted(written, own), len(written) - 1)
        is_written = written[place] == own
        if other.memory is t.memory and is_written.any():
            changed = where(xp.asarray(is_written), take(flat, xp.asarray(order[place])), other)
            other.node, other.requires_grad = changed.node, changed.requires_grad
    for x, own in zip(tensors, numbers, strict=True):
        x.array = memory.window(x.array, own)
    t.array[...] = new.array
    t.node, t.requires_grad = new.node, new.requires_grad


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

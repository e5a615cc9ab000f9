"""The Tensor of the PyTorch dialect: the engine's Tensor with PyTorch's meanings of its words.

The classes have no slots of their own, so an object changes its dialect by changing its class.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop._array.arithmetic import where
from gpuprop._array.indexing import getitem
from gpuprop._array.methods import _key
from gpuprop._array.shape import copy
from gpuprop._core import tensor as engine
from gpuprop._core.checks import as_callable
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import extent, raw, written
from gpuprop._core.mode import is_grad_enabled
from gpuprop._core.namespace import get_array_module
from gpuprop._core.placement import on_device_of, place_of
from gpuprop._core.registry import HOST, backend_of, default_backend, set_default_backend
from gpuprop._core.warnings import warn
from gpuprop.torch._memory import (
    Views,
    follow,
    is_self_overlapping,
    leave,
    others_in_memory,
    overlap,
    take_history,
    views_of,
    write_with_history,
)
from gpuprop.torch._printing import as_text


class Size(tuple):
    """A shape, with the number of elements as `numel()`."""

    __slots__ = ()

    def numel(self) -> int:
        n = 1
        for size in self:
            n *= size
        return n

    def __getitem__(self, key: Any) -> Any:
        found = tuple.__getitem__(self, key)
        return Size(found) if isinstance(key, slice) else found

    def __add__(self, other: Any) -> Size:
        return Size(tuple.__add__(self, other))

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"


class device(str):
    """A device such as "cpu" or "cuda:1": a string with a `type` and an `index`."""

    __slots__ = ()

    def __new__(cls, type: Any, index: int | None = None) -> device:
        text = f"cuda:{type}" if isinstance(type, int) else str(type)
        kind = text.partition(":")[0]
        if kind not in DEVICE_TYPES:
            raise RuntimeError(f"device: expected one of {', '.join(DEVICE_TYPES)}, got {text!r}")
        return super().__new__(cls, text if index is None else f"{text}:{index}")

    @property
    def type(self) -> str:
        return str(self).partition(":")[0]

    @property
    def index(self) -> int | None:  # type: ignore[override]
        number = self.partition(":")[2]
        return int(number) if number else None

    def __repr__(self) -> str:
        index = "" if self.index is None else f", index={self.index}"
        return f"device(type='{self.type}'{index})"


DEVICE_TYPES = "cpu", "cuda", "strict"


def set_default_device(device: Any) -> None:
    """Make new tensors on a device, such as "cuda"; None is the CPU."""
    set_default_backend("cpu" if device is None else str(device))


def get_default_device() -> device:
    """The device on which new tensors are made."""
    backend = default_backend()
    return _device(backend.name if backend.device_count() < 2 else
                   f"{backend.name}:{backend.device()}")


def device_of(t: Any) -> device:
    """The device of a Tensor in PyTorch's words."""
    return _device(place_of(raw(t)))


def _device(place: str) -> device:
    name, _, index = place.partition(":")
    if name == HOST:
        return device("cpu")
    return device(f"cuda:{index or 0}" if name == "cupy" else name)


WRITTEN = "written"  # the `again` of a node whose output was written without a gradient


def changed_in_place(t: Any) -> None:
    """Report a write to the memory of a Tensor.

    Results of ops that the memory holds cannot be computed again: see `Node.again`.
    """
    where_written = extent(t.array)
    for other in (t, *others_in_memory(t)):
        if other.node is not None and overlap(extent(other.array), where_written):
            other.node.again = WRITTEN
    leaf = t if isinstance(t, engine.Parameter) else views_of(t).leaf()
    if leaf is None:
        written(extent(t.array))
    else:
        leaf.touch()


# ---- the Tensor ----------------------------------------------------------------------------------


def wrap(array: Any) -> Tensor:
    """A Tensor of this dialect around an array, without copying it."""
    t = object.__new__(Tensor)
    engine.Tensor.__init__(t, array)
    return t


def as_torch(value: Any) -> Any:
    """The same Tensors in this dialect, in tuples and lists too.

    A leaf stays the same object and changes its class.
    """
    if isinstance(value, tuple | list):
        items = map(as_torch, value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, engine.Tensor) and not isinstance(value, Words):
        value.__class__ = Parameter if isinstance(value, engine.Parameter) else Tensor
    return value


def as_gradient(g: Any) -> Any:
    """A gradient as hooks get it; other code may hold `g` too, so its class does not change."""
    if not isinstance(g, engine.Tensor):
        return g if g is None else wrap(g)
    t: Any = wrap(g.array)
    t.node, t.requires_grad = g.node, g.requires_grad
    return t


class Words:
    """What a Tensor of this dialect does in its own way; `_methods` adds the other methods."""

    __slots__ = ()

    # ---- memory and gradient

    @property
    def shape(self: Any) -> Size:
        return Size(self.array.shape)

    @property
    def device(self: Any) -> device:
        return device_of(self)

    @property
    def data(self: Any) -> Tensor:
        """A Tensor in the same memory, without history; writing to it changes this tensor."""
        t = self.detach()
        if isinstance(self, engine.Parameter):
            t.memory.leaf = weakref.ref(self)
        return t

    @data.setter
    def data(self: Any, value: Any) -> None:
        self.array = raw(value)
        leave(self)
        if isinstance(value, engine.Tensor):
            views_of(value).add(self)

    @property
    def grad(self: Any) -> Any:
        """The gradient, as a Tensor in its memory: the same one at each access."""
        g = self.gradient
        if g is None or isinstance(g, engine.Tensor):  # a Tensor: it has a history itself
            return g
        return lend(self, g)

    @grad.setter
    def grad(self: Any, value: Any) -> None:
        if value is not None and value.shape != self.shape:
            raise RuntimeError(f"assigned grad has data of a different size: expected "
                               f"{tuple(self.shape)}, got {tuple(value.shape)}")
        has_history = isinstance(value, engine.Tensor) and value.requires_grad
        self.gradient = value if value is None or has_history else raw(value)
        if isinstance(value, Words) and not has_history:
            _lend_in(views_of(value), self, self.gradient)

    _grad = grad  # programs that train one model from several threads assign to it

    def receive(self: Any, g: Any) -> None:
        """Add `g` to the gradient; it is a Tensor with a history if `create_graph` made it."""
        with engine.accumulation_lock:
            old = self.gradient
            if isinstance(g, engine.Tensor) or isinstance(old, engine.Tensor):
                g = as_torch(g) if isinstance(g, engine.Tensor) else wrap(g)
                self.gradient = g if old is None else old + g
            elif old is not None:
                old += g  # in place: the program may hold the Tensor
            else:
                if getattr(self, "grad_buffer", None) is not None:
                    take_back(self)
                base = engine.Parameter if isinstance(self, engine.Parameter) else engine.Tensor
                base.receive(self, g)

    def _reclaim_gradient(self: Any) -> None:
        take_back(self)

    def _move_to(self: Any, array: Any) -> None:
        """Use another memory, with the same values; Tensors in the old one come along."""
        old = self.array
        super()._move_to(array)  # type: ignore[misc]
        if follow(self, old):
            warn("an optimizer moves its parameters to memory of its own; a tensor that was made "
                 "before and shares memory with more than one parameter does not see its steps: "
                 "make it after the optimizer, from the parameters")

    def detach(self: Any) -> Tensor:
        t = wrap(self.array)
        Views(beside=views_of(self)).add(t)
        return t

    def detach_(self: Any) -> Any:
        self.node = None
        self.requires_grad = False
        return self

    def numpy(self: Any, *, force: bool = False) -> np.ndarray:
        """The array, in the same memory on the CPU; a copy from a device if `force`.

        A gradient in an optimizer's memory is copied, because the next one is going to be there.
        """
        if self.requires_grad and not force:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. "
                               "Use tensor.detach().numpy() instead.")
        a = raw(self)
        if backend_of(a).name == HOST:
            return a.copy() if views_of(self).is_lent else a
        if not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use "
                            f"Tensor.cpu() to copy the tensor to host memory first.")
        return backend_of(a).to_numpy(a)

    def __array__(self: Any, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """As `numpy`: in the same memory, if the dtype is the same and no copy is asked for."""
        return np.array(self.numpy(), dtype, copy=copy)

    def register_hook(self: Any, hook: Callable) -> RemovableHandle:
        """Call `hook` with the gradient of this tensor, a Tensor, when it is complete."""
        as_callable("register_hook: hook", hook)
        return RemovableHandle(engine.Tensor.register_hook(self, lambda g: hook(as_gradient(g))))

    def register_post_accumulate_grad_hook(self: Any, hook: Callable) -> RemovableHandle:
        """Call ``hook(self)`` when backward has added to the gradient of this leaf."""
        return RemovableHandle(engine.Tensor.register_post_accumulate_grad_hook(self, hook))

    # ---- writing in place

    def update_(self: Any, new: Any) -> Any:
        """Become `new`: in memory, or, if a gradient is recorded, as a new value with a history."""
        if isinstance(new, engine.Tensor) and new.shape != self.shape:
            raise RuntimeError(f"output with shape {list(self.shape)} doesn't match the broadcast "
                               f"shape {list(new.shape)}")
        if rank(new.array.dtype) > rank(self.array.dtype):
            raise RuntimeError(f"result type {new.array.dtype} can't be cast to the desired output "
                               f"type {self.array.dtype}: write x = x.op(...) in place of "
                               f"x.op_(...)")
        if is_self_overlapping(self.array):
            raise RuntimeError("unsupported operation: more than one element of the written-to "
                               "tensor refers to a single memory location. Please clone() the "
                               "tensor before performing the operation.")
        if not (is_grad_enabled() and (self.requires_grad or new.requires_grad)):
            with on_device_of((self,)):
                self.array[...] = raw(new)
            changed_in_place(self)
            return self
        others = others_in_memory(self)
        if any(t.node is None and t.requires_grad for t in (self, *others)):
            raise RuntimeError("a leaf Variable that requires grad is being used in an in-place "
                               "operation.")
        new = new if new.array.dtype == self.array.dtype else new.to(self.array.dtype)
        if not new.requires_grad:  # the old value has a gradient still: 0
            new = where(get_array_module(new).zeros((), "bool"), self, new)
        elif new.node is None or getattr(new.array, "base", None) is not None:
            new = copy(new)  # it may be a leaf, or a view: not the same memory
        if others:
            write_with_history(self, new, others)
        else:
            self.array = new.array
            take_history(self, new)
            leave(self)
        return self

    def __getitem__(self: Any, key: Any) -> Any:
        return getitem(self, as_view_key(self, key))

    def __iadd__(self: Any, other: Any) -> Any:
        return self.update_(self + other)

    def __isub__(self: Any, other: Any) -> Any:
        return self.update_(self - other)

    def __imul__(self: Any, other: Any) -> Any:
        return self.update_(self * other)

    def __itruediv__(self: Any, other: Any) -> Any:
        return self.update_(self / other)

    def __ifloordiv__(self: Any, other: Any) -> Any:
        return self.update_(self // other)

    def __imod__(self: Any, other: Any) -> Any:
        return self.update_(self % other)

    def __ipow__(self: Any, other: Any) -> Any:
        return self.update_(self ** other)

    def __iand__(self: Any, other: Any) -> Any:
        return self.update_(self & other)

    def __ior__(self: Any, other: Any) -> Any:
        return self.update_(self | other)

    def __ixor__(self: Any, other: Any) -> Any:
        return self.update_(self ^ other)

    def __repr__(self: Any) -> str:
        text = as_text(engine.asnumpy(self.array), len("tensor("))
        parts = [text]
        if not self.array.size and self.array.shape != (0,):
            parts.append(f"size={self.array.shape}")
        if self.device != "cpu":
            parts.append(f"device='{self.device}'")
        if self.array.dtype.name not in ("float32", "int64", "bool"):
            parts.append(f"dtype=torch.{self.array.dtype.name}")
        if self.node is not None:
            parts.append(f"grad_fn=<{self.node.name}>")
        elif self.requires_grad:
            parts.append("requires_grad=True")
        return f"tensor({', '.join(parts)})"


def rank(dtype: Any) -> int:
    """The kinds of numbers in their order: bools, integers, floats."""
    return 2 if is_float(dtype) else int(dtype.kind in "iu")


def as_view_key(t: Any, key: Any) -> Any:
    """An index as PyTorch reads it.

    Its result is a view where NumPy would return a scalar: ``x[0]`` of a vector.  A list with
    indices in it is a tuple of these, and a Tensor of uint8 is a mask.
    """
    if type(key) is list and any(isinstance(k, INDICES) for k in key):
        key = tuple(key)
    if isinstance(key, Words):
        key = _mask(key)
    elif type(key) is tuple:
        key = tuple(map(_mask, key))
    key = _key(t, key)
    items = key if type(key) is tuple else (key,)
    if len(items) == t.array.ndim and all(type(k) is int for k in items):
        return (*items, ...)
    return key


INDICES = list, tuple, slice, type(None), type(...), engine.Tensor


def _mask(key: Any) -> Any:
    is_mask = isinstance(key, Words) and raw(key).dtype == "uint8"
    return key.array.astype("bool") if is_mask else key


class _Instances(type):
    """A Parameter is an instance of Tensor, too."""

    def __instancecheck__(cls, value: Any) -> bool:
        return type.__instancecheck__(cls, value) or (cls is Tensor and isinstance(value, Words))


class Tensor(Words, engine.Tensor, metaclass=_Instances):  # type: ignore[misc]
    """A multi-dimensional array with a history, as PyTorch's Tensor."""

    __slots__ = ()


class Parameter(Words, engine.Parameter):  # type: ignore[misc]
    """A leaf that an optimizer trains."""

    __slots__ = ()

    def __init__(self, data: Any = None, requires_grad: bool = True) -> None:
        engine.Parameter.__init__(self, np.empty(0, "float32") if data is None else data,
                                  requires_grad)
        if isinstance(data, Words):
            Views(beside=views_of(data)).add(self)


engine.parameter_classes[Tensor] = Parameter


class RemovableHandle:
    """`remove()` takes a hook back."""

    def __init__(self, remove: Callable[[], None]) -> None:
        self.remove = remove

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()


# ---- gradients that a program keeps --------------------------------------------------------------

# Where the gradient of a leaf was last given out: a reference to the leaf, the id of the array, and
# the Views of its memory, by the id of the leaf.  An optimizer uses the memory of a gradient again
# for the next one; the Tensors in it get a copy before.
_lent: dict[int, tuple[weakref.ref, int, Views]] = {}


def lend(leaf: Any, g: Any) -> Any:
    """The Tensor in the memory of the gradient `g` of a leaf."""
    _, place, views = _lent.get(id(leaf), (None, None, None))
    if views is None or place != id(g):
        views = Views()
        views.is_lent = g is getattr(leaf, "grad_buffer", None)
    for t in views.living():
        if t.array is g:
            return t
    t = wrap(g)
    views.add(t)
    _lend_in(views, leaf, g)
    return t


def _lend_in(views: Views, leaf: Any, g: Any) -> None:
    key = id(leaf)
    _lent[key] = weakref.ref(leaf, lambda _: _lent.pop(key, None)), id(g), views


def take_back(leaf: Any) -> None:
    """Give the Tensors in the optimizer's memory for the gradient of a leaf a copy of it."""
    _, _, views = _lent.get(id(leaf), (None, None, None))
    if views is not None and views.is_lent:
        del _lent[id(leaf)]
        with on_device_of((leaf,)):
            views.take_back()

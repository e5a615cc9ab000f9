"""Tensor and Parameter: an array of some backend, its gradient, and the op that made it."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpuprop._core.backend import BY_TYPE, SEVERAL, BackendMismatchError
from gpuprop._core.declared import Methods
from gpuprop._core.dtypes import as_dtype, is_float
from gpuprop._core.graph import Node, Variable, clock, deliver, level, raw, run_backward
from gpuprop._core.instruments import parameter_changed
from gpuprop._core.interchange import PickledArray, adopt
from gpuprop._core.placement import on_device_of, place_of
from gpuprop._core.registry import HOST, backend_of, default_backend, get_backend


class Tensor(Methods, Variable):
    """An array of some backend (`data`), its gradient (`grad`, an array), and the op that made it.

    Operators and methods speak NumPy and are ops; PyTorch's words without a NumPy meaning work too.
    """

    __slots__ = ()
    __array_ufunc__ = None  # array * tensor is the tensor's business

    def __init__(self, data: Any, requires_grad: bool = False, node: Node | None = None) -> None:
        if type(data) not in BY_TYPE and not isinstance(data, Tensor):
            data = tensor(data).data
        if requires_grad and node is None:
            check_floating(data)
        self.data, self.grad, self.hooks = data, None, None
        self.requires_grad, self.node = requires_grad, node

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    dtype = property(lambda self: self.data.dtype)
    is_leaf = property(lambda self: self.node is None)

    def receive(self, g: Any) -> None:
        """Add `g`, which others may hold, to the gradient: the first one is copied."""
        self.grad = _copy(g) if self.grad is None else _as_array(self.grad + g)

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to the `grad` of every leaf that this tensor was computed from.

        `gradient` is d(loss)/d(self), an array or Tensor of this tensor's shape; a tensor with one
        element needs none. The graph is freed on the way unless `retain_graph` says otherwise.

        >>> w = gpuprop.tensor([3.0], requires_grad=True)
        >>> (w * w).sum().backward()
        >>> w.grad
        array([6.], dtype=float32)
        """
        if not self.requires_grad:
            raise RuntimeError("backward() on a tensor that requires no gradient: was it computed "
                               "under no_grad(), "
                               "or from integers?")
        if gradient is not None:
            gradient = _as_gradient(self, gradient)
        elif self.size == 1:
            gradient = _ones_like(self.data)
        else:
            raise RuntimeError(
                f"backward() without a gradient needs a tensor with one element, and this one has "
                f"shape {self.shape}: reduce it first (.sum(), .mean()), or give "
                f"d(loss)/d(tensor) as backward(gradient)")
        devices = [(backend, backend.device()) for backend in SEVERAL]
        try:
            if self.node is None:
                deliver(self, gradient)
            else:
                run_backward(self.node, gradient, retain_graph)
        finally:
            for backend, device in devices:
                backend.use_device(device)

    def _check_floating(self) -> None:
        check_floating(self.data)

    def detach(self) -> Tensor:
        """The same array, with no history."""
        return Tensor(self.data)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set whether a gradient is wanted; only a floating-point leaf can have one."""
        if requires_grad:
            check_floating(self.data)
        elif self.node is not None:
            raise RuntimeError("this tensor was computed and is part of a graph: "
                               "use .detach() for one without history")
        self.requires_grad = requires_grad
        return self

    def retain_grad(self) -> None:
        """Keep this tensor's own gradient too in `.grad`, though an op made it."""
        if self.node is not None:
            me = weakref.ref(self)  # the node must not hold its tensor, which holds the node
            self.register_hook(lambda g: t.receive(g) if (t := me()) is not None else None)
        elif not self.requires_grad:
            raise RuntimeError("retain_grad() on a tensor that requires no gradient")

    def register_hook(self, hook: Callable[[Any], Any]) -> Callable[[], None]:
        """Call `hook(gradient)` when the gradient of this tensor is complete.

        Returns a function that removes the hook.  The gradient is an array others may hold: return
        a new one.
        """
        if not self.requires_grad:
            raise RuntimeError("a hook needs a gradient: this tensor requires none")
        owner: Any = self if self.node is None else self.node
        if owner.hooks is None:
            owner.hooks = []
        hooks, call = owner.hooks, _checked(hook)  # a new object: a function may be a hook twice
        hooks.append(call)
        return lambda: hooks.remove(call) if call in hooks else None

    def numpy(self) -> np.ndarray:
        """A copy in host memory."""
        a = raw(self)
        return backend_of(a).to_numpy(a)

    def item(self) -> Any:
        """The one element as a Python number; waits for the device."""
        if self.size != 1:
            raise ValueError(f"item() needs one element, and this tensor of shape {self.shape} "
                             f"has {self.size}")
        return self.numpy().item()

    def tolist(self) -> Any:
        return self.numpy().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if backend_of(raw(self)).name != HOST:
            raise TypeError("a tensor on a device is not converted to a NumPy array implicitly: "
                            "use .numpy()")
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"the truth value of a tensor of shape {self.shape} is ambiguous: "
                             f"use .any() or .all()")
        return bool(self.item())  # the caller asked for a value, and waits for it

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def __getstate__(self) -> tuple:
        """What a copy or a pickle contains: no hooks and no history; a pickle no gradient."""
        if self.node is not None:
            raise RuntimeError("only leaves can be copied and pickled, and this tensor was "
                               "computed: use .detach() first")
        return PickledArray(self.data), self.requires_grad, PickledArray(self.grad, kept=False)

    def __setstate__(self, state: tuple) -> None:
        data, requires_grad, grad = state
        Tensor.__init__(self, data.array, requires_grad)
        self.grad = grad.array

    def __dlpack__(self, **how: Any) -> Any:
        return self._given_away(raw(self)).__dlpack__(**how)

    def __dlpack_device__(self) -> tuple[int, int]:
        return raw(self).__dlpack_device__()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self._given_away(raw(self).__cuda_array_interface__)

    def _given_away(self, memory: Any) -> Any:
        """`memory`, for another library to use in place; no gradient would come back."""
        if self.requires_grad:
            raise BufferError("this tensor requires a gradient, which other libraries do not "
                              "know: use .detach()")
        return memory

    def __repr__(self) -> str:
        text = np.array2string(self.numpy(), separator=", ", prefix=f"{type(self).__name__}(")
        backend = backend_of(raw(self)).name
        extras = [f"dtype={self.dtype}" * (self.dtype.name not in ("float32", "int64", "bool")),
                  f"backend={backend!r}" * (backend != HOST),
                  "requires_grad=True" * self.requires_grad]
        return f"{type(self).__name__}({', '.join([text, *filter(None, extras)])})"


class Parameter(Tensor):
    """A leaf tensor to be trained.

    An optimizer gives it an array for its gradient, `grad_buffer`.
    """

    __slots__ = ("changed", "grad_buffer")
    grad_buffer: Any

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        data = tensor(data).data if not isinstance(data, Tensor) else data.data
        if requires_grad:
            check_floating(data)
        super().__init__(data, requires_grad)
        self.grad_buffer, self.changed = None, -1

    def receive(self, g: Any) -> None:
        if self.grad is self.grad_buffer is not None:
            self.grad += g
        elif self.grad_buffer is None or self.grad is not None:  # the user's array: do not write
            super().receive(g)
        else:
            self.grad_buffer[...] = g
            self.grad = self.grad_buffer

    def touch(self) -> None:
        """Declare that the values changed in place: graphs of the old ones have no gradient now."""
        self.changed = next(clock)
        parameter_changed(self)

    def __setstate__(self, state: tuple) -> None:
        super().__setstate__(state)
        self.grad_buffer, self.changed = None, -1  # another process has another clock

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("operators do not change a Parameter, they would make a new tensor of it: "
                        "write p.data[...] -= g, or let an optimizer step")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = _refuse


def tensor(value: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A new Tensor with a copy of `value`.

    An array keeps its dtype; Python floats become float32, ints int64, bools bool.  Host data,
    such as lists and NumPy arrays, is put on the default backend; a device's array stays on its
    backend.  Arrays of other libraries, such as PyTorch and JAX, are read by DLPack; `from_dlpack`
    makes no copy of them.

    >>> gpuprop.tensor([1, 2.5])
    Tensor([1. , 2.5])
    >>> gpuprop.tensor([1, 2]).dtype
    dtype('int64')
    """
    value = adopt(raw(value))
    if isinstance(value, np.ndarray | np.generic) or not hasattr(value, "shape"):
        backend = default_backend()
        if isinstance(value, np.ndarray):
            value = get_backend(HOST).asarray(value)  # raises for masked arrays
        else:
            value = np.asarray(value)
            dtype = "float32" if dtype is None and value.dtype == "float64" else dtype
    else:
        backend = backend_of(value)
    with on_device_of((value,)):
        data = backend.asarray(value, None if dtype is None else as_dtype(dtype))
        if data is value or getattr(data, "base", None) is not None:
            data = backend.xp.copy(data)
    if requires_grad:
        check_floating(data)
    return Tensor(data, requires_grad)


def from_dlpack(x: Any) -> Tensor:
    """A Tensor that shares the memory of another library's array, on its device: no copy.

    What one library writes the other reads.  Raises TypeError for objects with neither DLPack nor
    CUDA's array interface, and BufferError for memory that cannot be shared: of dtypes such as
    bfloat16, and of tensors that require a gradient.
    """
    array = adopt(x)
    with on_device_of((array,)):
        return Tensor(backend_of(array).asarray(array))


def asnumpy(value: Any) -> np.ndarray:
    """A copy of an array or Tensor in host memory."""
    value = adopt(raw(value))
    own = hasattr(value, "shape") and not isinstance(value, np.generic)
    return backend_of(value).to_numpy(value) if own else np.array(value)


def check_floating(a: Any) -> None:
    """Raise TypeError for an array that cannot have a gradient."""
    if not is_float(a.dtype):
        raise TypeError(f"only floating-point arrays can have a gradient, and this one is "
                        f"{a.dtype}: "
                        f"use .astype('float32') first")


def _copy(g: Any) -> Any:
    """A leaf's first gradient is a copy: its user may write into it, and others may hold `g`."""
    if isinstance(g, Tensor):
        return g
    if isinstance(g, np.generic):
        return np.array(g)
    backend = backend_of(g)
    with backend.at(g):
        return backend.xp.copy(g)


def _ones_like(a: Any) -> Any:
    if isinstance(a, Tensor):
        return Tensor(_ones_like(a.data))
    backend = backend_of(a)
    with backend.at(a):
        return backend.xp.ones_like(a)


def _as_array(g: Any) -> Any:
    """NumPy's arithmetic makes scalars of 0-d arrays; a gradient is an array."""
    return np.asarray(g) if isinstance(g, np.generic) else g


def _checked(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`hook` as the graph calls it: with a gradient, and it returns the one to go on with."""

    def call(g: Any) -> Any:
        g = _as_array(g)
        changed = hook(g)
        if changed is None:
            return g
        changed = changed if isinstance(g, Tensor) else raw(changed)
        shape = getattr(changed, "shape", type(changed).__name__)
        if shape != g.shape:
            raise ValueError(f"a gradient hook was given shape {g.shape} and returned {shape}: "
                             f"it must return a "
                             f"gradient of the same shape, or None to leave the gradient as it is")
        return _as_array(changed if changed.dtype == g.dtype else changed.astype(g.dtype))

    return call


def _as_gradient(root: Tensor, gradient: Any) -> Any:
    if isinstance(gradient, Tensor) and level(gradient) >= level(root):
        gradient = gradient.data
    here = place_of(raw(root))
    with on_device_of((root,)):
        if not hasattr(gradient, "shape") or isinstance(gradient, np.generic):
            gradient = backend_of(raw(root)).asarray(gradient, root.dtype)
        elif place_of(raw(gradient)) != here:
            raise BackendMismatchError(
                f"backward(gradient): the tensor is on {here!r} and its gradient on "
                f"{place_of(raw(gradient))!r}: "
                f"bring it there, with gpuprop.tensor(gradient).to({here!r})")
        if gradient.shape != root.shape:
            raise ValueError(f"backward(gradient): the gradient has shape {gradient.shape}, "
                             f"the tensor {root.shape}")
        return gradient if gradient.dtype == root.dtype else gradient.astype(root.dtype)



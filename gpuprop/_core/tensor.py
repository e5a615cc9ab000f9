"""Tensor and Parameter: an array of some backend, its gradient, and the op that made it."""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gpuprop._core.backend import BY_TYPE, MULTI_DEVICE, BackendMismatchError
from gpuprop._core.checks import as_bool, as_callable, check_elements
from gpuprop._core.declared import Methods
from gpuprop._core.dtypes import NATIVE, as_dtype, as_supported, cast, is_float
from gpuprop._core.graph import (
    Node,
    Variable,
    clock,
    deliver,
    extent,
    level,
    raw,
    run_backward,
    written,
)
from gpuprop._core.instruments import parameter_changed
from gpuprop._core.interchange import PickledArray, adopt
from gpuprop._core.locks import new_rlock
from gpuprop._core.placement import on_device_of, place_of
from gpuprop._core.registry import (
    HOST,
    backend_of,
    default_backend,
    get_backend,
    of_recording,
    stored,
)


def _slot(name: str) -> Any:
    """A slot of Variable by the name that users know: 0-d arrays, not NumPy's scalars.

    NumPy's arithmetic, indexing and reductions return such a scalar, as in ``p.data = p.data * 2``.
    """
    write = vars(Variable)[name].__set__
    return property(lambda self: of_recording(getattr(self, name)),
                    lambda self, value: write(self, stored(_as_array(value))))


accumulation_lock = new_rlock()  # two threads may add to the gradient of one leaf


class Tensor(Methods, Variable):
    """An array of some backend (`data`), its gradient (`grad`, an array), and the op that made it.

    Operators and methods are ops with NumPy's names and meanings.  PyTorch's names that mean
    nothing in NumPy (`view`, `permute`, `detach`, ...) work too.
    """

    __slots__ = ()
    data: Any = _slot("array")
    grad: Any = _slot("gradient")
    __array_ufunc__ = None  # NumPy then leaves `array * tensor` to Tensor.__rmul__

    def __init__(self, data: Any, requires_grad: bool = False, node: Node | None = None) -> None:
        if not isinstance(data, Tensor):
            if type(data) not in BY_TYPE:
                data = tensor(data).array
            elif id(data.dtype) not in NATIVE:
                data = as_supported("Tensor: the array", data)
        if requires_grad is not False:
            requires_grad = as_bool("Tensor: requires_grad", requires_grad)
            if requires_grad and node is None:
                check_floating(data)
        self.array = data
        self.gradient = None
        self.hooks = None
        self.requires_grad = requires_grad
        self.node = node

    shape = property(lambda self: self.array.shape)
    ndim = property(lambda self: self.array.ndim)
    dtype = property(lambda self: self.array.dtype)
    is_leaf = property(lambda self: self.node is None)

    def receive(self, g: Any) -> None:
        """Add `g` to the gradient.  Other code may hold `g` too, so the first one is copied."""
        with accumulation_lock:
            self.gradient = _copy(g) if self.gradient is None else _as_array(self.gradient + g)

    def _receive_from(self, compute: Callable[[Any], Any]) -> None:
        """Add the gradient ``compute(out)``; `out` is memory for it, or None."""
        self.receive(compute(None))

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to the `grad` of every leaf that this tensor was computed from.

        `gradient` is d(loss)/d(self), an array or Tensor of this tensor's shape; for a tensor with
        one element it defaults to 1.  The graph is freed unless `retain_graph` is True.

        Several threads may run backward at once, each through its own graph.  In a leaf that the
        graphs share, the gradients add up in the order of their arrival, so the last bits of the
        sum may differ from run to run.

        >>> w = gpuprop.tensor([3.0], requires_grad=True)
        >>> (w * w).sum().backward()
        >>> w.grad
        array([6.], dtype=float32)
        """
        if retain_graph is not False:
            retain_graph = as_bool("backward: retain_graph", retain_graph)
        if not self.requires_grad:
            raise RuntimeError("backward() on a tensor that requires no gradient: was it computed "
                               "inside no_grad(), or from tensors without requires_grad=True?")
        if gradient is not None:
            gradient = _as_gradient(self, gradient)
        elif self.size == 1:
            gradient = _ones_like(self.array)
        else:
            raise RuntimeError(
                f"backward() without a gradient needs a tensor with one element, and this one has "
                f"shape {self.shape}: reduce it first (.sum(), .mean()), or give "
                f"d(loss)/d(tensor) as backward(gradient)")
        devices = [(backend, backend.device()) for backend in MULTI_DEVICE]
        try:
            if self.node is None:
                deliver(self, gradient)
            else:
                run_backward(self.node, gradient, retain_graph)
        finally:
            for backend, device in devices:
                backend.use_device(device)

    def _reclaim_gradient(self) -> None:
        """Let what a program keeps of the gradient be a copy: its memory is used again."""

    def _check_floating(self) -> None:
        check_floating(self.array)

    def detach(self) -> Tensor:
        """A Tensor of the same array, without history."""
        return Tensor(self.array)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad`; only a floating-point tensor can have a gradient."""
        requires_grad = as_bool("requires_grad_: requires_grad", requires_grad)
        if requires_grad:
            check_floating(self.array)
        elif self.node is not None:
            raise RuntimeError("requires_grad_(False) on a tensor that an op made: use .detach() "
                               "for a tensor without history")
        self.requires_grad = requires_grad
        return self

    def retain_grad(self) -> None:
        """Store the gradient of this tensor in `.grad` too, although an op made it."""
        if self.node is not None:
            if any(map(is_retaining, self.node.hooks or ())):
                return
            reference = weakref.ref(self)  # the tensor holds the node: avoid a cycle

            def store(g: Any) -> None:
                t = reference()
                if t is not None:
                    t.receive(g)

            self.register_hook(store)
            self.node.hooks[-1].retains = True  # it stays the last one, as in PyTorch
        elif not self.requires_grad:
            raise RuntimeError("retain_grad() on a tensor that requires no gradient")

    def register_hook(self, hook: Callable[[Any], Any]) -> Callable[[], None]:
        """Call `hook(gradient)` when the gradient of this tensor is complete.

        The hook may return another gradient, to be used in its place, or None.  It must not write
        into the gradient, which other code may hold.  Returns a function that removes the hook.
        """
        if not self.requires_grad:
            raise RuntimeError("register_hook() on a tensor that requires no gradient")
        as_callable("register_hook: hook", hook)
        owner: Any = self if self.node is None else self.node
        return _add_hook(owner, _checked(hook))

    def register_post_accumulate_grad_hook(self, hook: Callable[[Any], Any]) -> Callable[[], None]:
        """Call ``hook(tensor)`` when backward has added to the gradient of this leaf.

        It is called once in each backward, after the leaf's other hooks.  Returns a function that
        removes the hook.

        >>> w = gpuprop.tensor([1.0], requires_grad=True)
        >>> remove = w.register_post_accumulate_grad_hook(lambda t: print(t.grad))
        >>> (w * 2).sum().backward()
        [2.]
        """
        if self.node is not None or not self.requires_grad:
            raise RuntimeError("register_post_accumulate_grad_hook() needs a leaf that requires a "
                               "gradient: use register_hook() for the result of an op")
        as_callable("register_post_accumulate_grad_hook: hook", hook)
        call = lambda leaf: hook(leaf)  # a new object, because one may be registered twice
        call.is_after = True  # type: ignore[attr-defined]
        return _add_hook(self, call)

    def numpy(self) -> np.ndarray:
        """A copy in host memory."""
        a = raw(self)
        return backend_of(a).to_numpy(a)

    def item(self) -> Any:
        """The only element as a Python number; waits for the device."""
        if self.size != 1:
            raise ValueError(f"item() needs one element, and this tensor of shape {self.shape} "
                             f"has {self.size}")
        return asnumpy(self).item()

    def tolist(self) -> Any:
        """The elements as Python numbers in nested lists; waits for the device."""
        return asnumpy(self).tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.requires_grad:
            raise RuntimeError(
                "a tensor that requires a gradient is not converted to a NumPy array implicitly, "
                "because the gradient would be lost: join tensors with gpuprop.stack or "
                "gpuprop.concatenate, or give up the gradient with .detach() or .numpy()")
        if backend_of(raw(self)).name != HOST:
            raise TypeError("a tensor on a device is not converted to a NumPy array implicitly: "
                            "use .numpy()")
        if copy is False:
            raise ValueError("np.asarray(t, copy=False): a tensor is always copied: "
                             "use t.detach().data for its array")
        array = asnumpy(self)
        return array if dtype is None else array.astype(dtype)

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
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def __getstate__(self) -> tuple:
        """The state for a copy or a pickle: without hooks, and in a pickle without gradient."""
        if self.node is not None:
            raise RuntimeError("only leaves can be copied and pickled, but an op made this "
                               "tensor: use .detach() first")
        return PickledArray(self.array), self.requires_grad, PickledArray(self.gradient, kept=False)

    def __setstate__(self, state: tuple) -> None:
        data, requires_grad, grad = state
        Tensor.__init__(self, data.array, requires_grad)
        self.gradient = grad.array

    def __dlpack__(self, **options: Any) -> Any:
        return self._exported(raw(self)).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return raw(self).__dlpack_device__()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self._exported(raw(self).__cuda_array_interface__)

    def _exported(self, memory: Any) -> Any:
        """`memory`, which another library is going to share."""
        if self.requires_grad:
            raise BufferError("this tensor requires a gradient, which is not recorded in other "
                              "libraries: use .detach()")
        return memory

    def __repr__(self) -> str:
        name = type(self).__name__
        parts = [np.array2string(asnumpy(self), separator=", ", prefix=f"{name}(")]
        if self.dtype.name not in ("float32", "int64", "bool"):
            parts.append(f"dtype={self.dtype}")
        backend = backend_of(raw(self)).name
        if backend != HOST:
            parts.append(f"backend={backend!r}")
        if self.requires_grad:
            parts.append("requires_grad=True")
        return f"{name}({', '.join(parts)})"


class Parameter(Tensor):
    """A leaf tensor that an optimizer trains.

    The optimizer provides the memory for its gradient, `grad_buffer`.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        data = tensor(data).array if not isinstance(data, Tensor) else data.array
        super().__init__(data, as_bool("Parameter: requires_grad", requires_grad))
        self.grad_buffer = None
        self.changed = -1

    def receive(self, g: Any) -> None:
        """Add `g` to the gradient, in `grad_buffer` if that exists."""
        with accumulation_lock:
            if self.gradient is self.grad_buffer is not None:
                total = self.gradient
                total += g
            elif self.grad_buffer is None or self.gradient is not None:  # the user's array: keep it
                super().receive(g)
            else:
                _fill(self.grad_buffer, g)
                self.gradient = self.grad_buffer

    def _receive_from(self, compute: Callable[[Any], Any]) -> None:
        """Add the gradient ``compute(out)``: the first one is computed in `grad_buffer`.

        Meanwhile the parameter has no `grad_buffer`, so other threads add to an array of their own.
        """
        buffer = None
        try:
            with accumulation_lock:
                if self.gradient is None and self.grad_buffer is not None:
                    self._reclaim_gradient()
                    buffer, self.grad_buffer = self.grad_buffer, None
            g = compute(buffer)
            with accumulation_lock:
                self.grad_buffer = self.grad_buffer if buffer is None else buffer
                if g is buffer is not None and self.gradient is None:
                    self.gradient = buffer
                else:
                    self.receive(g)
        finally:
            if buffer is not None and self.grad_buffer is None:
                self.grad_buffer = buffer

    def _move_to(self, array: Any) -> None:
        """Use another array, with the same values: the memory of an optimizer."""
        self.array = array

    def touch(self) -> None:
        """Report an in-place change of the values: backward raises if it reads the old ones."""
        mark_changed([self], extent(self.array))

    def __setstate__(self, state: tuple) -> None:
        super().__setstate__(state)
        self.grad_buffer = None
        self.changed = -1  # another process has another clock

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("an in-place operator would replace the Parameter by a new tensor: write "
                        "p.data[...] -= g, or use an optimizer")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ifloordiv__ = __imod__ = _refuse
    __ipow__ = __imatmul__ = __iand__ = __ior__ = __ixor__ = __ilshift__ = __irshift__ = _refuse


# The class of the Parameters that leaves of a class become; a dialect adds its own.
parameter_classes: dict[type, type[Parameter]] = {Tensor: Parameter}


def become_parameter(leaf: Tensor) -> None:
    """Make a Parameter of a leaf, in place: graphs and variables refer to the same object."""
    if type(leaf) in parameter_classes:
        leaf.__class__ = parameter_classes[type(leaf)]
        leaf.grad_buffer = None
        leaf.changed = -1


def mark_changed(parameters: Sequence[Parameter], where: tuple[int, int]) -> None:
    """Report an in-place change of the values of parameters, whose memory is at `where`."""
    written(where)
    now = next(clock)
    for p in parameters:
        p.changed = now
    parameter_changed.of_each(parameters)


def tensor(value: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A new Tensor with a copy of `value`.

    An array keeps its dtype, which is bool, integer or floating; Python floats become float32, ints
    int64, bools bool.  Host data, such as lists and NumPy arrays, is copied to the default backend;
    an array on a device stays on its backend.  Arrays of other libraries, such as PyTorch and JAX,
    are read through DLPack; to share their memory without a copy, use `from_dlpack`.

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
            value = _converted("tensor: value", value)
            if dtype is not None:
                check_elements("tensor: a number", value, as_dtype(dtype))
            dtype = "float32" if dtype is None and value.dtype == "float64" else dtype
    else:
        backend = backend_of(value)
    value = as_supported("tensor: value", value)
    with on_device_of((value,)):
        data = backend.asarray(value, None if dtype is None else as_dtype(dtype))
        if data is value or getattr(data, "base", None) is not None:
            data = backend.xp.copy(data)
    return Tensor(data, as_bool("tensor: requires_grad", requires_grad))


def _converted(what: str, value: Any) -> np.ndarray:
    """A number, or nested lists of numbers, as a NumPy array."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # lists of different lengths
        raise ValueError(f"{what}: the lists have no common shape: pad them to one length, for "
                         f"example with nn.utils.rnn.pad_sequence: {error}") from error
    if array.dtype.kind == "O":
        kinds = sorted({type(x).__name__ for x in array.flat if not isinstance(x, int | float)})
        raise TypeError(f"{what} must be an array, a number or lists of numbers, got "
                        f"{', '.join(kinds) or 'integers beyond 64 bits'}")
    return array


def from_dlpack(x: Any) -> Tensor:
    """A Tensor that shares the memory of another library's array, on its device.

    Each library sees what the other one writes.  Raises TypeError for objects with neither DLPack
    nor CUDA's array interface, and BufferError for memory that cannot be shared, such as that of
    tensors that require a gradient.
    """
    array = adopt(x)
    if not hasattr(array, "shape"):
        raise TypeError(f"from_dlpack: x must be an array of another library, got {x!r}: convert "
                        f"it with gpuprop.tensor(...)")
    with on_device_of((array,)):
        return Tensor(backend_of(array).asarray(array))


def asnumpy(value: Any) -> np.ndarray:
    """Copy an array or Tensor to a NumPy array."""
    value = adopt(raw(value))
    is_array = hasattr(value, "shape") and not isinstance(value, np.generic)
    return backend_of(value).to_numpy(value) if is_array else np.array(value)


def check_floating(a: Any) -> None:
    """Raise TypeError unless the array's dtype is floating."""
    if not is_float(a.dtype):
        raise TypeError(f"only floating-point arrays can have a gradient, but this one is "
                        f"{a.dtype}: use .astype('float32') first")


def _copy(g: Any) -> Any:
    """A copy of `g`, for a leaf to store: the user may write into it, and other code may hold `g`.

    Inside `grad`, a gradient is a Tensor, and no copy is needed.
    """
    if isinstance(g, Tensor):
        return g
    if isinstance(g, np.generic):
        return np.array(g)
    backend = backend_of(g)
    with backend.at(g):
        return backend.xp.copy(g)


def _fill(array: Any, values: Any) -> None:
    if type(values) in BY_TYPE and type(values) is not type(array):  # arrays of a recording
        backend_of(values).xp.copyto(array, values)
    else:
        array[...] = values


def _ones_like(a: Any) -> Any:
    if isinstance(a, Tensor):
        return Tensor(_ones_like(a.array))
    backend = backend_of(a)
    with backend.at(a):
        return backend.xp.ones_like(a)


def _as_array(a: Any) -> Any:
    """An array: NumPy's arithmetic returns scalars in place of 0-d arrays."""
    return np.asarray(a) if isinstance(a, np.generic) else a


def _add_hook(owner: Any, call: Callable) -> Callable[[], None]:
    """Add a hook to a leaf or node; returns a function that removes it."""
    if owner.hooks is None:
        owner.hooks = []
    hooks = owner.hooks
    end = len(hooks)
    if hooks and is_retaining(hooks[-1]):
        end -= 1
    hooks.insert(end, call)

    def remove() -> None:
        if call in hooks:
            hooks.remove(call)

    return remove


def is_retaining(hook: Any) -> bool:
    """True for the hook that `retain_grad` has added."""
    return getattr(hook, "retains", False)


def _checked(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`hook` as the graph calls it: it always returns a gradient, checked and cast."""

    def call(g: Any) -> Any:
        g = _as_array(g)
        changed = hook(g)
        if changed is None:
            return g
        changed = changed if isinstance(g, Tensor) else raw(changed)
        shape = getattr(changed, "shape", type(changed).__name__)
        if shape != g.shape:
            raise ValueError(f"a hook got a gradient of shape {g.shape} and returned {shape}: it "
                             f"must return a gradient of the same shape, or None to leave the "
                             f"gradient as it is")
        return _as_array(cast(changed, g.dtype))

    return call


def _as_gradient(root: Tensor, gradient: Any) -> Any:
    """The argument of `backward` as an array (a Tensor inside `grad`) like ``root.data``."""
    if isinstance(gradient, Tensor) and level(gradient) >= level(root):
        gradient = gradient.array
    here = place_of(raw(root))
    with on_device_of((root,)):
        if not hasattr(gradient, "shape") or isinstance(gradient, np.generic):
            host = as_supported("backward: gradient", _converted("backward: gradient", gradient))
            gradient = backend_of(raw(root)).asarray(host, root.dtype)
        elif place_of(raw(gradient)) != here:
            raise BackendMismatchError(
                f"backward(gradient): the tensor is on {here!r} and its gradient on "
                f"{place_of(raw(gradient))!r}: move the gradient with "
                f"gpuprop.tensor(gradient).to({here!r})")
        gradient = as_supported("backward(gradient): the gradient", gradient)
        if gradient.shape != root.shape:
            raise ValueError(f"backward(gradient): the gradient has shape {gradient.shape}, "
                             f"the tensor {root.shape}")
        return cast(gradient, root.dtype)



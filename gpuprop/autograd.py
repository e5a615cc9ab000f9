"""Reverse-mode differentiation: Tensors, the graph of pullbacks that made them, and its run backwards.

A Tensor is one more array type, whose ``xp`` is the namespace of ops: a gradient of a gradient is the same op body run
on Tensors of Tensors.
"""

from __future__ import annotations

import functools
import itertools
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuprop.backend import (
    AS_IT_IS,
    BY_TYPE,
    SEVERAL,
    BackendMismatchError,
    backend_of,
    default_backend,
    get_backend,
    place_of,
)
from gpuprop.interchange import Luggage, adopt
from gpuprop.mode import Switch, Watch, as_dtype, current, widened

if TYPE_CHECKING:
    from gpuprop.functional.tensor import Methods
else:
    Methods = object  # gpuprop.functional gives Tensor its operators and methods, which are ops

# ---- the graph ------------------------------------------------------------------------------------------------------

_clock = itertools.count()
listeners: list[Callable] = []  # called with every parameter that changed in place
_creation = operator.attrgetter("order")


class Node:
    """One recorded op: where its output's gradient arrives, and how it goes on to the inputs that want one.

    It holds no Tensor but leaves, so an activation lives only while a pullback needs it.
    """

    __slots__ = ("dtype", "edges", "grad", "hooks", "order", "pullback", "shape")
    grad: Any
    hooks: Any

    def __init__(self, edges: Sequence, pullback: Any, shape: Any = None, dtype: Any = None) -> None:
        self.order = next(_clock)
        self.edges, self.pullback = edges, pullback  # an edge is a Node, a leaf Tensor or None
        self.shape, self.dtype = shape, dtype
        self.grad = self.hooks = None


class Tensor(Methods):
    """An array of some backend (`data`), its gradient (`grad`, an array too), and the op that made it.

    Operators and methods speak NumPy and are ops; PyTorch's words without a NumPy meaning work too.
    """

    __slots__ = ("__weakref__", "data", "grad", "hooks", "node", "requires_grad")
    __array_ufunc__ = None  # array * tensor is the tensor's business
    changed = -1

    data: Any
    grad: Any

    def __init__(self, data: Any, requires_grad: bool = False, node: Node | None = None) -> None:
        if type(data) not in BY_TYPE and not isinstance(data, Tensor):
            data = tensor(data).data
        if requires_grad and node is None:
            _check_float(data)
        self.data, self.grad, self.hooks = data, None, None
        self.requires_grad, self.node = requires_grad, node

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    dtype = property(lambda self: self.data.dtype)
    is_leaf = property(lambda self: self.node is None)

    def receive(self, g: Any) -> None:
        """Accumulate a gradient that others may hold: the first is a copy, and `g` is never written to."""
        self.grad = _copy(g) if self.grad is None else _owned(self.grad + g)

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Accumulate d(self)/d(leaf) into every leaf's `grad`; `gradient` is d(loss)/d(self), 1 for a scalar."""
        backward(self, gradient, retain_graph)

    def detach(self) -> Tensor:
        """The same array, with no history."""
        return Tensor(self.data)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Say whether gradients are wanted here; only floating point can have one, and only a leaf can change."""
        if requires_grad:
            _check_float(self.data)
        elif self.node is not None:
            raise RuntimeError("this tensor was computed and is part of a graph: use .detach() for one without history")
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
        """Call `hook(gradient)` when this tensor's gradient is complete; what it returns, if anything, takes its place.

        Returns a function that removes the hook.  The gradient is an array others may hold: return a new one.
        """
        if not self.requires_grad:
            raise RuntimeError("a hook needs a gradient: this tensor requires none")
        owner: Any = self if self.node is None else self.node
        if owner.hooks is None:
            owner.hooks = []
        hooks, call = owner.hooks, lambda g: hook(g)  # its own, though the same function may be a hook twice
        hooks.append(call)
        return lambda: hooks.remove(call) if call in hooks else None

    def numpy(self) -> np.ndarray:
        """A copy in host memory."""
        a = raw(self)
        return backend_of(a).to_numpy(a)

    def item(self) -> Any:
        """The one element as a Python number; waits for the device."""
        if self.size != 1:
            raise ValueError(f"item() needs one element, and this tensor of shape {self.shape} has {self.size}")
        return self.numpy().item()

    def tolist(self) -> Any:
        return self.numpy().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if backend_of(raw(self)).name != "numpy":
            raise TypeError("a tensor on a device does not become a NumPy array by itself: use .numpy()")
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"the truth of a tensor of shape {self.shape} is ambiguous: use .any() or .all()")
        return bool(self.item())  # the caller asked for a value, and waits for it

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def __getstate__(self) -> tuple:
        """What a copy or a pickle takes along: no hooks and no history; a pickle takes no gradient either."""
        if self.node is not None:
            raise RuntimeError("only leaves can be copied and pickled: this tensor was computed; use .detach() first")
        return Luggage(self.data), self.requires_grad, Luggage(self.grad, kept=False)

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
        """`memory`, for another library to use in place; whatever is computed there, no gradient comes back."""
        if self.requires_grad:
            raise BufferError("this tensor requires a gradient, which other libraries know nothing of: give .detach()")
        return memory

    def __repr__(self) -> str:
        text = np.array2string(self.numpy(), separator=", ", prefix=f"{type(self).__name__}(")
        backend = backend_of(raw(self)).name
        extras = [f"dtype={self.dtype}" * (self.dtype.name not in ("float32", "int64", "bool")),
                  f"backend={backend!r}" * (backend != "numpy"), "requires_grad=True" * self.requires_grad]
        return f"{type(self).__name__}({', '.join([text, *filter(None, extras)])})"


class Parameter(Tensor):
    """A leaf tensor to be trained.  An optimizer may give it a home: memory of its own for the gradient."""

    __slots__ = ("changed", "home")
    home: Any

    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        data = tensor(data).data if not isinstance(data, Tensor) else data.data
        if requires_grad:
            _check_float(data)
        super().__init__(data, requires_grad)
        self.home, self.changed = None, -1

    def receive(self, g: Any) -> None:
        if self.grad is self.home is not None:
            self.grad += g
        elif self.home is None or self.grad is not None:  # an array the user gave: it is not ours to write to
            super().receive(g)
        else:
            self.home[...] = g
            self.grad = self.home

    def touch(self) -> None:
        """Say that the values changed in place: what was computed from the old ones has no gradient any more."""
        self.changed = next(_clock)
        for listen in listeners:
            listen(self)

    def __setstate__(self, state: tuple) -> None:
        super().__setstate__(state)
        self.home, self.changed = None, -1  # the clock of this process knows nothing of that one's

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("a Parameter is not changed by an operator, which would make a new tensor of it: "
                        "write p.data[...] -= g, or let an optimizer step")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = _refuse


def tensor(value: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A new Tensor with a copy of `value`: an array keeps its dtype, Python's floats become float32, its ints int64.

    Host data, NumPy's arrays among it, goes to the backend in use; the array of a device stays on its backend.  Those
    of other libraries, such as PyTorch's and JAX's, come by DLPack; `from_dlpack` does not copy them.
    """
    value = adopt(raw(value))
    if isinstance(value, np.ndarray | np.generic) or not hasattr(value, "shape"):
        backend = default_backend()
        if isinstance(value, np.ndarray):
            value = get_backend("numpy").asarray(value)  # refuses what NumPy would take without its mask
        else:
            value = np.asarray(value)
            dtype = "float32" if dtype is None and value.dtype == "float64" else dtype
    else:
        backend = backend_of(value)
    with beside((value,)):
        data = backend.asarray(value, None if dtype is None else as_dtype(dtype))
        if data is value or getattr(data, "base", None) is not None:
            data = backend.xp.copy(data)
    if requires_grad:
        _check_float(data)
    return Tensor(data, requires_grad)


def from_dlpack(x: Any) -> Tensor:
    """A Tensor in the memory of another library's array, such as PyTorch's, JAX's or CuPy's, on its device: no copy.

    What one writes the other reads.  Raises TypeError for what has neither DLPack nor CUDA's array interface, and
    BufferError for what cannot be shared: types such as bfloat16, and tensors that require a gradient.
    """
    array = adopt(x)
    with beside((array,)):
        return Tensor(backend_of(array).asarray(array))


def _check_float(a: Any) -> None:
    if not is_float(a.dtype):
        raise TypeError(f"only floating point can have a gradient, and this is {a.dtype}: use .astype('float32') first")


def is_float(dtype: Any) -> bool:
    """Is this a floating dtype?  bfloat16 and its kin are of kind V to NumPy."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _copy(g: Any) -> Any:
    """A leaf's first gradient is a copy: its user may write into it, and others may hold `g`."""
    return g if isinstance(g, Tensor) else np.array(g) if isinstance(g, np.generic) else namespace(g).copy(g)


def _owned(g: Any) -> Any:
    """NumPy's arithmetic makes scalars of 0-d arrays; a gradient is an array."""
    return np.asarray(g) if isinstance(g, np.generic) else g


def _hooked(hooks: Sequence[Callable], g: Any) -> Any:
    g = _owned(g)
    for hook in tuple(hooks):
        changed = hook(g)
        if changed is not None:
            changed = changed if isinstance(g, Tensor) else raw(changed)
            shape = getattr(changed, "shape", type(changed).__name__)
            if shape != g.shape:
                raise ValueError(f"a hook was given a gradient of shape {g.shape} and returned {shape}: it must return "
                                 f"a gradient of the same shape, or None to leave it as it is")
            g = _owned(changed if changed.dtype == g.dtype else changed.astype(g.dtype))
    return g


# ---- backward -------------------------------------------------------------------------------------------------------


def backward(root: Tensor, gradient: Any = None, retain_graph: bool = False) -> None:
    """Accumulate d(root)/d(leaf) into every leaf's `grad`."""
    if not root.requires_grad:
        raise RuntimeError("nothing here requires a gradient: was it computed under no_grad(), or from integers?")
    if gradient is None:
        if root.size != 1:
            raise RuntimeError(
                f"backward() without a gradient needs one number, and this tensor has shape {root.shape}: "
                f"reduce it first (.sum(), .mean()), or give d(loss)/d(tensor) as backward(gradient)")
        gradient = namespace(root.data).ones_like(root.data)
    else:
        gradient = _as_gradient(root, gradient)
    held: dict[int, tuple[Tensor, Any]] = {}  # leaves with hooks wait for the whole of their gradient
    if root.node is None:
        with beside((root,)):
            return root.receive(_hooked(root.hooks or (), gradient))
    root.node.grad = gradient
    nodes = _reachable(root.node)
    devices = [(backend, backend.device()) for backend in SEVERAL]
    try:
        for node in nodes:
            g, pullback, edges = node.grad, node.pullback, node.edges
            node.grad = None
            if g is not None:
                if devices:
                    _follow(g)
                if node.hooks:
                    g = _hooked(node.hooks, g)
                if type(pullback) is tuple:
                    for edge, f in zip(edges, pullback, strict=True):
                        if edge is not None and f is not None:
                            d = f(g)
                            if d is not None:
                                _send(node, edge, d, held)
                else:
                    for edge, d in zip(edges, _all_of(node, pullback(g)), strict=True):
                        if edge is not None and d is not None:
                            _send(node, edge, d, held)
            if not retain_graph:
                node.pullback, node.edges = _spent, ()  # free activations as they are spent
        for leaf, g in held.values():
            if devices:
                _follow(g)
            leaf.receive(_hooked(leaf.hooks or (), g))
    except BaseException:
        for node in nodes:  # what has arrived so far is no part of the next backward through here
            node.grad = None
        raise
    finally:
        for backend, device in devices:
            backend.use_device(device)


def _follow(g: Any) -> None:
    """Make the device of a gradient this thread's; of a list, those of an op with several outputs, the first counts."""
    a = raw(next((part for part in g if part is not None), None) if type(g) is list else g)
    backend = BY_TYPE.get(type(a))
    if backend in SEVERAL:
        backend.use_device(backend.device_of(a))


def _send(node: Node, edge: Any, g: Any, held: dict) -> None:
    """Hand a gradient to the node or leaf that made the input, in the input's shape and dtype."""
    if SEVERAL:
        _follow(g)
    if type(edge) is Node:
        if g.shape != edge.shape:
            g = _unbroadcast(node, g, edge.shape)
        if g.dtype is not edge.dtype:
            g = g.astype(edge.dtype)
        edge.grad = g if edge.grad is None else edge.grad + g
        return
    if edge.changed > node.order:
        raise RuntimeError(
            f"backward through {_name(node)}: a parameter of shape {edge.shape} was stepped or loaded since it was "
            f"read here, so this gradient would be of values that are gone: run the forward again")
    if (noted := watch.noted) is not None:
        noted[id(edge)] = edge
    data = edge.data
    if g.shape != data.shape:
        g = _unbroadcast(node, g, data.shape)
    if g.dtype is not data.dtype:
        _check_float(data)  # who sets `t.requires_grad = True` is not asked then
        g = g.astype(data.dtype)
    if not edge.hooks:
        edge.receive(g)
    else:
        held[id(edge)] = edge, held[id(edge)][1] + g if id(edge) in held else g


watch = Watch()  # the leaves, by id, that a backward gives a gradient to


def _name(node: Node) -> str:
    """The op a node is of, as its pullback's own name says: ``linear.<locals>.<lambda>``."""
    pullback = next(filter(None, node.pullback), None) if type(node.pullback) is tuple else node.pullback
    pullback = getattr(pullback, "func", pullback)  # of a functools.partial
    name = getattr(pullback, "__qualname__", "an op")
    return (name.rpartition(".<locals>")[0] or name).rpartition(".")[2].removesuffix("_backward")


def _all_of(node: Node, found: Any) -> Any:
    """What the one pullback for all inputs returned: a gradient, or None, for each."""
    if type(found) in (tuple, list) and len(found) == len(node.edges):
        return found
    got = f"{len(found)} of them" if type(found) in (tuple, list) else f"one {type(found).__name__}"
    raise TypeError(f"backward through {_name(node)}: its pullback must return a tuple of {len(node.edges)} gradients, "
                    f"one for each array parameter, and it returned {got}")


def _spent(g: Any) -> Any:
    raise RuntimeError("backward ran through here before and freed what it needed: call the forward again, "
                       "or give the first backward retain_graph=True")


def _as_gradient(root: Tensor, gradient: Any) -> Any:
    if isinstance(gradient, Tensor) and level(gradient) >= level(root):
        gradient = gradient.data
    here = place_of(raw(root))
    with beside((root,)):
        if not hasattr(gradient, "shape") or isinstance(gradient, np.generic):
            gradient = backend_of(raw(root)).asarray(gradient, root.dtype)
        elif place_of(raw(gradient)) != here:
            raise BackendMismatchError(
                f"backward(gradient): the tensor is on {here!r} and its gradient on {place_of(raw(gradient))!r}: "
                f"bring it there, with gpuprop.tensor(gradient).to({here!r})")
        if gradient.shape != root.shape:
            raise ValueError(f"backward(gradient): the gradient has shape {gradient.shape}, the tensor {root.shape}")
        return gradient if gradient.dtype == root.dtype else gradient.astype(root.dtype)


def _reachable(node: Node) -> list[Node]:
    seen, stack = {node}, [node]
    while stack:
        for edge in stack.pop().edges:
            if type(edge) is Node and edge not in seen:
                seen.add(edge)
                stack.append(edge)
    return sorted(seen, key=_creation, reverse=True)


def _unbroadcast(node: Node, g: Any, shape: tuple) -> Any:
    """The sum of `g` over what broadcasting spread."""
    lead = g.ndim - len(shape)
    if lead < 0 or any(n not in (1, m) for n, m in zip(shape, g.shape[lead:], strict=True)):
        raise ValueError(f"backward through {_name(node)}: its pullback returned a gradient of shape {g.shape} for an "
                         f"input of shape {shape}; it must have that shape, or one the input broadcasts to")
    axes = (*range(lead), *(i + lead for i, n in enumerate(shape) if n == 1 and g.shape[i + lead] != 1))
    return widened(g).sum(axis=axes).reshape(shape)  # who is sent it rounds it


# ---- Tensors of Tensors ----------------------------------------------------------------------------------------------


def level(a: Any) -> int:
    """How many Tensors are wrapped around the array: 0 for the array itself."""
    n = 0
    while isinstance(a, Tensor):
        a, n = a.data, n + 1
    return n


def raw(a: Any) -> Any:
    """The array inside."""
    while isinstance(a, Tensor):
        a = a.data
    return a


class Differentiable:
    """The ``xp`` of Tensors: NumPy's names, each an op.  What has no op and no gradient says so."""

    array_type, kernels = Tensor, {}  # type: ignore[var-annotated]
    ops: dict[str, Callable] = {}  # name -> op; gpuprop.functional fills it
    constant = set("""arange zeros ones full empty zeros_like ones_like full_like empty_like eye linspace
                      isnan isfinite isinf broadcast_shapes result_type require copy""".split())

    def __init__(self, xp: Any) -> None:
        self.base = xp

    xp = property(lambda self: self)  # and no attribute, which would be a cycle

    def own(self, out: Any) -> Tensor:
        return out if isinstance(out, Tensor) else Tensor(out)

    def __getattr__(self, name: str) -> Any:
        if name in self.ops:
            return self.ops[name]
        value = getattr(self.base, name)
        if not callable(value) or isinstance(value, type):
            return value
        if name not in self.constant:
            raise NotImplementedError(f"xp.{name} has no gradient here: write it as an op, or without it")

        def constant(*args: Any, **kwargs: Any) -> Any:
            out = value(*map(raw, args), **{k: raw(v) for k, v in kwargs.items()})
            return Tensor(out) if hasattr(out, "shape") else out

        return constant


def namespace(a: Any) -> Any:
    """The ``xp`` that computes on `a`, an array or Tensor."""
    inside = raw(a)
    backend = BY_TYPE.get(type(inside)) or (default_backend() if not hasattr(inside, "shape") else backend_of(inside))
    xp = backend.xp
    if backend in SEVERAL and type(inside) is backend.array_type and backend.device_of(inside) != backend.device():
        xp = Elsewhere(backend, inside)
    return Differentiable(xp) if isinstance(a, Tensor) else xp


def beside(values: Iterable) -> Any:
    """A context in which this thread computes, and makes arrays, on the device of the first array among `values`.

    What is no array is passed over, and so are those of backends with one device.
    """
    if SEVERAL:
        for array in map(raw, values):
            backend = BY_TYPE.get(type(array))
            if backend in SEVERAL:
                return backend.at(array)
    return AS_IT_IS


def beside_its_arrays(fn: Any) -> Any:
    """`fn` run, all of it, on the device of the first array among its arguments, whichever is the current one."""

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not SEVERAL:
            return fn(*args, **kwargs)
        with beside((*args, *kwargs.values())):
            return fn(*args, **kwargs)

    return call


class Elsewhere:
    """The ``xp`` of a device that is not this thread's: what it makes lies where `array` does."""

    def __init__(self, backend: Any, array: Any) -> None:
        self._backend, self._array = backend, array

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend.xp, name)
        if not callable(value) or isinstance(value, type):
            return value

        def there(*args: Any, **kwargs: Any) -> Any:
            with self._backend.at(self._array):
                return value(*args, **kwargs)

        return there


def get_array_module(*values: Any) -> Any:
    """The namespace that computes on these arrays; Tensors count as what they hold, numbers and lists as NumPy's."""
    owners = {id(b): b for v in map(raw, values) if hasattr(v, "shape") for b in [backend_of(v)]}
    if len(owners) > 1:
        names = ", ".join(b.name for b in owners.values())
        raise BackendMismatchError(f"these arrays are of several backends: {names}")
    return next(iter(owners.values()), get_backend("numpy")).xp


def asnumpy(value: Any) -> np.ndarray:
    """A copy of an array or Tensor in host memory."""
    value = adopt(raw(value))
    own = hasattr(value, "shape") and not isinstance(value, np.generic)
    return backend_of(value).to_numpy(value) if own else np.array(value)


# ---- gradients as functions -----------------------------------------------------------------------------------------


def grad(f: Callable, argnum: int | Sequence[int] = 0) -> Callable:
    """The function that returns d(f)/d(argument), itself differentiable: ``grad(grad(f))``.

    `f` returns one number; `argnum` names the argument, or several by a sequence (the result is then a tuple).  An
    argument is an array, a Tensor or a list, tuple or dict of them; the gradient comes in the same form, arrays for
    arrays and Tensors, with their history, for Tensors.
    """
    both = value_and_grad(f, argnum)
    return lambda *args, **kwargs: both(*args, **kwargs)[1]


def value_and_grad(f: Callable, argnum: int | Sequence[int] = 0) -> Callable:
    """The function that returns (f, d(f)/d(argument)); see `grad`."""
    given = (argnum,) if isinstance(argnum, int) else tuple(argnum)

    def both(*args: Any, **kwargs: Any) -> tuple:
        if not all(-len(args) <= n < len(args) for n in given):
            raise TypeError(f"grad: argnum={argnum} is to be differentiated, and the call has {len(args)} positional "
                            f"argument(s): give what is differentiated by position")
        numbers = [n % len(args) for n in given]
        depth = current.get().depth + 1
        leaves: list[tuple[Tensor, Any]] = []

        def wrap(x: Any) -> Tensor:
            inner = x if hasattr(x, "shape") else tensor(x).data
            _check_float(inner)
            while level(inner) < depth - 1:
                inner = Tensor(inner)
            leaves.append((Tensor(inner, requires_grad=True), x))
            return leaves[-1][0]

        with Switch(depth=depth, recording=True):
            wrapped = {n: tree_map(wrap, args[n]) for n in numbers}
            y = f(*(wrapped.get(i, a) for i, a in enumerate(args)), **kwargs)
            if not hasattr(y, "shape") or y.size != 1:
                got = getattr(y, "shape", type(y).__name__)
                raise ValueError(f"grad needs a function that returns one number, not {got}")
            if level(y) == depth and y.requires_grad:  # else it does not depend on the argument
                backward(y)
        zeros = lambda t: namespace(t.data).zeros_like(t.data)
        # a Tensor to who gave one, or is inside a grad themselves; the array to who gave an array
        as_given = lambda tensor, result: result if tensor or depth > 2 else raw(result)
        found = iter([as_given(isinstance(x, Tensor), zeros(t) if t.grad is None else t.grad) for t, x in leaves])
        grads = tuple(tree_map(lambda _: next(found), args[n]) for n in numbers)
        value = as_given(any(isinstance(x, Tensor) for _, x in leaves), y.data if level(y) == depth else y)
        return value, grads[0] if isinstance(argnum, int) else grads

    return both


def tree_map(f: Callable, x: Any) -> Any:
    """`f` of every leaf of nested tuples, lists and dicts; None stays None."""
    if isinstance(x, dict):
        return {k: tree_map(f, v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        parts = [tree_map(f, v) for v in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)  # a namedtuple takes them one by one
    return None if x is None else f(x)

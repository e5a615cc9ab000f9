"""The graph of recorded ops, and the backward pass through it.

A `Node` is one recorded op.  `run_backward` visits nodes from the newest to the oldest and passes
their gradients to the nodes and leaves that made their inputs.
"""

from __future__ import annotations

import functools
import itertools
import operator
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from gpuprop._core.backend import BY_TYPE, MULTI_DEVICE
from gpuprop._core.dtypes import cast, converted, widened
from gpuprop._core.instruments import leaf_reached
from gpuprop._core.mode import backward_checks, current_recorder

clock = itertools.count()  # orders recorded nodes and in-place writes
creation = operator.attrgetter("order")


class Variable:
    """Abstract: an array, or another Variable, with its gradient and the node that made it.

    Tensor is the only subclass.  Besides these attributes, the graph uses the methods `receive` and
    `_receive_from` of leaves.  The library reads `array` and `gradient`; users know them as `data`
    and `grad`.

    All subclasses have these slots and no others, so that an object can change its class.  Only
    Parameters set `changed` and `grad_buffer`, and only dialects set `memory`.
    """

    __slots__ = ("__weakref__", "array", "changed", "grad_buffer", "gradient", "hooks", "memory",
                 "node", "requires_grad")
    array: Any
    gradient: Any
    hooks: list[Callable[[Any], Any]] | None  # each takes a gradient and returns the one to use
    node: Node | None
    requires_grad: bool
    changed: int  # the `clock` of the last in-place change of a Parameter's values
    grad_buffer: Any  # the memory that an optimizer provides for a Parameter's gradient, or None
    memory: Any  # an object that all Tensors in one memory share


def raw(a: Any) -> Any:
    """The array inside a Tensor, however deeply nested; other values are returned as they are.

    While a step is recorded, it is the recording's array.
    """
    a = unwrapped(a)
    recorder = current_recorder()
    return a if recorder is None or type(a) not in recorder.guests else recorder.asarray(a)


def unwrapped(a: Any) -> Any:
    """What is inside of a Tensor."""
    while isinstance(a, Variable):
        a = a.array
    return a


def level(a: Any) -> int:
    """The number of nested Tensors around an array: 0 for the array itself."""
    n = 0
    while isinstance(a, Variable):
        a = a.array
        n += 1
    return n


class Node:
    """One recorded op: it receives the gradient of its output and computes those of its inputs.

    `op` is the `Spec` of the op.  `edges` has one item for each input: the node or leaf that
    receives the input's gradient, or None.  `pullback` computes these gradients: a tuple with one
    function (or None) per edge, or one function that returns them all.  `shape` and `dtype` are
    those of the output.

    The only Tensors that a node references are leaves, so an activation is freed as soon as no
    pullback needs it.

    `again` is how to run the op again; only dialects that need it set it.
    """

    __slots__ = ("again", "dtype", "edges", "grad", "hooks", "op", "order", "pullback", "shape")
    again: Any
    grad: Any
    hooks: Any

    def __init__(self, op: Any, edges: Sequence, pullback: Any, shape: Any = None,
                 dtype: Any = None) -> None:
        self.order = next(clock)
        self.op = op
        self.edges = edges
        self.pullback = pullback
        self.shape = shape
        self.dtype = dtype
        self.grad = self.hooks = None

    @property
    def name(self) -> str:
        """The name of the op as the user calls it, such as "max_pool2d"."""
        return self.op.label(self.shape)


class Into:
    """A pullback that can write its gradient into memory that it is given.

    ``function(dy, out)`` returns the gradient of an input, never None.  `out` is None, or an array
    in which the gradient may be returned.  It has another shape, dtype or memory order than the
    input if the program has replaced the array of the parameter, and it may overlap what the
    function reads.
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function = function

    def __call__(self, dy: Any) -> Any:
        return self.function(dy, None)


# ---- writes in place -----------------------------------------------------------------------------

MAX_WRITES = 20_000  # a model's parameters, loaded at once, must not displace older ones
_writes: dict[tuple[int, int], int] = {}  # extent -> `clock` of its last write, the oldest first
_last_write = -1  # its `clock`


def extent(array: Any) -> tuple[int, int]:
    """The addresses of an array's first byte and of the byte after its last one."""
    return BY_TYPE[type(array)].extent(array)


def written(where: tuple[int, int]) -> None:
    """Declare that memory was written in place: backward through earlier uses of it now raises.

    The library calls it for each of its writes to the array of a Tensor.
    """
    global _last_write
    _writes.pop(where, None)
    _writes[where] = _last_write = next(clock)
    if len(_writes) > MAX_WRITES:
        for oldest in list(_writes)[:MAX_WRITES // 2]:
            _writes.pop(oldest, None)  # another thread may have removed it


def check_unwritten(nodes: Sequence[Node], runs_again: bool = False) -> None:
    """Raise RuntimeError if memory that a pullback reads was written after its op was recorded.

    `nodes` are ordered from the newest to the oldest.  With `runs_again`, the ops are about to run
    again, and read their inputs too.
    """
    if not nodes or _last_write <= nodes[-1].order:
        return
    start = nodes[-1].order
    recent = [(where, time) for where, time in list(_writes.items()) if time > start]
    for node in nodes:
        later = [where for where, time in recent if time > node.order]
        read = (node.pullback, getattr(node, "again", None)) if runs_again else node.pullback
        for a in _arrays_of(read) if later else ():
            first, end = extent(a)
            if any(first < other_end and other_first < end for other_first, other_end in later):
                raise RuntimeError(
                    f"backward through {node.name}: an array of shape {a.shape} that it reads was "
                    f"changed by a step or a load, or written in place, after the forward pass "
                    f"used it, so the gradient would be wrong: run the forward pass again, or "
                    f"write into a copy, t.clone()")


def _arrays_of(pullback: Any) -> Iterator[Any]:
    """The arrays that pullbacks hold: in closures, containers and attributes, at any depth."""
    seen = {id(backend.xp) for backend in list(BY_TYPE.values())}  # they hold no arrays of graphs
    stack = [pullback]
    while stack:
        x = unwrapped(stack.pop())
        if type(x) in BY_TYPE:
            yield x
        elif id(x) not in seen:
            seen.add(id(x))
            stack += _contents(x)


def _contents(x: Any) -> Iterable:
    """The objects that an object holds; none for modules and classes.

    Of an object with a list `read_in_backward`, they are those of this list.
    """
    if isinstance(x, tuple | list):
        return x
    if isinstance(x, dict):
        return x.values()
    if isinstance(x, types.FunctionType):
        cells = (_content(cell) for cell in x.__closure__ or ())
        return (*cells, *(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values())
    if isinstance(x, types.MethodType):
        return x.__self__, x.__func__
    if isinstance(x, functools.partial):
        return x.func, *x.args, *x.keywords.values()
    if isinstance(x, types.ModuleType | type):
        return ()
    attributes = getattr(x, "__dict__", None)
    if not isinstance(attributes, dict):
        return ()
    return attributes.get("read_in_backward", attributes.values())


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


# ---- backward ------------------------------------------------------------------------------------


def run_backward(root: Node, gradient: Any, retain_graph: bool) -> None:
    """Backpropagate the gradient of `root`, and add the results to the gradients of the leaves."""
    nodes = reachable(root)
    check_unwritten(nodes)
    for check in backward_checks:
        check(nodes)
    if leaf_reached.is_watched:
        _report_leaves(nodes)
    root.grad = gradient
    propagate(nodes, retain_graph)


def propagate(nodes: Sequence[Node], retain_graph: bool) -> None:
    """Pass the gradients that the first nodes have to all others, and to the leaves.

    `nodes` are ordered from the newest to the oldest.
    """
    # leaves with hooks and the sums of their gradients: a hook is called once, with the whole sum
    waiting: dict[int, tuple[Variable, Any]] = {}
    # nodes whose gradients of a half type are added in float32, and ids of leaves of half types
    halves: set = set()
    has_devices = bool(MULTI_DEVICE)
    try:
        for node in nodes:
            g = node.grad
            node.grad = None
            if halves and node in halves:
                g = converted(g, node.dtype)
            if g is not None:
                if has_devices:
                    _use_device_of(g)
                if node.hooks:
                    for hook in tuple(node.hooks):  # a hook may remove itself
                        g = hook(g)
                pullback = node.pullback
                if type(pullback) is tuple:
                    for edge, f in zip(node.edges, pullback):  # noqa: B905 (equally long)
                        if edge is not None and f is not None:
                            if type(f) is Into and _takes_memory(edge):
                                _receive_from(node, edge, f, g)
                                continue
                            d = f(g)
                            if d is not None:
                                _send(node, edge, d, waiting, halves)
                else:
                    grads = _checked_gradients(node, pullback(g))
                    for edge, d in zip(node.edges, grads):  # noqa: B905 (equally long)
                        if edge is not None and d is not None:
                            _send(node, edge, d, waiting, halves)
            if not retain_graph:  # free the activations that the pullback holds
                node.pullback = already_freed
                node.edges = ()
                node.again = None
        for leaf, g in waiting.values():
            deliver(leaf, cast(g, leaf.array.dtype))
    except BaseException:
        for node in nodes:  # the next backward through these nodes must start from nothing
            node.grad = None
        raise


def _takes_memory(edge: Any) -> bool:
    """True for a leaf without hooks, whose gradient is not of a half type."""
    return type(edge) is not Node and not edge.hooks and edge.array.itemsize > 2


def _report_leaves(nodes: Sequence[Node]) -> None:
    for node in nodes:
        for edge in node.edges:
            if isinstance(edge, Variable):
                leaf_reached(edge)


def deliver(leaf: Any, g: Any) -> None:
    """Run a leaf's hooks on its whole gradient, and add the result to `leaf.gradient`."""
    if MULTI_DEVICE:
        _use_device_of(g)
    leaf.receive(changed_by_hooks(leaf, g))
    run_hooks_after(leaf)


def changed_by_hooks(leaf: Variable, g: Any) -> Any:
    """The gradient of a leaf as its hooks return it."""
    for hook in tuple(leaf.hooks or ()):
        if not getattr(hook, "is_after", False):
            g = hook(g)
    return g


def run_hooks_after(leaf: Variable) -> None:
    """Call the hooks of a leaf whose gradient was added: see `Tensor`."""
    for hook in tuple(leaf.hooks or ()):
        if getattr(hook, "is_after", False):
            hook(leaf)


def _use_device_of(g: Any) -> None:
    """Make the device of a gradient the current one.

    The gradients of several outputs are a list, whose items are all on one device.
    """
    if type(g) is list:
        g = next((item for item in g if item is not None), None)
    a = raw(g)
    backend = BY_TYPE.get(type(a))
    if backend in MULTI_DEVICE:
        backend.use_device(backend.device_of(a))


def _send(node: Node, edge: Any, g: Any, waiting: dict, halves: set) -> None:
    """Add a gradient to the node or leaf that made the input, in the input's shape and dtype.

    Gradients of half types are added in float32: a sum of many would stop growing.
    """
    if MULTI_DEVICE:
        _use_device_of(g)
    if type(edge) is Node:
        if g.shape != edge.shape:
            g = unbroadcast(node, g, edge.shape)
        if g.dtype is not edge.dtype:
            g = converted(g, edge.dtype)
        before = edge.grad
        if before is None:
            edge.grad = g
        elif g.dtype.itemsize == 2:
            halves.add(edge)
            edge.grad = widened(before) + widened(g)
        else:
            edge.grad = before + g
        return
    g = _like_leaf(node, edge, g)
    if not edge.hooks and g.dtype.itemsize > 2:
        edge.receive(g)
        return
    key = id(edge)
    if key in waiting:
        waiting[key] = edge, waiting[key][1] + widened(g)
    elif edge.hooks or key in halves:
        waiting[key] = edge, widened(g)
    else:
        halves.add(key)  # later gradients in this pass are added in float32
        edge.receive(g)


def _receive_from(node: Node, leaf: Any, pullback: Into, g: Any) -> None:
    leaf._receive_from(lambda out: _like_leaf(node, leaf, pullback.function(g, out)))


def _like_leaf(node: Node, leaf: Any, g: Any) -> Any:
    """A gradient in the shape and dtype of the leaf."""
    data = leaf.array
    if g.shape != data.shape:
        g = unbroadcast(node, g, data.shape)
    if g.dtype is not data.dtype:
        leaf._check_floating()  # the assignment `t.requires_grad = True` does not check the dtype
        g = converted(g, data.dtype)
    return g


def _checked_gradients(node: Node, result: Any) -> Any:
    """The result of the one pullback for all inputs: one gradient, or None, per edge."""
    is_sequence = type(result) in (tuple, list)
    if is_sequence and len(result) == len(node.edges):
        return result
    got = f"{len(result)} of them" if is_sequence else f"one {type(result).__name__}"
    raise TypeError(f"backward through {node.name}: its pullback must return a tuple of "
                    f"{len(node.edges)} gradients, one for each array parameter, but it returned "
                    f"{got}")


def already_freed(g: Any) -> Any:
    raise RuntimeError("an earlier backward has run through this graph and freed it: run the "
                       "forward pass again, or call the first backward with retain_graph=True")


def reachable(node: Node) -> Sequence[Node]:
    """This node and all nodes that its gradient reaches, newest first."""
    seen, stack = {node}, [node]
    while stack:
        for edge in stack.pop().edges:
            if type(edge) is Node and edge not in seen:
                seen.add(edge)
                stack.append(edge)
    return sorted(seen, key=creation, reverse=True)


def unbroadcast(node: Node, g: Any, shape: tuple) -> Any:
    """The sum of `g` over the axes along which an input of this shape was broadcast."""
    lead = g.ndim - len(shape)
    axes = [*range(lead)]
    for i, n in enumerate(shape, lead):
        if lead < 0 or n not in (1, g.shape[i]):
            raise ValueError(
                f"backward through {node.name}: its pullback returned a gradient of shape "
                f"{g.shape} for an input of shape {shape}; it must have that shape, or one to "
                f"which the input broadcasts")
        if n != g.shape[i]:
            axes.append(i)
    return widened(g).sum(axis=tuple(axes)).reshape(shape)  # `_send` casts it to the input's dtype

"""The graph of recorded ops, and the run through it backwards.

A `Node` is one recorded op.  `run_backward` visits nodes from the newest to the oldest and hands
gradients on.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gpuprop._core.backend import BY_TYPE, SEVERAL
from gpuprop._core.dtypes import widened
from gpuprop._core.instruments import leaf_reached

clock = itertools.count()  # nodes, and changes of parameters, in the order in which they happen
_creation = operator.attrgetter("order")


class Variable:
    """Abstract: an array, or another Variable, with its gradient and the node that made it.

    Tensor is the only subclass; the graph needs no more of it than this, and `receive` and
    `changed` of leaves.
    """

    __slots__ = ("__weakref__", "data", "grad", "hooks", "node", "requires_grad")
    data: Any
    grad: Any
    hooks: list[Callable[[Any], Any]] | None  # each returns the gradient to go on with
    node: Node | None
    requires_grad: bool
    changed = -1  # when the values were changed in place, by `clock`


def raw(a: Any) -> Any:
    """The array inside of all Tensors; what is no Tensor as it is."""
    while isinstance(a, Variable):
        a = a.data
    return a


def level(a: Any) -> int:
    """The number of Tensors around the array: 0 for the array itself."""
    n = 0
    while isinstance(a, Variable):
        a, n = a.data, n + 1
    return n


class Node:
    """One recorded op: where its output's gradient arrives, and how it goes on to the inputs.

    A node holds no Tensor but leaves, so an activation lives only while a pullback needs it.  `op`
    is the `Spec` of the op; an edge is the node or the leaf that the gradient goes to, or None.
    """

    __slots__ = ("dtype", "edges", "grad", "hooks", "op", "order", "pullback", "shape")
    grad: Any
    hooks: Any

    def __init__(self, op: Any, edges: Sequence, pullback: Any, shape: Any = None,
                 dtype: Any = None) -> None:
        self.order = next(clock)
        self.op, self.edges, self.pullback = op, edges, pullback
        self.shape, self.dtype = shape, dtype
        self.grad = self.hooks = None

    @property
    def name(self) -> str:
        """The name of the op, as a user would call it: "max_pool2d"."""
        return self.op.label(self.shape)


# ---- backward ------------------------------------------------------------------------------------


def run_backward(root: Node, gradient: Any, retain_graph: bool) -> None:
    """Add d(root)/d(leaf) times `gradient` to the gradient of every leaf below `root`."""
    root.grad = gradient
    nodes = _reachable(root)
    waiting: dict[int, tuple[Variable, Any]] = {}  # leaves with hooks: they see the whole gradient
    several = bool(SEVERAL)
    try:
        for node in nodes:
            g, node.grad = node.grad, None
            if g is not None:
                if several:
                    follow(g)
                for hook in node.hooks or ():
                    g = hook(g)
                pullback = node.pullback
                if type(pullback) is tuple:
                    for edge, f in zip(node.edges, pullback, strict=True):
                        if edge is not None and f is not None:
                            d = f(g)
                            if d is not None:
                                _send(node, edge, d, waiting)
                else:
                    for edge, d in zip(node.edges, _all_of(node, pullback(g)), strict=True):
                        if edge is not None and d is not None:
                            _send(node, edge, d, waiting)
            if not retain_graph:
                node.pullback, node.edges = _spent, ()  # activations are freed as they are used up
        for leaf, g in waiting.values():
            deliver(leaf, g)
    except BaseException:
        for node in nodes:  # what has arrived so far is no part of the next backward through here
            node.grad = None
        raise


def deliver(leaf: Any, g: Any) -> None:
    """Give a leaf the whole of its gradient, after its hooks."""
    if SEVERAL:
        follow(g)
    for hook in tuple(leaf.hooks or ()):
        g = hook(g)
    leaf.receive(g)


def follow(g: Any) -> None:
    """Make the device of a gradient the current one.

    Of the gradients of several outputs, a list, the first counts.
    """
    a = raw(next((part for part in g if part is not None), None) if type(g) is list else g)
    backend = BY_TYPE.get(type(a))
    if backend in SEVERAL:
        backend.use_device(backend.device_of(a))


def _send(node: Node, edge: Any, g: Any, waiting: dict) -> None:
    """Hand a gradient to the node or leaf that made the input, in the input's shape and dtype."""
    if SEVERAL:
        follow(g)
    if type(edge) is Node:
        if g.shape != edge.shape:
            g = _unbroadcast(node, g, edge.shape)
        if g.dtype is not edge.dtype:
            g = g.astype(edge.dtype)
        edge.grad = g if edge.grad is None else edge.grad + g
        return
    if edge.changed > node.order:
        raise RuntimeError(
            f"backward through {node.name}: a parameter of shape {edge.shape} was changed by a "
            f"step or a load after it was used here, so this gradient would belong to other "
            f"values: run the forward pass again")
    leaf_reached(edge)
    data = edge.data
    if g.shape != data.shape:
        g = _unbroadcast(node, g, data.shape)
    if g.dtype is not data.dtype:
        edge._check_floating()  # `t.requires_grad = True` was not checked when it was set
        g = g.astype(data.dtype)
    if not edge.hooks:
        edge.receive(g)
    else:
        waiting[id(edge)] = edge, waiting[id(edge)][1] + g if id(edge) in waiting else g


def _all_of(node: Node, found: Any) -> Any:
    """What the one pullback for all inputs returned: a gradient, or None, for each."""
    if type(found) in (tuple, list) and len(found) == len(node.edges):
        return found
    got = f"{len(found)} of them" if type(found) in (tuple, list) else f"one {type(found).__name__}"
    raise TypeError(f"backward through {node.name}: its pullback must return a tuple of "
                    f"{len(node.edges)} gradients, "
                    f"one for each array parameter, and it returned {got}")


def _spent(g: Any) -> Any:
    raise RuntimeError("backward has run through this graph before and freed it: "
                       "run the forward pass again, "
                       "or give the first backward retain_graph=True")


def _reachable(node: Node) -> Iterable[Node]:
    """The nodes that a gradient of this one reaches, newest first."""
    seen, stack = {node}, [node]
    while stack:
        for edge in stack.pop().edges:
            if type(edge) is Node and edge not in seen:
                seen.add(edge)
                stack.append(edge)
    return sorted(seen, key=_creation, reverse=True)


def _unbroadcast(node: Node, g: Any, shape: tuple) -> Any:
    """The sum of `g` over the axes along which an input of this shape was broadcast."""
    lead = g.ndim - len(shape)
    if lead < 0 or any(n not in (1, m) for n, m in zip(shape, g.shape[lead:], strict=True)):
        raise ValueError(
            f"backward through {node.name}: its pullback returned a gradient of shape {g.shape} "
            f"for an input of shape {shape}; it must have that shape, or one the input "
            f"broadcasts to")
    broadcast = [i + lead for i, n in enumerate(shape) if n == 1 and g.shape[i + lead] != 1]
    axes = (*range(lead), *broadcast)
    return widened(g).sum(axis=axes).reshape(shape)  # the receiver rounds it

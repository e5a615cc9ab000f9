"""Activation recomputation: backward runs a function again, which keeps only its inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gpuprop._core.checks import as_callable, as_instance, as_integer
from gpuprop._core.dialects import finished
from gpuprop._core.draws import Draws
from gpuprop._core.graph import Node, clock, propagate, raw, reachable
from gpuprop._core.instruments import inspect_ops
from gpuprop._core.mode import Switch, current
from gpuprop._core.namespace import Differentiable
from gpuprop._core.ops import record_outputs
from gpuprop._core.registry import backend_of
from gpuprop._core.signature import Array
from gpuprop._core.spec import Spec
from gpuprop._core.tensor import Tensor
from gpuprop._core.tree import tree_leaves, tree_map
from gpuprop.nn._module import Module


def checkpoint(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, whose activations backward computes again.

    Forward keeps the arguments and the random keys that it drew, and no activations; backward runs
    the function a second time, with the same noise, under the same autocast.  A model of n layers
    in sqrt(n) such parts needs memory for about 2 sqrt(n) layers, and 4/3 of the time.  Gradients
    reach all that the function reads: arguments, parameters and other Tensors.

    The function must do the same both times; running statistics of a normalization layer in it are
    updated twice.  Gradients of gradients are computed by `gpuprop.grad`.

    T. Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.

    >>> from gpuprop import nn
    >>> block = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> x = gpuprop.ones(2, 3)
    >>> bool((nn.utils.checkpoint(block, x) == block(x)).all())
    True
    """
    as_callable("checkpoint: function", function)
    mode = current.get()
    if not mode.recording:
        return function(*args, **kwargs)
    start = next(clock)
    draws = Draws()
    with draws.noted():
        if mode.depth > 1:  # the ops of this level run others, whose pullbacks are needed
            output = function(*args, **kwargs)
        else:
            with inspect_ops(_without_pullbacks):
                output = function(*args, **kwargs)
    outs = _made_since(start, output)
    if not outs:
        return output
    args, kwargs = tree_map(_unchanging, args), tree_map(_unchanging, kwargs)
    shapes = [(t.shape, t.dtype) for t in outs]
    _, found = _nodes_since(start, outs)
    edges = list(found.values())

    def pullback(gradients: tuple) -> tuple:
        begin = next(clock)
        with Switch(recording=True, low=mode.low, generic=mode.generic), draws.repeated():
            again = _made_since(begin, function(*args, **kwargs))
        if [(t.shape, t.dtype) for t in again] != shapes:
            raise _differs(f"its outputs have other shapes or dtypes: {shapes} in forward")
        return _gradients(begin, again, gradients, edges)

    made = _results(outs, edges, pullback)
    same = dict(zip(map(id, outs), made, strict=True))
    return tree_map(lambda t: same.get(id(t), t), output)


def checkpoint_sequential(functions: Any, segments: int, input: Any) -> Any:
    """Call functions one after the other, in `segments` parts that are checkpoints but the last.

    `functions` is a Sequential or a list of functions.  See `checkpoint`.
    """
    parts = functions.children() if isinstance(functions, Module) else functions
    layers = list(as_instance("checkpoint_sequential: functions", parts, Iterable,
                              "a Sequential or a list of functions"))
    n = as_integer("checkpoint_sequential: segments", segments, 1)
    size = max(len(layers) // n, 1)
    starts = [i * size for i in range(n) if i * size < len(layers)]

    def run(part: list) -> Callable:
        def call(x: Any) -> Any:
            for layer in part:
                x = layer(x)
            return x

        return call

    for start, end in itertools.pairwise(starts):
        input = checkpoint(run(layers[start:end]), input)
    return run(layers[starts[-1]:] if starts else [])(input)


def _body(xp, *arrays: Array):
    raise RuntimeError("create_graph=True through a checkpoint: gradients of gradients are not "
                       "computed there: call the function itself, without checkpoint")


CHECKPOINT = Spec(_body, label="checkpoint", registered=False)


def _without_pullbacks(spec: Any, backend: Any, run: Callable) -> Callable:
    """The body of an op, without the arrays that its pullbacks hold: see `inspect_ops`."""

    def call(xp: Any, *arrays: Any, **constants: Any) -> Any:
        result = run(xp, *arrays, **constants)
        if type(result) is not tuple:
            return result
        out, pullbacks = result
        if type(pullbacks) is tuple:
            return out, tuple(f and _left_out for f in pullbacks)
        return out, pullbacks and _left_out

    return call


def _left_out(g: Any) -> Any:
    raise RuntimeError("backward inside a function that checkpoint runs: a gradient that is a part "
                       "of the function is computed by gpuprop.grad")


def _made_since(start: int, output: Any) -> list[Tensor]:
    """The Tensors of an output that have a history which began after `start`, each once."""
    found = {id(t): t for t in tree_leaves(output)
             if isinstance(t, Tensor) and t.node is not None and t.node.order > start}
    return list(found.values())


def _nodes_since(start: int, outs: list[Tensor]) -> tuple[set[Node], dict[int, Any]]:
    """The nodes after `start` of which the Tensors were made, and the older ones and leaves, by id,
    that these read.
    """
    inside = {t.node for t in outs if t.node is not None}
    outside: dict[int, Any] = {}
    stack = list(inside)
    while stack:
        for edge in stack.pop().edges:
            if type(edge) is Node and edge.order > start:
                if edge not in inside:
                    inside.add(edge)
                    stack.append(edge)
            elif edge is not None:
                outside[id(edge)] = edge
    return inside, outside


def _unchanging(value: Any) -> Any:
    """A result of an op as another object, since writing in place may change the history of one."""
    if not isinstance(value, Tensor) or value.node is None:
        return value
    t = object.__new__(type(value))
    t.array, t.node, t.requires_grad = value.array, value.node, value.requires_grad
    t.gradient = t.hooks = None
    return t


def _results(outs: list[Tensor], edges: list, pullback: Callable) -> Sequence[Tensor]:
    """The outputs of the function with a history of one op."""
    arrays = tuple(t.array for t in outs)
    backend = backend_of(raw(arrays[0]))
    owner = Differentiable(backend.xp) if isinstance(arrays[0], Tensor) else backend
    made = record_outputs(CHECKPOINT, arrays, pullback, edges, owner, True, True)
    return finished(made, tuple(outs), CHECKPOINT, edges, [None] * len(edges), {})


def _gradients(start: int, outs: list[Tensor], gradients: tuple, edges: list) -> tuple:
    """The gradients of the nodes and leaves `edges`, of which the outputs were made after `start`.

    In the graph, each of them is replaced by a node that keeps its gradient.
    """
    inside, outside = _nodes_since(start, outs)
    found: dict[int, Any] = {}
    if any(key not in map(id, edges) for key in outside):
        raise _differs("it reads other Tensors")
    ends = {key: _end(found, key, edge) for key, edge in outside.items()}
    for node in inside:
        node.edges = [ends.get(id(edge), edge) for edge in node.edges]
    root = Node(CHECKPOINT, [t.node for t in outs], lambda _: gradients)
    root.grad = True
    propagate(reachable(root), retain_graph=False)
    return tuple(found.get(id(edge)) for edge in edges)


def _end(found: dict[int, Any], key: int, edge: Any) -> Node:
    """A node that stores the gradient of a node or leaf in `found`."""
    like = edge if type(edge) is Node else edge.array

    def store(g: Any) -> tuple:
        found[key] = g
        return ()

    node = Node(CHECKPOINT, (), store, like.shape, like.dtype)
    node.order = -1  # the gradient is complete after all others
    return node


def _differs(how: str) -> RuntimeError:
    return RuntimeError(f"checkpoint: the function did something else when backward ran it again: "
                        f"{how}. It must depend only on its arguments, parameters and gpuprop's "
                        f"random numbers")

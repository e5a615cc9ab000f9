"""Gradients with respect to given inputs, and gradients of gradients.

A node of this dialect remembers its call (`Node.again`): the op, its constants, and for each
argument the node or leaf that it came from, or the array if it has no gradient.  With
`create_graph`, the ops between the inputs and the outputs are run again on Tensors, which records
their pullbacks as ops.  A graph keeps nothing alive for a second derivative that no one asks for.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from gpuprop._array.methods import MOVE, moved
from gpuprop._core import graph as engine
from gpuprop._core.arguments import for_half_types
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import Node, raw
from gpuprop._core.mode import Switch, is_grad_enabled
from gpuprop._core.namespace import Differentiable, namespace
from gpuprop._core.ops import record_outputs, recorded
from gpuprop._core.registry import backend_of
from gpuprop._core.tensor import Tensor as Plain
from gpuprop.torch._memory import others_in_memory
from gpuprop.torch._results import Inner, as_class, inner
from gpuprop.torch._tensor import WRITTEN, Tensor, Words, as_torch, changed_in_place, wrap


def grad(outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None,
         create_graph: bool = False, only_inputs: bool = True, allow_unused: bool | None = None,
         is_grads_batched: bool = False, materialize_grads: bool = False) -> tuple:
    """The gradients of the sum of `outputs` with respect to each of `inputs`, as a tuple.

    With `create_graph` they have a history of their own.  An input that no output depends on
    raises RuntimeError; it has None with `allow_unused`, or zeros with `materialize_grads`.
    """
    if is_grads_batched:
        raise NotImplementedError("autograd.grad(is_grads_batched=True): call grad once for each "
                                  "row of grad_outputs")
    wanted = _listed(inputs)
    found = _gradients(_listed(outputs), _listed(grad_outputs), wanted, retain_graph, create_graph)
    if materialize_grads:
        found = [wrap(namespace(raw(x)).zeros_like(raw(x))) if g is None else g
                 for x, g in zip(wanted, found, strict=True)]
    elif not allow_unused and any(g is None for g in found):
        raise RuntimeError("One of the differentiated Tensors appears to not have been used in "
                           "the graph. Set allow_unused=True if this is the desired behavior.")
    return tuple(found)


def backward(tensors: Any, grad_tensors: Any = None, retain_graph: bool | None = None,
             create_graph: bool = False, inputs: Any = None) -> None:
    """Add the gradients of the sum of `tensors` to the `grad` of the leaves, or of `inputs`."""
    roots = _listed(tensors)
    leaves = _leaves(roots) if inputs is None else _listed(inputs)
    found = _gradients(roots, _listed(grad_tensors), leaves, retain_graph, create_graph)
    for leaf, g in zip(leaves, found, strict=True):
        if g is not None:
            leaf.receive(g if create_graph else raw(g))
            engine.run_hooks_after(leaf)


def _listed(x: Any) -> list:
    if x is None:
        return []
    return [x] if isinstance(x, Plain) else list(x)


def _leaves(roots: list) -> list:
    """The leaves that the roots were computed from."""
    found = {id(root): root for root in roots if root.node is None and root.requires_grad}
    for node in _between(roots, set()):
        found.update((id(e), e) for e in node.edges if isinstance(e, Plain))
    return list(found.values())


def _between(outputs: list, stops: set[int]) -> list[Node]:
    """The nodes from the inputs, whose ids are `stops`, to the outputs, the oldest first."""
    seen = {y.node for y in outputs if y.node is not None}
    stack = list(seen)
    while stack:
        node = stack.pop()
        if node.pullback is engine.already_freed:
            engine.already_freed(None)
        if id(node) in stops:
            continue
        for edge in node.edges:
            if type(edge) is Node and edge not in seen:
                seen.add(edge)
                stack.append(edge)
    return sorted(seen, key=engine.creation)


def _gradients(outputs: list, seeds: list, inputs: list, retain_graph: bool | None,
               create_graph: bool) -> list:
    """The gradient of each input, or None."""
    for y in outputs:
        if not y.requires_grad:
            raise RuntimeError("element 0 of tensors does not require grad and does not have a "
                               "grad_fn")
    if any(not x.requires_grad for x in inputs):
        raise RuntimeError("One of the differentiated Tensors does not require grad")
    keys = [x.node or x for x in inputs]
    stops = {id(k) for k in keys}
    # One input may be computed from another: then the walk goes on through it.
    goes_through = len(stops) > 1 and any(type(k) is Node for k in keys)
    nodes = _between(outputs, set() if goes_through else stops)
    engine.check_unwritten(nodes[::-1], runs_again=create_graph)
    held: dict[int, Any] = {}  # the gradient so far, by the id of a node or leaf
    seeds = seeds or [None] * len(outputs)
    with Switch(recording=create_graph, low=None):
        runs = {}
        if create_graph:
            values = {id(k): x for k, x in zip(keys, inputs, strict=True)}
            runs = _run_again(nodes, values, goes_through)
        for y, seed in zip(outputs, seeds, strict=True):
            _add(held, None, y.node or y, _seed(y, seed, create_graph))
        for node in reversed(nodes):
            is_stop = id(node) in stops
            g = held.get(id(node)) if is_stop else held.pop(id(node), None)
            if node.grad is not None:  # the list of gradients of several outputs
                g, node.grad = node.grad, None
            if g is None:
                continue
            for hook in tuple(node.hooks or ()):
                g = hook(g)
                g = held[id(node)] = inner(g) if isinstance(g, Plain) else g
            if is_stop and not goes_through:
                continue
            edges, pullback = runs[id(node)] if create_graph else (node.edges, node.pullback)
            wanted = [type(e) is Node or isinstance(e, Plain) for e in edges]
            if type(pullback) is tuple:
                pulled = [f(g) if f and w else None
                          for f, w in zip(pullback, wanted, strict=True)]
            else:
                pulled = pullback(g)
            for edge, d, w in zip(edges, pulled, wanted, strict=True):
                if w and d is not None:
                    _add(held, node, edge, inner(d) if isinstance(d, Tensor) else d)
    if not (create_graph if retain_graph is None else retain_graph):
        for node in nodes:
            if id(node) not in stops:
                node.pullback, node.edges, node.again = engine.already_freed, (), None
    found = [held.get(id(k)) for k in keys]
    for i, x in enumerate(inputs):
        if x.node is None and found[i] is not None:
            found[i] = engine.changed_by_hooks(x, found[i])
    return [as_torch(g) if g is None or isinstance(g, Plain) else wrap(g) for g in found]


def _seed(y: Any, seed: Any, create_graph: bool) -> Any:
    """The gradient of an output."""
    if seed is None:
        if y.array.size != 1:
            raise RuntimeError("grad can be implicitly created only for scalar outputs")
        seed = namespace(y.array).ones_like(y.array)
    elif seed.shape != y.shape:
        raise RuntimeError(f"Mismatch in shape: a grad_output has a shape of {tuple(seed.shape)} "
                           f"and its output has a shape of {tuple(y.shape)}")
    if not create_graph:
        return raw(seed)
    return inner(seed) if isinstance(seed, Plain) else Inner(seed)


def _add(held: dict, node: Any, edge: Any, g: Any) -> None:
    """Add a gradient, in the shape and dtype of what it belongs to."""
    if isinstance(edge, Node) and edge.shape is None:  # a node of several outputs: a list
        held[id(edge)] = g
        return
    owner = edge if type(edge) is Node else edge.array
    shape, dtype = owner.shape, owner.dtype
    if g.shape != shape:
        g = engine.unbroadcast(node, g, shape)
    if g.dtype != dtype:
        g = g.astype(dtype)
    held[id(edge)] = held[id(edge)] + g if id(edge) in held else g


# ---- running ops again ---------------------------------------------------------------------------


def _run_again(nodes: list[Node], inputs: dict[int, Any], goes_through: bool) -> dict[int, tuple]:
    """Run the ops of `nodes` on Tensors: {id(node): (edges, pullback)}."""
    values: dict[int, Any] = {}
    runs: dict[int, tuple] = {}

    def value(origin: Any) -> Any:
        if type(origin) is Node:
            return values[id(origin)]
        if isinstance(origin, Plain):
            if id(origin) not in values:
                values[id(origin)] = inner(origin)
            return values[id(origin)]
        return Inner(origin) if hasattr(origin, "shape") else origin

    for node in nodes:
        if id(node) in inputs:
            values[id(node)] = inner(inputs[id(node)])
            if not goes_through:
                continue
        again = getattr(node, "again", None)
        if again is WRITTEN:
            raise RuntimeError(f"create_graph=True: the result of {node.name} was written in place "
                               f"without a gradient, so it cannot be computed again: write into a "
                               f"copy, t.clone()")
        if again is None:
            raise RuntimeError(f"create_graph=True: {node.name} was computed from Tensors of "
                               f"gpuprop, not of gpuprop.torch, or between devices, and cannot be "
                               f"differentiated twice: create its inputs with gpuprop.torch")
        spec, edges, *rest = again
        if type(spec) is Node:  # one output of several
            values.setdefault(id(node), values[id(spec)][edges])
            runs[id(node)] = (spec,), (_storing(spec, edges, len(values[id(spec)])),)
            continue
        out, pullback = _call(spec, [value(origin) for origin in edges], *rest)
        if isinstance(out, tuple) and not is_function(spec):
            pullback = _of_several(out, pullback)
        values.setdefault(id(node), out)
        runs[id(node)] = edges, pullback
    return runs


def is_function(spec: Any) -> bool:
    """True if an op is a `Function` of a program."""
    return isinstance(spec, type) and issubclass(spec, Function)


def _call(spec: Any, arguments: list, constants: Any) -> tuple:
    """Run the definition of an op, or a `Function`, on Tensors: (output, pullbacks)."""
    if is_function(spec):
        out, tensors, pullback = spec._record([as_torch(a) for a in arguments], **constants)
        is_sequence = isinstance(out, tuple | list)
        return tuple(map(inner, tensors)) if is_sequence else inner(tensors[0]), pullback
    if spec is MOVE:
        source = arguments[0].device
        out = on_device(arguments[0], constants["device"])
        return out, (lambda d: on_device(d, source),)
    arrays = [raw(a) for a in arguments if hasattr(a, "shape")]
    xp = Differentiable(backend_of(arrays[0]).xp)
    arguments, run = for_half_types(spec.half, arguments, spec.arrays_first_version(spec.fn))
    out, pullback = run(xp, *arguments, **constants)
    own = lambda t: t if isinstance(t, Plain) else Inner(t)
    return tuple(map(own, out)) if isinstance(out, tuple) else own(out), pullback


def on_device(t: Any, device: str) -> Any:
    """A Tensor on another device, of the same class, with a node that can run again."""
    found: Any = moved(t, device)
    if found is t:
        return t
    found.__class__ = Tensor if isinstance(t, Words) else Inner
    if found.node is not None:
        found.node.again = MOVE, [t.node or t], {"device": device}
    return found


def _storing(op_node: Node, i: int, n: int) -> Any:
    """The pullback of the i-th of n outputs: it stores the gradient for the op's own pullback."""

    def store(g: Any) -> None:
        op_node.grad = op_node.grad or [None] * n
        op_node.grad[i] = g

    return store


def _of_several(outs: tuple, pullback: Any) -> Any:
    """The pullback of several outputs, which takes the list of their gradients."""

    def pull(grads: list) -> Any:
        given = tuple(Inner(namespace(raw(o)).zeros_like(raw(o))) if g is None and is_float(o.dtype)
                      else g for g, o in zip(grads, outs, strict=True))
        return pullback(given) if callable(pullback) else [f and f(given) for f in pullback]

    return pull


# ---- functions with a backward of their own ------------------------------------------------------


class Context:
    """What the forward of a `Function` leaves for its backward."""

    needs_input_grad: tuple = ()

    def __init__(self) -> None:
        self._materialize = True
        self._without_gradient: tuple = ()
        self._dirty: tuple = ()
        self._saved: list[tuple] = []
        self.read_in_backward: list = []  # other attributes may change: see `check_unwritten`

    def save_for_backward(self, *tensors: Any) -> None:
        self._saved = [(t, *_value(t)) for t in tensors]

    @property
    def saved_tensors(self) -> tuple:
        """The saved Tensors, with the values that they had when they were saved."""
        return tuple(t if all(a is b for a, b in zip(value, _value(t), strict=True))
                     else recorded(*value) for t, *value in self._saved)

    def mark_non_differentiable(self, *tensors: Any) -> None:
        self._without_gradient = tensors

    def mark_dirty(self, *tensors: Any) -> None:
        self._dirty = tensors

    def set_materialize_grads(self, value: bool) -> None:
        self._materialize = value

    def _finish(self, made: dict[int, Any]) -> None:
        """Let the saved outputs have a history."""
        saved = [made.get(id(t), t) for t, *_ in self._saved]
        self._saved = [old if t is old[0] else (t, *_value(t))
                       for t, old in zip(saved, self._saved, strict=True)]
        self.read_in_backward = [array for _, array, _ in self._saved]


def _value(t: Any) -> tuple:
    """The array and the node of a Tensor."""
    return (t.array, t.node) if isinstance(t, Plain) else (None, None)


class Function:
    """Abstract: an op of a program, ``forward(ctx, *args)`` and ``backward(ctx, *gradients)``.

    ``backward`` returns one gradient, or None, for each argument of `forward`.  Call the op as
    ``Name.apply(*args)``.
    """

    setup_context: Any = None  # setup_context(ctx, inputs, output), if forward takes no ctx

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a Function must define a staticmethod forward(ctx, *args)")

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("a Function must define a staticmethod backward(ctx, *gradients) "
                                  "to be used in a graph")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.setup_context is not None:
            bound = inspect.signature(cls.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            args, kwargs = bound.args, {}
        out, tensors, _ = cls._record((*args, *kwargs.values()), tuple(kwargs))
        if not isinstance(out, tuple | list):
            return tensors[0] if tensors else out
        made = iter(tensors)
        return tuple(next(made) if isinstance(o, Plain) else o for o in out)

    @classmethod
    def label(cls, shape: Any) -> str:
        return cls.__name__

    @classmethod
    def _record(cls, args: Sequence, names: Sequence[str] = ()) -> tuple:
        """The output of forward, the Tensors in it with their history, and the pullback.

        `names` are those of the last arguments.
        """
        ctx = Context()
        op: Any = cls  # in place of a Spec
        needs = [isinstance(a, Plain) and a.requires_grad for a in args]
        edges = [(a.node or a) if need else None for a, need in zip(args, needs, strict=True)]
        ctx.needs_input_grad = tuple(needs)
        n = len(args) - len(names)
        with Switch(recording=False):
            if cls.setup_context is not None:
                out = cls.forward(*args)
                cls.setup_context(ctx, tuple(args), out)
            else:
                out = cls.forward(ctx, *args[:n], **dict(zip(names, args[n:], strict=True)))
        outs = out if isinstance(out, tuple | list) else (out,)
        tensors = tuple(o for o in outs if isinstance(o, Plain))
        if not (is_grad_enabled() and any(needs) and tensors):
            return out, tensors, None
        like = [(isinstance(o, Plain) and raw(o).shape, getattr(o, "dtype", None)) for o in outs]
        xp = namespace(raw(tensors[0]))
        count = len(edges)  # the pullback must not hold the arguments, which it may not read

        def pullback(g: Any) -> tuple:
            given = iter(g if isinstance(g, tuple | list) else (g,))
            grads = []
            for shape, dtype in like:
                d = None if shape is False else next(given)
                if d is None and shape is not False and ctx._materialize:
                    d = xp.zeros(shape, dtype)
                grads.append(as_torch(d) if d is None or isinstance(d, Plain) else wrap(d))
            found = cls.backward(ctx, *grads)
            found = found if isinstance(found, tuple) else (found,)
            if all(d is None for d in found[count:]):
                found = found[:count]
            if len(found) != count:
                raise RuntimeError(f"function {cls.__name__} returned an incorrect number of "
                                   f"gradients (expected {count}, got {len(found)})")
            return tuple(d if d is None or is_grad_enabled() else raw(d) for d in found)

        arrays = tuple(map(raw, tensors))
        made: Any
        if outs is out:
            backend = backend_of(arrays[0])
            made = record_outputs(op, arrays, pullback, edges, backend, True, True, fills=False)
        else:
            made = recorded(arrays[0], Node(cls, edges, pullback, arrays[0].shape, arrays[0].dtype))
        as_class(Tensor, made, cls, edges, [raw(a) for a in args], {"names": tuple(names)})
        made = made if outs is out else (made,)
        made = tuple(_as_marked(ctx, *pair) for pair in zip(tensors, made, strict=True))
        ctx._finish(dict(zip(map(id, tensors), made, strict=True)))
        return out, made, pullback


def _as_marked(ctx: Context, given: Any, made: Any) -> Any:
    """An output as forward has marked it; `given` is what forward returned."""
    if any(given is t for t in ctx._without_gradient):
        made.node, made.requires_grad = None, False
    if not any(given is t for t in ctx._dirty):
        return made
    if given.requires_grad and given.node is None:
        raise RuntimeError("a leaf Variable that requires grad is being used in an in-place "
                           "operation.")
    if any(t.memory is given.memory for t in others_in_memory(given)):
        raise RuntimeError("mark_dirty: another tensor views the memory: write into x.clone()")
    changed_in_place(given)
    given.node, given.requires_grad = made.node, made.requires_grad
    return given

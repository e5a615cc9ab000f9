"""A training step written down: what went in, and what every layer made of it, forward, backward and in the update."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpuprop._core.backend import Backend
from gpuprop._core.dtypes import is_float
from gpuprop._core.graph import raw
from gpuprop._core.instruments import around_modules, inspect_ops
from gpuprop._core.ops import Spec
from gpuprop._core.tensor import Parameter, Tensor, asnumpy
from gpuprop._core.tree import tree_map
from gpuprop.nn._module import Module
from gpuprop.verification._reorder import Order


class Entry(NamedTuple):
    """One tensor of a step, in host memory."""

    phase: str  # "forward", "backward" or "update"
    layer: str
    what: str
    value: np.ndarray
    scale: float | None = None  # of what it is part of, where that is larger than the tensor


class Owner(NamedTuple):
    """Which layer a tensor's gradient is told of, and as what."""

    layer: str
    place: int
    what: str


OUTPUT, PARAMETER, INPUT = range(3)  # the order in which a layer's gradients come


class Step(NamedTuple):
    """One training step: batch and masks, which are exact, and all else in the order in which a fault first shows."""

    batch: list[np.ndarray]
    masks: list[tuple[str, np.ndarray]]  # by the layer that drew it
    entries: list[Entry]
    order: Order | None  # in which it was added up, if not its own
    start: dict[str, np.ndarray]  # parameters and buffers before it


class Recorder:
    """Stands around the layers, ops and parameters of one step."""

    def __init__(self, model: Module, backend: Backend, dtype: str, guide: Step | None = None) -> None:
        self.model, self.backend, self.dtype = model, backend, dtype
        self.guide = {(e.layer, e.what): e.value for e in guide.entries if e.phase == "forward"} if guide else {}
        self.names = {id(module): name or type(model).__name__ for name, module in model.named_modules()}
        self.stack: list[str] = []  # the layers in whose forward we are
        self.calls: dict[str, int] = {}  # when each layer returned
        self.forward: list[Entry] = []
        self.masks: list[tuple[str, np.ndarray]] = []
        self.seen: dict[int, Any] = {}  # tensors by the id of their node or themselves, which is kept alive
        self.owners: dict[int, Owner] = {}
        self.gradients: list[tuple[int, np.ndarray]] = []  # in the order in which they came

    def record(self, step: Callable, batch: Any, again: int = 0, rows: bool = True) -> Step:
        """Do one training step, or do it `again` in another order, of which there is one for each number."""
        leaves: list[np.ndarray] = []
        tree_map(lambda leaf: leaves.append(asnumpy(leaf)) if hasattr(leaf, "shape") else None, batch)
        order = Order(Order.rows(leaves) if rows else 0, again) if again else None
        placed = tree_map(lambda leaf: self._place(leaf, order), batch)
        state = self.model._state()
        before = {name: t.numpy() for name, t in state.items()}
        with contextlib.ExitStack() as stack:
            stack.enter_context(around_modules(self.call))
            stack.enter_context(inspect_ops(self.inspect))
            if order is not None:
                stack.enter_context(inspect_ops(order.inspect))
            for name, p in self.model.named_parameters():
                if p.requires_grad:
                    layer, own = _split(name, self.model)
                    stack.callback(self._watch(p, Owner(layer, PARAMETER, own)))
            result = step(*placed) if isinstance(placed, tuple | list) else step(placed)
        entries = [*self.forward, *self._result(result), *self._backward(), *self._updates(state, before)]
        return Step(leaves, self.masks, entries, order, before)

    def _place(self, leaf: Any, order: Order | None) -> Any:
        """A part of the batch where and as the run wants it, in its kind."""
        if not hasattr(leaf, "shape"):
            return leaf
        host = order.moved(asnumpy(leaf)) if order else asnumpy(leaf)
        host = host.astype(self.dtype) if is_float(host.dtype) else host
        if type(raw(leaf)) is np.ndarray and not isinstance(leaf, Tensor):
            return host
        array = self.backend.asarray(host)
        return Tensor(array) if isinstance(leaf, Tensor) else array

    # ---- forward

    def call(self, module: Module, args: tuple, kwargs: dict, run: Callable) -> Any:
        name = self.names.setdefault(id(module), type(module).__name__)
        name = next(n for n in itertools.chain([name], (f"{name} (call {i})" for i in itertools.count(2)))
                    if n not in self.calls and n not in self.stack)
        for tensor in _tensors((args, kwargs)):
            self._consumed(tensor, name)
        self.stack.append(name)
        try:
            out = run(module, args, kwargs)
        finally:
            self.stack.pop()
        self.calls[name] = len(self.calls)
        made = list(_tensors(out))
        for i, tensor in enumerate(made):
            self._made(tensor, name, f"output {i}" if len(made) > 1 else "output")
        return out

    def _made(self, tensor: Tensor, layer: str, what: str) -> None:
        if id(tensor.node or tensor) not in self.seen:  # else another layer's output is handed on
            self._guided(tensor, self.guide.get((layer, what)))
            self.forward.append(Entry("forward", layer, what, tensor.numpy()))
            self._watch(tensor, Owner(layer, OUTPUT, what))

    def _guided(self, tensor: Tensor, value: np.ndarray | None) -> None:
        """Go on with the output that another run had here."""
        if value is not None and value.shape == tensor.shape and is_float(tensor.dtype):
            array = self.backend.asarray(value, tensor.dtype)
            if getattr(tensor.data, "base", tensor) is None:
                tensor.data[...] = array  # which the layer's own pullback may read too
            else:
                tensor.data = array

    def _consumed(self, tensor: Tensor, layer: str) -> None:
        """The gradient of a tensor is the fault of the first layer that takes it, the innermost if they are nested."""
        key = id(tensor.node or tensor)
        owner = self.owners.get(key)
        if key not in self.seen:
            self._watch(tensor, Owner(layer, INPUT, "input"))
        elif owner and (owner.place == OUTPUT or (owner.place == INPUT and owner.layer in self.stack)):
            self.owners[key] = Owner(layer, INPUT, "input")

    def inspect(self, spec: Spec, backend: Backend, run: Callable) -> Callable:
        names = [p.name for p in spec.arrays]
        if "rng_key" not in names:
            return run

        def noted(xp: Any, *arrays: Any, **constants: Any) -> Any:
            rng_key = arrays[names.index("rng_key")]
            mask = backend.to_numpy(rng_key)
            if len(arrays) == 2:  # what it does to ones shows the mask
                ones = (rng_key if n == "rng_key" else xp.ones_like(a) for n, a in zip(names, arrays, strict=True))
                mask = backend.to_numpy(run(xp, *ones, **constants)[0]) != 0
            self.masks.append((self.stack[-1] if self.stack else "", mask))
            return run(xp, *arrays, **constants)

        return noted

    # ---- backward

    def _watch(self, tensor: Tensor, owner: Owner) -> Callable[[], None]:
        """Write a tensor's gradient down when it comes; what is returned ends that."""
        self.seen[key := id(tensor.node or tensor)] = tensor.node or tensor
        if not tensor.requires_grad:
            return lambda: None
        self.owners[key] = owner
        keep = lambda g: self.gradients.append((key, asnumpy(g)))
        return tensor.register_hook(keep)

    def _backward(self) -> list[Entry]:
        """Gradients from the last layer to the first; in a layer those of its output, its parameters and its input."""
        found, times = list[tuple[tuple, Entry]](), Counter[Owner]()
        for key, value in self.gradients:
            owner = self.owners[key]
            times[owner] += 1
            what = f"gradient of {owner.what}" + f" (backward {times[owner]})" * (times[owner] > 1)
            order = -self.calls.get(owner.layer, -1), owner.place, len(found)
            found.append((order, Entry("backward", owner.layer, what, value)))
        largest: dict[str, float] = defaultdict(float)
        for (_, place, _), e in found:
            if place == PARAMETER:
                largest[e.layer] = max(largest[e.layer], size(e.value))
        # the parameters of a layer share a scale: a bias before a normalisation has nothing but noise of its own
        return [e._replace(scale=largest[e.layer] if order[1] == PARAMETER else None)
                for order, e in sorted(found, key=operator.itemgetter(0))]

    # ---- what comes of it

    def _result(self, result: Any) -> Iterator[Entry]:
        if hasattr(result, "shape") or isinstance(result, float):
            yield Entry("forward", "the step", "result", asnumpy(result))

    def _updates(self, state: dict[str, Tensor], before: dict[str, np.ndarray]) -> Iterator[Entry]:
        for name, tensor in state.items():
            layer, own = _split(name, self.model)
            after = tensor.numpy()
            change = after.astype("float64") - before[name].astype("float64")
            kind = "update of" if isinstance(tensor, Parameter) else "change of buffer"
            yield Entry("update", layer, f"{kind} {own}", change, size(after))


def size(a: np.ndarray) -> float:
    """The largest magnitude among what is finite."""
    a = np.abs(a.astype("float64"))
    return float(a[np.isfinite(a)].max(initial=0))


def _split(name: str, model: Module) -> tuple[str, str]:
    """A parameter's layer and its name there."""
    layer, _, own = name.rpartition(".")
    return layer or type(model).__name__, own


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for v in value.values() if isinstance(value, dict) else value:
            yield from _tensors(v)

"""A training run written down: what went in, and what every layer made of it, forward, backward and in the update."""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpuprop.autograd import Parameter, Tensor, asnumpy, is_float, raw, tree_map
from gpuprop.backend import Backend, backend_of, use
from gpuprop.nn.module import Module, around
from gpuprop.ops import Spec, inspected
from gpuprop.random import manual_seed
from gpuprop.verification.rows import Rows


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
    rows: Rows | None  # the order of the rows, if it is not their own


class Run(NamedTuple):
    """The parameters and buffers as they were made, and the steps."""

    start: dict[str, np.ndarray]
    steps: list[Step]


def record(make_run: Callable, backend: str, seed: int, steps: int, dtype: str, reorder: bool = False) -> Run:
    """The first steps of a run on a backend in a dtype; with `reorder` the rows of each batch come in another order."""
    try:
        with use(backend) as b:
            manual_seed(seed)
            model, step, batches = make_run()
            if any(backend_of(p.data) is not b for p in model.parameters()):
                raise RuntimeError(f"make_run was to make its model on {backend!r}, and made it elsewhere: it must not "
                                   f"choose a backend itself")
            start = model.state_dict()
            if any(p.dtype != dtype for p in model.parameters()):
                model.to(dtype=dtype)
            with contextlib.closing(_first(batches, steps)) as first:
                return Run(start, [Recorder(model, b, dtype).record(step, batch, reorder) for batch in first])
    except Exception as error:
        error.add_note(f"in the run on {backend!r}, in {dtype}")
        raise


def _first(batches: Iterable, steps: int) -> Generator[Any, None, None]:
    """So many batches, and then an end to what makes them."""
    source = iter(batches)
    try:
        yield from itertools.islice(source, steps)
    finally:
        if source is not batches and hasattr(source, "close"):  # the workers of a loader
            source.close()


class Recorder:
    """Stands around the layers, ops and parameters of one step."""

    def __init__(self, model: Module, backend: Backend, dtype: str) -> None:
        self.model, self.backend, self.dtype = model, backend, dtype
        self.names = {id(module): name or type(model).__name__ for name, module in model.named_modules()}
        self.stack: list[str] = []  # the layers in whose forward we are
        self.calls: dict[str, int] = {}  # when each layer returned
        self.forward: list[Entry] = []
        self.masks: list[tuple[str, np.ndarray]] = []
        self.seen: dict[int, Any] = {}  # tensors by the id of their node or themselves, which is kept alive
        self.owners: dict[int, Owner] = {}
        self.gradients: list[tuple[int, np.ndarray]] = []  # in the order in which they came

    def record(self, step: Callable, batch: Any, reorder: bool) -> Step:
        """Do one training step."""
        leaves: list[np.ndarray] = []
        tree_map(lambda leaf: leaves.append(asnumpy(leaf)), batch)
        rows = Rows.of(leaves) if reorder else None
        placed = tree_map(lambda leaf: self._place(leaf, rows), batch)
        state = self.model._state()
        before = {name: t.numpy() for name, t in state.items()}
        with contextlib.ExitStack() as stack:
            stack.enter_context(around(self.call))
            stack.enter_context(inspected(self.inspect))
            if rows is not None:
                stack.enter_context(inspected(rows.inspect))
            for name, p in self.model.named_parameters():
                if p.requires_grad:
                    layer, own = _split(name, self.model)
                    stack.callback(self._watch(p, Owner(layer, PARAMETER, own)))
            result = step(*placed) if isinstance(placed, tuple | list) else step(placed)
        entries = [*self.forward, *self._result(result), *self._backward(), *self._updates(state, before)]
        return Step(leaves, self.masks, entries, rows)

    def _place(self, leaf: Any, rows: Rows | None) -> Any:
        """A part of the batch where and as the run wants it, in its kind."""
        host = asnumpy(leaf)
        host = rows.moved(np, host, rows.order, 0) if rows is not None and host.ndim else host
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
            self.forward.append(Entry("forward", layer, what, tensor.numpy()))
            self._watch(tensor, Owner(layer, OUTPUT, what))

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
        if "ticket" not in names:
            return run

        def noted(xp: Any, *arrays: Any, **constants: Any) -> Any:
            ticket = arrays[names.index("ticket")]
            mask = backend.to_numpy(ticket)
            if len(arrays) == 2:  # what it does to ones shows the mask
                ones = (ticket if n == "ticket" else xp.ones_like(a) for n, a in zip(names, arrays, strict=True))
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

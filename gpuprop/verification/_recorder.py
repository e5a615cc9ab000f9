"""Record a training step: its batch, and every layer's outputs, gradients and updates."""

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
from gpuprop._core.tree import tree_leaves, tree_map
from gpuprop.nn import Module
from gpuprop.nn._module import state_tensors
from gpuprop.verification._summation_order import SummationOrder, batch_size

OUTSIDE = "(training step)"  # in place of a layer's name, for computations outside of all layers


class TensorRecord(NamedTuple):
    """One tensor of a step, copied to host memory."""

    phase: str  # "forward", "backward" or "update"
    layer: str
    tensor: str  # "output", "gradient of weight", "update of bias" ...
    value: np.ndarray
    scale: float | None = None  # sets the floor of the noise; if None, the largest of `value` does


# The kinds of gradients, in the order in which a layer computes them.
OUTPUT = 0
PARAMETER = 1
INPUT = 2


class GradientLabel(NamedTuple):
    """The layer to which a tensor's gradient is attributed, and its name there."""

    layer: str
    kind: int  # OUTPUT, PARAMETER or INPUT
    tensor: str


class StepRecord(NamedTuple):
    """One training step.  Tensors are in the order in which an error first shows."""

    batch: list[np.ndarray]
    masks: list[tuple[str, np.ndarray]]  # (layer, dropout mask)
    tensors: list[TensorRecord]
    order: SummationOrder | None  # None if the step ran unchanged
    state: dict[str, np.ndarray]  # parameters and buffers before the step


class StepRecorder:
    """Records one step of a model.

    With `activations_from`, the record of another run's step, each layer's output is replaced by
    the one recorded there.
    """

    def __init__(self, model: Module, backend: Backend, dtype: str,
                 activations_from: StepRecord | None = None) -> None:
        self.model = model
        self.backend = backend
        self.dtype = dtype
        self.activations: dict[tuple[str, str], np.ndarray] = {}
        if activations_from is not None:
            self.activations = {(t.layer, t.tensor): t.value for t in activations_from.tensors
                                if t.phase == "forward"}
        self.names = {id(module): name or type(model).__name__
                      for name, module in model.named_modules()}
        self.stack: list[str] = []  # the layers whose forward is running
        self.call_order: dict[str, int] = {}  # layer -> its position among the finished calls
        self.forward: list[TensorRecord] = []
        self.masks: list[tuple[str, np.ndarray]] = []
        # Tensors by the id of their node, or of themselves if they have none.  The value keeps
        # that object alive, so that no other object gets its id.
        self.known: dict[int, Any] = {}
        self.labels: dict[int, GradientLabel] = {}
        self.gradients: list[tuple[int, np.ndarray]] = []  # in the order of their arrival

    def record(self, step: Callable, batch: Any, order_seed: int = 0,
               permute_samples: bool = True) -> StepRecord:
        """Run and record one training step.  If `order_seed` is not 0, it adds in another order."""
        host = [asnumpy(leaf) for leaf in tree_leaves(batch) if hasattr(leaf, "shape")]
        order = None
        if order_seed:
            order = SummationOrder(batch_size(host) if permute_samples else 0, order_seed)
        placed = tree_map(lambda leaf: self._place(leaf, order), batch)
        state = state_tensors(self.model)
        before = {name: t.numpy() for name, t in state.items()}
        with contextlib.ExitStack() as stack:
            stack.enter_context(around_modules(self.call))
            stack.enter_context(inspect_ops(self.inspect))
            if order is not None:
                stack.enter_context(inspect_ops(order.inspect))
            for name, p in self.model.named_parameters():
                if p.requires_grad:
                    layer, own_name = _split(name, self.model)
                    label = GradientLabel(layer, PARAMETER, own_name)
                    stack.callback(self._record_gradient(p, label))
            result = step(*placed) if isinstance(placed, tuple | list) else step(placed)
        tensors = [
            *self.forward,
            *self._result(result),
            *self._backward(),
            *self._updates(state, before),
        ]
        return StepRecord(host, self.masks, tensors, order, before)

    def _place(self, leaf: Any, order: SummationOrder | None) -> Any:
        """A leaf of the batch on the run's backend, in its dtype; NumPy arrays stay on the host."""
        if not hasattr(leaf, "shape"):
            return leaf
        host = asnumpy(leaf)
        if order is not None:
            host = order.permute_batch(host)
        if is_float(host.dtype):
            host = host.astype(self.dtype)
        if type(raw(leaf)) is np.ndarray and not isinstance(leaf, Tensor):
            return host
        array = self.backend.asarray(host)
        return Tensor(array) if isinstance(leaf, Tensor) else array

    # ---- forward

    def call(self, module: Module, args: tuple, kwargs: dict, run: Callable) -> Any:
        name = self._call_name(self.names.setdefault(id(module), type(module).__name__))
        for tensor in _tensors((args, kwargs)):
            self._record_input(tensor, name)
        self.stack.append(name)
        try:
            out = run(module, args, kwargs)
        finally:
            self.stack.pop()
        self.call_order[name] = len(self.call_order)
        outputs = list(_tensors(out))
        for i, tensor in enumerate(outputs):
            self._record_output(tensor, name, f"output {i}" if len(outputs) > 1 else "output")
        return out

    def _call_name(self, layer: str) -> str:
        """The layer's name; for a repeated call "layer (call 2)" and so on."""
        name = layer
        for i in itertools.count(2):
            if name not in self.call_order and name not in self.stack:
                break
            name = f"{layer} (call {i})"
        return name

    def _record_output(self, tensor: Tensor, layer: str, name: str) -> None:
        if id(tensor.node or tensor) in self.known:  # an inner layer's output, returned unchanged
            return
        self._replace_output(tensor, self.activations.get((layer, name)))
        self.forward.append(TensorRecord("forward", layer, name, tensor.numpy()))
        self._record_gradient(tensor, GradientLabel(layer, OUTPUT, name))

    def _replace_output(self, tensor: Tensor, value: np.ndarray | None) -> None:
        """Write `value`, the output of another run, to the tensor, if their shapes agree."""
        if value is None or value.shape != tensor.shape or not is_float(tensor.dtype):
            return
        while isinstance(tensor.array, Tensor):  # inside of `grad`
            tensor = tensor.array
        array = self.backend.asarray(value, tensor.dtype)
        if getattr(tensor.array, "base", tensor) is None:
            tensor.array[...] = array  # in place: the layer's own pullback may read it
        else:
            tensor.array = array

    def _record_input(self, tensor: Tensor, layer: str) -> None:
        """Attribute a tensor's gradient to the first layer that takes it, the innermost if nested.

        That layer's pullbacks compute the gradient.
        """
        key = id(tensor.node or tensor)
        label = self.labels.get(key)
        if key not in self.known:
            self._record_gradient(tensor, GradientLabel(layer, INPUT, "input"))
        elif label is not None:
            inner = label.kind == INPUT and label.layer in self.stack
            if label.kind == OUTPUT or inner:
                self.labels[key] = GradientLabel(layer, INPUT, "input")

    def inspect(self, spec: Spec, backend: Backend, run: Callable) -> Callable:
        """An inspector of ops: record the masks of ops with an `rng_key`."""
        names = [p.name for p in spec.arrays]
        if "rng_key" not in names:
            return run

        def recorded(xp: Any, *arrays: Any, **constants: Any) -> Any:
            rng_key = arrays[names.index("rng_key")]
            if rng_key is None:  # no dropout
                return run(xp, *arrays, **constants)
            mask = backend.to_numpy(rng_key)
            if len(arrays) == 2:  # an elementwise op: its result for ones shows the mask
                pairs = zip(names, arrays, strict=True)
                ones = [rng_key if name == "rng_key" else xp.ones_like(a) for name, a in pairs]
                mask = backend.to_numpy(run(xp, *ones, **constants)[0]) != 0
            self.masks.append((self.stack[-1] if self.stack else OUTSIDE, mask))
            return run(xp, *arrays, **constants)

        return recorded

    # ---- backward

    def _record_gradient(self, tensor: Tensor, label: GradientLabel) -> Callable[[], None]:
        """Record a tensor's gradient when it arrives, until the returned function is called."""
        key = id(tensor.node or tensor)
        self.known[key] = tensor.node or tensor
        if not tensor.requires_grad:
            return lambda: None
        self.labels[key] = label
        return tensor.register_hook(lambda g: self.gradients.append((key, asnumpy(g))))

    def _backward(self) -> list[TensorRecord]:
        """Gradients from the last layer to the first: of its output, its parameters, its input."""
        found: list[tuple[tuple, TensorRecord]] = []
        times: Counter[GradientLabel] = Counter()
        for key, value in self.gradients:
            label = self.labels[key]
            times[label] += 1
            name = f"gradient of {label.tensor}"
            if times[label] > 1:
                name += f" (backward {times[label]})"
            position = -self.call_order.get(label.layer, -1), label.kind, len(found)
            found.append((position, TensorRecord("backward", label.layer, name, value)))
        # The parameters of a layer share one scale.  The gradient of a bias before a normalization,
        # for example, is 0 except for rounding: relative to itself, it would never agree.
        scales: dict[str, float] = defaultdict(float)
        for (_, kind, _), t in found:
            if kind == PARAMETER:
                scales[t.layer] = max(scales[t.layer], max_magnitude(t.value))
        found.sort(key=operator.itemgetter(0))
        return [t._replace(scale=scales[t.layer] if kind == PARAMETER else None)
                for (_, kind, _), t in found]

    # ---- results

    def _result(self, result: Any) -> Iterator[TensorRecord]:
        if hasattr(result, "shape") or isinstance(result, float):
            yield TensorRecord("forward", OUTSIDE, "returned value", asnumpy(result))

    def _updates(self, state: dict[str, Tensor],
                 before: dict[str, np.ndarray]) -> Iterator[TensorRecord]:
        for name, tensor in state.items():
            layer, own_name = _split(name, self.model)
            after = tensor.numpy()
            change = after.astype("float64") - before[name].astype("float64")
            kind = "update of" if isinstance(tensor, Parameter) else "change of buffer"
            yield TensorRecord("update", layer, f"{kind} {own_name}", change, max_magnitude(after))


def max_magnitude(a: np.ndarray) -> float:
    """The largest finite absolute value, or 0."""
    a = np.abs(a.astype("float64"))
    return float(a[np.isfinite(a)].max(initial=0))


def _split(name: str, model: Module) -> tuple[str, str]:
    """The layer of a parameter or buffer, and its name in that layer."""
    layer, _, own_name = name.rpartition(".")
    return layer or type(model).__name__, own_name


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))

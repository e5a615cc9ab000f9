"""The floor of a step: the least time that its arithmetic and its memory traffic take.

**FLOPs** are those of the matrix products of the definitions: two for each product of two numbers
that is added up.  Convolutions, LSTMs and attention consist of such products; those that a causal
mask makes needless are left out.  Elementwise arithmetic is not counted.

**Bytes** are what must pass between processor and memory, if all elementwise functions are parts of
the products beside them: each op with a product reads its inputs and writes its output; its
backward reads the gradient of the output and the inputs, and writes the gradients of the inputs
that want one; the optimizer reads parameters, gradients and its states, and writes parameters and
states.  A DataLoader reads and writes each image once.

The floor is the larger of two times: that of the FLOPs at the rate of large matrix products, and
that of one copy in memory that moves as many bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from gpuprop._bench.library import Library
from gpuprop._bench.workload import Loading, Sizes, Workload
from gpuprop._core.instruments import inspect_ops, optimizer_stepped
from gpuprop._core.mode import generic


class Work(NamedTuple):
    """What one step has to do at least."""

    flops: int
    bytes: int


def work(workload: Workload, s: Sizes, weights: Mapping[str, np.ndarray]) -> Work:
    """Count one step of gpuprop, which runs with the definitions of all ops."""
    if isinstance(workload, Loading):
        (images, _), = workload.batches(s)
        return Work(0, images.size * workload.bytes_per_number)
    step = workload.step(Library(), s, weights, {})
    counter = _Counter()
    with ExitStack() as stack:
        stack.enter_context(generic())
        stack.enter_context(inspect_ops(counter.inspect))
        stack.enter_context(optimizer_stepped.listen(counter.add_step))
        step()
    return Work(round(counter.flops), counter.bytes)


class _Counter:
    """Adds up the work of the ops that run."""

    def __init__(self) -> None:
        self.flops = 0.0
        self.bytes = 0

    def inspect(self, spec: Any, backend: Any, run: Callable) -> Callable:
        """An inspector of ops: see `instruments.inspect_ops`."""

        def counted(xp: Any, *arrays: Any, **constants: Any) -> tuple:
            before = self.flops
            share = _share_in(constants["band"], *arrays[:2]) if "band" in constants else 1.0
            out, pullback = run(_CountingNamespace(xp, self, share), *arrays, **constants)
            if self.flops == before:
                return out, pullback
            call = _Call(self, arrays, out)
            if type(pullback) is not tuple:
                return out, pullback and call.shared_pullback(pullback)
            pairs = zip(pullback, call.inputs, strict=True)
            return out, tuple(f and call.pullback(f, size) for f, size in pairs)

        return counted

    def add_step(self, optimizer: Any) -> None:
        """Count the memory that a step of the optimizer reads and writes."""
        for group in optimizer.param_groups:
            states = len(optimizer.state_names(group))
            numbers = sum(p.array.nbytes for p in group["params"])
            self.bytes += numbers * (3 + 2 * states)


class _Call:
    """The memory traffic of one call of an op with matrix products, and of its backward."""

    def __init__(self, counter: _Counter, arrays: tuple, out: Any) -> None:
        self.counter = counter
        self.inputs = [getattr(a, "nbytes", 0) for a in arrays]
        outputs = out if type(out) is tuple else (out,)
        self.to_read = sum(self.inputs) + sum(o.nbytes for o in outputs)  # by the first pullback
        counter.bytes += self.to_read

    def pullback(self, f: Callable, size: int) -> Callable:
        """The pullback of one input of this size."""

        def counted(dy: Any) -> Any:
            self._add(size)
            return f(dy)

        return counted

    def shared_pullback(self, f: Callable) -> Callable:
        """One pullback for all inputs; it returns None for those that want no gradient."""

        def counted(dy: Any) -> Any:
            gradients = f(dy)
            pairs = zip(self.inputs, gradients, strict=True)
            self._add(sum(size for size, g in pairs if g is not None))
            return gradients

        return counted

    def _add(self, written: int) -> None:
        self.counter.bytes += self.to_read + written
        self.to_read = 0


class _CountingNamespace:
    """An `xp` that counts the FLOPs of its matrix products."""

    def __init__(self, xp: Any, counter: _Counter, share: float) -> None:
        self._xp, self._counter, self._share = xp, counter, share

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)

    def matmul(self, a: Any, b: Any, **options: Any) -> Any:
        y = self._xp.matmul(a, b, **options)
        self._counter.flops += 2 * math.prod(y.shape) * a.shape[-1] * self._share
        return y


def _share_in(band: tuple, query: Any, key: Any) -> float:
    """The share of the pairs of a query and a key that are in the band: half if it is causal."""
    n, m = query.shape[-2], key.shape[-2]
    first, last = band
    distance = np.arange(m) - np.arange(n)[:, None]
    inside = np.ones((n, m), bool)
    if first is not None:
        inside &= distance >= first
    if last is not None:
        inside &= distance <= last
    return float(inside.mean())

"""How far two runs are apart, measured by what rounding alone does to such a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpuprop.verification._recorder import Entry, size
from gpuprop.verification._reorder import Order
from gpuprop.verification._training_run import Run

LIMIT = 10.0  # times the noise
FLOOR = 64  # units in the last place of a tensor's scale: noise is at least that

Place = tuple[str, str, str]  # phase, layer, what


class Exact(NamedTuple):
    """Something that must be the same bit for bit, and is or is not."""

    what: str  # "initial weights", "batches", "dropout masks"
    name: str
    step: int
    same: bool


class Row(NamedTuple):
    """One tensor of one step: how far the candidate is from the reference, and how far rounding alone takes it."""

    dtype: str
    step: int
    phase: str
    layer: str
    what: str
    distance: float
    noise: float
    detail: str = ""

    @property
    def ratio(self) -> float:
        return self.distance / self.noise if self.distance else 0.0

    @property
    def same(self) -> bool:
        return self.ratio <= LIMIT

    def __str__(self) -> str:
        apart = f"ratio {self.ratio:.3g} (distance {self.distance:.3g}, noise {self.noise:.3g})"
        return f"layer {self.layer}, {self.phase}, {self.what}: step {self.step}, {self.dtype}, {apart}{self.detail}"


def exact(reference: Run, candidate: Run) -> Iterator[Exact]:
    """Initial weights, batches and masks, in the order in which they come."""
    for name in {**reference.start, **candidate.start}:
        yield Exact("initial weights", name, 0, _equal(reference.start.get(name), candidate.start.get(name)))
    for i, (a, b) in enumerate(zip(reference.steps, candidate.steps, strict=False)):
        same = len(a.batch) == len(b.batch) and all(map(_equal, a.batch, b.batch))
        yield Exact("batches", f"batch {i}", i, same)
        for n, (layer, mask) in enumerate(a.masks):
            other = b.masks[n] if n < len(b.masks) else ("", None)
            yield Exact("dropout masks", layer, i, other[0] == layer and _equal(mask, other[1]))
    if len(reference.steps) != len(candidate.steps):
        yield Exact("batches", "their number", min(len(reference.steps), len(candidate.steps)), False)


def with_gradients_of(reference: Run, point: Run) -> Run:
    """The reference, but gradients and updates from its run at another's activations.

    Where an activation is within rounding of a kink, of ReLU say, two runs may be on two sides of it, and both right.
    """
    steps = [a._replace(entries=[e for e in a.entries if e.phase == "forward"] +
                                [e for e in b.entries if e.phase != "forward"])
             for a, b in zip(reference.steps, point.steps, strict=False)]
    return reference._replace(steps=steps)


def noises(pairs: Iterable[tuple[Run, Run]]) -> list[dict[Place, float]]:
    """How far the reference's runs in other orders get from it, the farthest of them, by step and tensor.

    They come in pairs with what they are to be measured by, made one by one, for they are large.
    """
    found: dict[int, dict[Place, float]] = defaultdict(lambda: defaultdict(float))
    for reference, again in pairs:
        for i, (a, b) in enumerate(zip(reference.steps, again.steps, strict=True)):
            other = _by_place(b.entries)
            for place, entry in _by_place(a.entries).items():
                far = nearest(other[place].value, entry.value, b.order) if place in other else np.inf
                if far < np.inf:  # else it is no rounding
                    found[i][place] = max(found[i][place], far)
    return [found[i] for i in range(1 + max(found, default=-1))]


def compare(reference: Run, candidate: Run, noise: list[dict[Place, float]], dtype: str) -> Iterator[Row]:
    """Every tensor of the candidate against the reference in float64, in the order in which a fault first shows."""
    for i, (a, b) in enumerate(zip(reference.steps, candidate.steps, strict=False)):
        expected, got = _by_place(a.entries), _by_place(b.entries)
        for place, entry in expected.items():
            least = FLOOR * _spacing(size(entry.value) if entry.scale is None else entry.scale, dtype)
            known = noise[i].get(place, 0.0) if i < len(noise) else 0.0
            yield _row(entry, got.get(place), max(known, least), dtype, i)
        for place in got.keys() - expected.keys():
            yield Row(dtype, i, *place, np.inf, 1.0, ": only the candidate has it")


def _by_place(entries: list[Entry]) -> dict[Place, Entry]:
    return {(e.phase, e.layer, e.what): e for e in entries}


def _row(entry: Entry, got: Entry | None, noise: float, dtype: str, step: int) -> Row:
    place = entry.phase, entry.layer, entry.what
    if got is None:
        return Row(dtype, step, *place, np.inf, noise, ": the candidate has none")
    kind = got.value.dtype.name
    leak = entry.phase != "update" and entry.value.dtype == "float64" and kind != dtype
    return Row(dtype, step, *place, distance(got.value, entry.value), noise, f", and it is {kind}" if leak else "")


def nearest(a: np.ndarray, b: np.ndarray, order: Order | None) -> float:
    """The distance, with the rows of `a`, wherever they may be, in the order of `b`'s."""
    return min(distance(c, b) for c in (order.undone(a) if order else [a]))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference; infinite where one is NaN or infinite and the other is not the same."""
    if a.shape != b.shape:
        return np.inf
    a, b = a.astype("float64"), b.astype("float64")
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.where(np.isnan(apart), np.inf, apart).max(initial=0))


def order_matters(reference: Run, again: Run) -> bool:
    """Does the order of the rows change the first forward by more than rounding, or is there none to change?"""
    other, order = _by_place(again.steps[0].entries), again.steps[0].order
    if order is None or not order.n:
        return True
    forward = [(place, e) for place, e in _by_place(reference.steps[0].entries).items() if e.phase == "forward"]
    return any(nearest(other[place].value, e.value, order) > 1e-6 * size(e.value) for place, e in forward)


def _equal(a: Any, b: Any) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _spacing(scale: float, dtype: str) -> float:
    return float(np.spacing(np.asarray(scale, dtype)))

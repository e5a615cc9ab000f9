"""Compare two recorded runs: bit for bit, or relative to the effect of rounding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from gpuprop.verification._recorder import OUTSIDE, StepRecord, TensorRecord, max_magnitude
from gpuprop.verification._summation_order import SummationOrder
from gpuprop.verification._training_run import RunRecord

LIMIT = 10.0  # the largest accepted ratio of difference to noise
FLOOR = 64  # the smallest noise, in units in the last place of the tensor's largest element

Key = tuple[str, str, str]  # phase, layer, tensor


class BitwiseComparison(NamedTuple):
    """Whether data that must be bit-identical on both backends are."""

    kind: str  # "initial weights", "batches" or "dropout masks"
    name: str  # of the parameter, buffer or batch; for a mask, of its layer
    step: int
    same: bool

    def __str__(self) -> str:
        return f"{self.kind}, {self.name}, step {self.step}: not bit-identical"


class TensorComparison(NamedTuple):
    """One tensor of one step: its difference from the reference, and the rounding noise."""

    dtype: str
    step: int
    phase: str
    layer: str
    tensor: str
    difference: float  # the largest absolute difference
    noise: float
    detail: str = ""  # such as "absent in the candidate"

    @property
    def ratio(self) -> float:
        return self.difference / self.noise if self.difference else 0.0

    @property
    def same(self) -> bool:
        return self.ratio <= LIMIT

    def __str__(self) -> str:
        where = self.layer if self.layer == OUTSIDE else f"layer {self.layer}"
        text = (f"{where}, {self.tensor}, step {self.step}, {self.dtype}: ratio {self.ratio:.3g} "
                f"(difference {self.difference:.3g}, noise {self.noise:.3g})")
        return f"{text}, {self.detail}" if self.detail else text


def compare_bitwise(reference: RunRecord, candidate: RunRecord) -> Iterator[BitwiseComparison]:
    """Compare initial weights, batches and dropout masks, in the order of their use."""
    ours, theirs = reference.initial_state, candidate.initial_state
    for name in {**ours, **theirs}:
        same = _identical(ours.get(name), theirs.get(name))
        yield BitwiseComparison("initial weights", name, 0, same)
    for i, (a, b) in enumerate(zip(reference.steps, candidate.steps, strict=False)):
        same = len(a.batch) == len(b.batch) and all(map(_identical, a.batch, b.batch))
        yield BitwiseComparison("batches", f"batch {i}", i, same)
        absent = ("", None)
        for (layer, mask), (other_layer, other) in zip_longest(a.masks, b.masks, fillvalue=absent):
            same = other_layer == layer and _identical(mask, other)
            yield BitwiseComparison("dropout masks", layer or other_layer, i, same)
    shorter = min(len(reference.steps), len(candidate.steps))
    if len(reference.steps) != len(candidate.steps):
        yield BitwiseComparison("batches", "number of batches", shorter, False)


def with_gradients_of(reference: RunRecord, other: RunRecord) -> RunRecord:
    """The reference, with the gradients and updates of `other`."""
    def merged(a: StepRecord, b: StepRecord) -> StepRecord:
        forward = [t for t in a.tensors if t.phase == "forward"]
        rest = [t for t in b.tensors if t.phase != "forward"]
        return a._replace(tensors=forward + rest)

    pairs = zip(reference.steps, other.steps, strict=False)
    return reference._replace(steps=[merged(a, b) for a, b in pairs])


def measure_noise(pairs: Iterable[tuple[RunRecord, RunRecord]]) -> list[dict[Key, float]]:
    """The largest difference between the two runs of any pair, for each step and tensor.

    A pair is the reference and a run of it with sums in another order.  `pairs` is consumed one
    pair at a time, since the records of runs are large: it may be an iterator.
    """
    found: dict[int, dict[Key, float]] = defaultdict(lambda: defaultdict(float))
    for reference, reordered in pairs:
        for i, (a, b) in enumerate(zip(reference.steps, reordered.steps, strict=True)):
            others = _by_key(b.tensors)
            for key, tensor in _by_key(a.tensors).items():
                if key not in others:
                    continue
                difference = aligned_difference(others[key].value, tensor.value, b.order)
                if difference < np.inf:  # an infinite difference is not due to rounding
                    found[i][key] = max(found[i][key], difference)
    return [found[i] for i in range(1 + max(found, default=-1))]


def compare_tensors(reference: RunRecord, candidate: RunRecord, noise: list[dict[Key, float]],
                    dtype: str) -> Iterator[TensorComparison]:
    """Compare every tensor with the float64 reference, in the order in which an error shows."""
    for i, (a, b) in enumerate(zip(reference.steps, candidate.steps, strict=False)):
        expected = _by_key(a.tensors)
        actual = _by_key(b.tensors)
        for key, tensor in expected.items():
            scale = max_magnitude(tensor.value) if tensor.scale is None else tensor.scale
            floor = FLOOR * _spacing(scale, dtype)
            measured = noise[i].get(key, 0.0) if i < len(noise) else 0.0
            yield _compare(tensor, actual.get(key), max(measured, floor), dtype, i)
        for key in [key for key in actual if key not in expected]:
            yield TensorComparison(dtype, i, *key, np.inf, 1.0, "present in the candidate only")


def _by_key(tensors: list[TensorRecord]) -> dict[Key, TensorRecord]:
    return {(t.phase, t.layer, t.tensor): t for t in tensors}


def _compare(expected: TensorRecord, actual: TensorRecord | None, noise: float, dtype: str,
             step: int) -> TensorComparison:
    key = expected.phase, expected.layer, expected.tensor
    if actual is None:
        return TensorComparison(dtype, step, *key, np.inf, noise, "absent in the candidate")
    actual_dtype = actual.value.dtype.name
    has_run_dtype = expected.phase != "update" and expected.value.dtype == "float64"
    wrong_dtype = has_run_dtype and actual_dtype != dtype
    detail = f"has dtype {actual_dtype}" if wrong_dtype else ""
    difference = max_difference(actual.value, expected.value)
    return TensorComparison(dtype, step, *key, difference, noise, detail)


def aligned_difference(a: np.ndarray, b: np.ndarray, order: SummationOrder | None) -> float:
    """The largest difference of `a` from `b`, with the samples of `a` in their original order."""
    originals = order.possible_originals(a) if order else [a]
    return min(max_difference(original, b) for original in originals)


def max_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest absolute difference.

    It is infinite if the shapes differ, or if an element is NaN or infinite in one array only.  Two
    NaN, or two equal infinities, differ by 0.
    """
    if a.shape != b.shape:
        return np.inf
    a = a.astype("float64")
    b = b.astype("float64")
    with np.errstate(invalid="ignore"):
        equal = (a == b) | (np.isnan(a) & np.isnan(b))
        difference = np.where(equal, 0.0, np.abs(a - b))
    return float(np.where(np.isnan(difference), np.inf, difference).max(initial=0))


def depends_on_sample_order(reference: RunRecord, reordered: RunRecord) -> bool:
    """True if permuting the samples changes the first forward pass by more than rounding.

    Also true if they cannot be permuted, because the arrays of a batch differ in length.
    """
    order = reordered.steps[0].order
    if order is None or not order.samples:
        return True
    others = _by_key(reordered.steps[0].tensors)
    for key, tensor in _by_key(reference.steps[0].tensors).items():
        if tensor.phase == "forward":
            difference = aligned_difference(others[key].value, tensor.value, order)
            if difference > 1e-6 * max_magnitude(tensor.value):
                return True
    return False


def _identical(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return False
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def _spacing(scale: float, dtype: str) -> float:
    return float(np.spacing(np.asarray(scale, dtype)))

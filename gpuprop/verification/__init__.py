"""Check that two backends do the same training run.

Random numbers and data must be bit-identical.  Sums cannot be, since each backend adds in its own
order.  Their difference is therefore compared with the rounding noise: how much the reference
itself changes when it adds in other orders.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gpuprop import _environment
from gpuprop._core.registry import making_on
from gpuprop.random import default_generator
from gpuprop.verification._comparison import (
    FLOOR,
    LIMIT,
    BitwiseComparison,
    TensorComparison,
    compare_bitwise,
    compare_tensors,
    depends_on_sample_order,
    measure_noise,
    with_gradients_of,
)
from gpuprop.verification._training_run import RunRecord, record_run

__all__ = [
    "DIFFERENT",
    "FLOOR",
    "LIMIT",
    "NOT_COMPARED",
    "SAME",
    "BitwiseComparison",
    "TensorComparison",
    "Verification",
    "verify",
]

# The values of `Verification.status`, and the exit status of the command.
SAME = 0
DIFFERENT = 1
NOT_COMPARED = 2

VERDICTS = ("same training run", "different training runs", "not compared")
ORDER_SEEDS = (1, 2, 3)  # each gives an order of sums in which the reference runs again


@dataclass
class Verification:
    """The result of `verify`.  It is true if the runs are the same; `print` it for a report."""

    name: str
    reference: str
    candidate: str
    seed: int = 0
    bitwise: list[BitwiseComparison] = field(default_factory=list)
    tensors: list[TensorComparison] = field(default_factory=list)  # by dtype, then as errors show
    notes: list[str] = field(default_factory=list)  # limits of the comparison, or why there is none

    @property
    def status(self) -> int:
        """`SAME`, `DIFFERENT` or `NOT_COMPARED`."""
        if not self.tensors:
            return NOT_COMPARED
        return DIFFERENT if self.first_difference else SAME

    @property
    def verdict(self) -> str:
        return VERDICTS[self.status]

    def __bool__(self) -> bool:
        return self.status == SAME

    @property
    def steps(self) -> int:
        """The number of steps that were compared."""
        return 1 + max((t.step for t in self.tensors), default=-1)

    @property
    def first_difference(self) -> str:
        """A description of the first difference, or ""."""
        different_bits = [b for b in self.bitwise if not b.same]
        bits = min(different_bits, key=lambda b: b.step, default=None)
        tensor = next((t for t in self.tensors if not t.same), None)
        if bits is not None and (tensor is None or bits.step <= tensor.step):
            return str(bits)
        return "" if tensor is None else str(tensor)

    def bitwise_summary(self) -> Iterator[str]:
        """A line for each kind of data that must be bit-identical."""
        for kind in dict.fromkeys(b.kind for b in self.bitwise):
            same = [b.same for b in self.bitwise if b.kind == kind]
            yield f"{kind}: {sum(same)} of {len(same)} bit-identical"

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.candidate} compared with {self.reference}, "
                 f"{self.steps} steps, seed {self.seed}"]
        lines += [f"  {line}" for line in self.bitwise_summary()]
        for dtype in dict.fromkeys(t.dtype for t in self.tensors):
            tensors = [t for t in self.tensors if t.dtype == dtype]
            different = sum(not t.same for t in tensors)
            largest = max(tensors, key=lambda t: t.ratio)
            lines.append(f"  {dtype}: {different} of {len(tensors)} tensors differ by more than "
                         f"{LIMIT:g} times the rounding noise")
            lines.append(f"    largest ratio: {largest}")
        lines += [f"  note: {note}" for note in self.notes]
        lines.append(f"{self.name}: {self.verdict}")
        if self.first_difference:
            lines[-1] += f"; first difference: {self.first_difference}"
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The result and the environment as plain Python values, for JSON."""
        tensors = [
            {**t._asdict(), "difference": _finite(t.difference), "ratio": _finite(t.ratio)}
            for t in self.tensors
        ]
        return {
            "name": self.name,
            "verdict": self.verdict,
            "first_difference": self.first_difference,
            "reference": self.reference,
            "candidate": self.candidate,
            "steps": self.steps,
            "seed": self.seed,
            "limit": LIMIT,
            "notes": self.notes,
            "bitwise": [b._asdict() for b in self.bitwise],
            "tensors": tensors,
            "environment": _environment.info(),
        }


def _finite(value: float) -> float | str:
    """JSON has no infinity."""
    return value if value < float("inf") else "infinite"


def verify(make_run: Callable, reference: str = "numpy", candidate: str = "cupy", *, steps: int = 3,
           seed: int = 0, name: str | None = None) -> Verification:
    """Check that the first `steps` of a training run are the same on two backends.

    ``make_run()`` returns (model, step, batches): a Module; ``step(*batch)``, which trains the
    model on a batch and returns the loss; and an iterable of batches, which are tuples.  It is
    called once for each run, with that backend as the default and with `seed` set.  It must set
    neither itself.

    Initial weights, batches and dropout masks must be bit-identical.  Each layer's outputs,
    gradients and updates are compared with the reference in float64::

        ratio = max|candidate - reference| / noise <= 10

    The noise is the largest difference of the reference from its own runs with permuted samples and
    permuted inner axes of matrix products, but at least 64 units in the last place of the tensor's
    largest element.

    The comparison is made in float64 and in float32.  In float32 each step starts from the state of
    the float64 run, because training amplifies rounding.  Gradients are compared with those of the
    float64 run at the float32 run's own activations: where an activation is within rounding of a
    kink, such as ReLU's, two runs may be on different sides of it, and both gradients are right.

    The result is true if the runs are the same.  If not, it names the first layer that differs.

    ::

        result = gpuprop.verify(make_run)
        print(result)
        assert result
    """
    run_name = str(name or getattr(make_run, "__name__", "the run"))
    result = Verification(run_name, reference, candidate, seed)
    if reference == candidate:
        result.notes.append(f"reference and candidate are the same backend, {reference!r}")
    for backend in (reference, candidate):
        try:
            with making_on(backend):
                pass
        except (ImportError, RuntimeError, ValueError) as e:
            result.notes.append(str(e))
    if not result.notes:
        state = default_generator.get_state()
        try:
            _compare(result, make_run, steps)
        finally:
            default_generator.set_state(state)
    return result


def _compare(result: Verification, make_run: Callable, steps: int) -> None:
    record = functools.partial(record_run, make_run, seed=result.seed, steps=steps)
    reference = record(result.reference, dtype="float64")
    if not reference.steps:
        result.notes.append("make_run returned no batches")
        return
    reordered = record(result.reference, dtype="float64", order_seed=1)
    permute = not depends_on_sample_order(reference, reordered)
    if not permute:
        result.notes.append(
            "samples were not permuted, because the result depends on their order or because the "
            "arrays of a batch differ in length: the noise is measured by matrix products alone")

    def expected(run: RunRecord, order_seed: int = 0) -> RunRecord:
        """The float64 values to compare a run with."""
        if run.dtype == "float64":
            return reference
        at_its_activations = record(result.reference, dtype="float64", start_from=reference,
                                    activations_from=run, order_seed=order_seed,
                                    permute_samples=permute)
        return with_gradients_of(reference, at_its_activations)

    def reordered_pairs(dtype: str) -> Iterator[tuple[RunRecord, RunRecord]]:
        for order_seed in ORDER_SEEDS:
            run = record(result.reference, dtype=dtype, start_from=start_from[dtype],
                         order_seed=order_seed, permute_samples=permute)
            yield expected(run, order_seed), run

    start_from: dict[str, RunRecord | None] = {"float64": None, "float32": reference}
    for dtype in start_from:
        candidate = record(result.candidate, dtype=dtype, start_from=start_from[dtype])
        noise = measure_noise(reordered_pairs(dtype))
        known = list(result.bitwise)  # of float64: the run in float32 adds only new differences
        result.bitwise += [b for b in compare_bitwise(reference, candidate)
                           if not known or not (b.same or b in known)]
        result.tensors += compare_tensors(expected(candidate), candidate, noise, dtype)

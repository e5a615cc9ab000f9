"""Check that two backends do the same training run.

Random numbers and data must be bit-identical.  Sums cannot be, since each backend adds in its own
order.  The difference between the backends is therefore compared with the rounding noise, which is
how much the reference itself changes when it adds in other orders.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gpuprop import _environment
from gpuprop._core.checks import as_callable, as_integer
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

# The values of `Verification.status`, and the exit statuses of ``gpuprop verify``.
SAME = 0
DIFFERENT = 1
NOT_COMPARED = 2

VERDICTS = ("same training run", "different training runs", "not compared")
ORDER_SEEDS = (1, 2, 3)  # for each seed, the reference runs again with sums in another order


@dataclass
class Verification:
    """The result of `verify`.  ``bool(result)`` is True if the runs are the same.

    ``print(result)`` shows a report.
    """

    name: str
    reference: str
    candidate: str
    seed: int = 0
    bitwise: list[BitwiseComparison] = field(default_factory=list)
    # All of float64, then all of float32, each in the order in which an error first shows.
    tensors: list[TensorComparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # limits of the comparison, or why there is none

    @property
    def status(self) -> int:
        """`SAME`, `DIFFERENT` or `NOT_COMPARED`."""
        if not self.tensors:
            return NOT_COMPARED
        return DIFFERENT if self.first_difference else SAME

    @property
    def verdict(self) -> str:
        """`status` in words."""
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
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        lines = [f"{self.name}: {self.candidate} compared with {self.reference}, {steps}, "
                 f"seed {self.seed}"]
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
    """The value, or "infinite", since JSON has no infinity."""
    return value if value < float("inf") else "infinite"


def verify(make_run: Callable, reference: str = "numpy", candidate: str = "cupy", *, steps: int = 3,
           seed: int = 0, name: str | None = None) -> Verification:
    """Check that the first `steps` of a training run are the same on two backends.

    ``make_run()`` returns (model, step, batches): a Module; a function ``step(*batch)``, which
    trains the model on a batch and returns the loss; and an iterable of batches, which are tuples.
    `verify` calls ``make_run()`` several times on each backend, always with that backend as the
    default and after ``manual_seed(seed)``.  ``make_run()`` must not set a backend or a seed.

    Initial weights, batches and dropout masks must be bit-identical.  Each layer's outputs,
    gradients and updates are compared with the reference in float64::

        ratio = max|candidate - reference| / noise <= 10

    The noise is the largest difference of the reference from its own runs with permuted samples and
    permuted inner axes of matrix products, but at least 64 units in the last place of the tensor's
    largest element; for a parameter's gradient, of the largest gradient among its layer's
    parameters; for an update, of the largest element of the updated tensor.

    The comparison is made in float64 and in float32.  In float32 each step starts from the state of
    the float64 run, because training amplifies rounding.  Gradients are compared with those of the
    float64 run at the float32 run's own activations: where an activation is within rounding of a
    kink, such as ReLU's, two runs may be on different sides of it, and both gradients are right.

    The result is true if the runs are the same.  If not, it names the first layer that differs::

        result = gpuprop.verify(make_run)
        print(result)
        assert result
    """
    as_callable("verify: make_run", make_run)
    steps = as_integer("verify: steps", steps, 0)
    seed = as_integer("verify: seed", seed, 0, 2**64 - 1)
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
        result.notes.append("make_run returned no batches" if steps else "steps is 0")
        return
    reordered = record(result.reference, dtype="float64", order_seed=1)
    permute = not depends_on_sample_order(reference, reordered)
    if not permute:
        result.notes.append(
            "samples were not permuted, because the result depends on their order or because the "
            "arrays of a batch differ in length: only the inner axes of matrix products were "
            "permuted to measure the noise")

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

"""Is a training run on one backend the same run as on another?

Random numbers and data must be the same bit for bit.  Sums cannot be, for each backend adds in an order of its own: so
the reference is run again in other orders, and what that changes is the measure.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpuprop import _environment as environment
from gpuprop._core.registry import making_on
from gpuprop.random import default_generator
from gpuprop.verification._measure import (
    FLOOR,
    LIMIT,
    Exact,
    Row,
    compare,
    exact,
    noises,
    order_matters,
    with_gradients_of,
)
from gpuprop.verification._training_run import Run, record

__all__ = ["DIFFERS", "FLOOR", "LIMIT", "NOTHING", "SAME", "Exact", "Row", "Verification", "verify"]

SAME, DIFFERS, NOTHING = range(3)  # also the command's exit status
ORDERS = (1, 2, 3)  # in which the reference is run again
WORDS = ("the same run", "not the same run", "nothing to compare")


@dataclass
class Verification:
    """What `verify` found; it is true if the runs are the same."""

    name: str
    reference: str
    candidate: str
    seed: int = 0
    exact: list[Exact] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)  # in the order in which a fault first shows, for each dtype
    notes: list[str] = field(default_factory=list)  # what limits the answer, or leaves nothing to compare

    @property
    def status(self) -> int:
        if not self.rows:
            return NOTHING
        return DIFFERS if self.first else SAME

    def __bool__(self) -> bool:
        return self.status == SAME

    @property
    def steps(self) -> int:
        return 1 + max((row.step for row in self.rows), default=-1)

    @property
    def first(self) -> str:
        """What differs first, in words, or ""."""
        exact = min((e for e in self.exact if not e.same), key=lambda e: e.step, default=None)
        row = next((row for row in self.rows if not row.same), None)
        if exact is not None and (row is None or exact.step <= row.step):
            return f"{exact.what}, {exact.name}: step {exact.step}, not the same bit for bit"
        return "" if row is None else str(row)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.candidate} against {self.reference}, {self.steps} steps, seed {self.seed}"]
        for what in dict.fromkeys(e.what for e in self.exact):
            found = [e.same for e in self.exact if e.what == what]
            lines.append(f"  {what}: {sum(found)} of {len(found)} the same bit for bit")
        for dtype in dict.fromkeys(row.dtype for row in self.rows):
            worst = max((row for row in self.rows if row.dtype == dtype), key=lambda row: row.ratio)
            beyond = sum(row.dtype == dtype and not row.same for row in self.rows)
            of = sum(row.dtype == dtype for row in self.rows)
            lines.append(f"  {dtype}: {beyond} of {of} tensors beyond {LIMIT:g} times the noise; the worst is {worst}")
        lines += [f"  note: {note}" for note in self.notes]
        verdict = f"{self.name}: {WORDS[self.status]}"
        return "\n".join([*lines, verdict + f"; the first to differ is {self.first}" * bool(self.first)])

    def plain(self) -> dict[str, Any]:
        """All of it as plain Python values, with the environment, for JSON."""
        return {
            "name": self.name, "verdict": WORDS[self.status], "first": self.first, "reference": self.reference,
            "candidate": self.candidate, "steps": self.steps, "seed": self.seed, "limit": LIMIT, "notes": self.notes,
            "exact": [e._asdict() for e in self.exact],
            "rows": [{**row._asdict(), "distance": _number(row.distance), "ratio": _number(row.ratio)}
                     for row in self.rows],
            "environment": environment.info(),
        }


def _number(value: float) -> float | str:
    """JSON knows no infinity."""
    return value if value < float("inf") else "infinite"


def verify(make_run: Callable, reference: str = "numpy", candidate: str = "cupy", *, steps: int = 3, seed: int = 0,
           name: str | None = None) -> Verification:
    """Whether the first steps of a run are the same on two backends, and which layer is the first to differ if not.

    ``make_run()`` returns (model, step, batches): a Module; ``step(*batch)``, which trains the model on a batch and
    returns the loss; and the batches, any iterable of tuples.  It is called once for each run, with that backend in use
    and seed `seed`, and chooses neither itself.

    Initial weights, batches and dropout masks must be the same bit for bit.  For each layer's outputs, gradients and
    updates the distance to the reference in float64 is divided by the noise, which is the largest distance of the
    reference's own runs in other orders, of the rows of each batch and of what matrix products add up, or 64 units in
    the last place of the tensor's largest element if that is more; the ratio must not exceed 10.

    So it is done in float64 and in float32.  In float32 each step starts from the state of the run in float64, for
    training amplifies rounding, and gradients are compared to those at the run's own activations, for an activation
    that rounding takes to the other side of a kink has another gradient, and a right one.
    """
    result = Verification(name or str(getattr(make_run, "__name__", "the run")), reference, candidate, seed)
    if reference == candidate:
        result.notes.append(f"both runs would be on {reference!r}")
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
    run = functools.partial(record, make_run, seed=result.seed, steps=steps)
    reference = run(result.reference, dtype="float64")
    if not reference.steps:
        result.notes.append("there are no batches")
        return
    move = not order_matters(reference, run(result.reference, dtype="float64", again=1))
    if not move:
        result.notes.append("the order of the rows has a meaning, or the arrays of a batch differ in length: the noise "
                            "is that of matrix products in another order alone")

    def judge(found: Run, again: int = 0) -> Run:
        """What a run is to be measured by: in float32 gradients are those in float64 at its own activations."""
        if found.dtype == "float64":
            return reference
        point = run(result.reference, dtype="float64", follow=reference, guide=found, again=again, rows=move)
        return with_gradients_of(reference, point)

    for dtype, follow in (("float64", None), ("float32", reference)):
        candidate = run(result.candidate, dtype=dtype, follow=follow)
        others = ((run(result.reference, dtype=dtype, follow=follow, again=i, rows=move), i) for i in ORDERS)
        noise = noises((judge(other, i), other) for other, i in others)
        known = result.exact if dtype == "float32" else []
        result.exact += [e for e in exact(reference, candidate) if not known or not (e.same or e in known)]
        result.rows += compare(judge(candidate), candidate, noise, dtype)

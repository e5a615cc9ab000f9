"""What of PyTorch's cases is not compared, by name and reason; an entry that is no longer needed fails its test.

A case is refused where `when` says so of the sample.  Each refusal has to have at least one case that exists and that would
fail, so nothing stays here by habit.  What PyTorch has and gpuprop has not is no refusal: the tests count it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Refusal(NamedTuple):
    name: str
    reason: str
    when: Callable[[Any], bool]


def refuse(reason: str, *names: str, when: Callable[[Any], bool] = lambda sample: True) -> list[Refusal]:
    return [Refusal(name, reason, when) for name in names]


RANDOM = "its random numbers are not PyTorch's"

OPS: list[Refusal] = [
]

ERRORS: list[Refusal] = [  # what PyTorch refuses and NumPy defines
]

MODULES: list[Refusal] = [
]

MODULE_ERRORS: list[Refusal] = [
]

OPTIMIZERS: list[Refusal] = [
]

OPTIMIZER_ERRORS: list[Refusal] = [
]

# Functions here that op_db has no entry for, by reason.
NOT_IN_OP_DB: dict[str, str] = {}

# Parameters of PyTorch's that ours leave out, by reason; "function.parameter" for one function only.
LEFT_OUT: dict[str, str] = {
    "size_average": "deprecated: reduction says it",
    "reduce": "deprecated: reduction says it",
    "_stacklevel": "private",
    "out": "arrays in, arrays out",
    "generator": "rng= is ours",
}

# Parameters of ours that PyTorch's have not, by reason.
OURS_ONLY: dict[str, str] = {
    "rng": "the generator: PyTorch's layers draw from the default one only",
}

# Options of array functions that are not NumPy's, by reason.
BESIDE_NUMPY: dict[str, str] = {}

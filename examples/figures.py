"""The figures that an example measures, stored for the tables of the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Figure(NamedTuple):
    """A result of a run, and what it is compared with: published figures, baselines."""

    measure: str  # with its unit, such as "test accuracy, %"
    value: float
    decimals: int
    beside: Mapping[str, float] = {}  # such as {"published by Keras": 98.40}

    def __str__(self) -> str:
        others = [f"{what} {value:.{self.decimals}f}" for what, value in self.beside.items()]
        return f"{self.measure}: {self.value:.{self.decimals}f}" + "".join(
            f"; {other}" for other in others)


def record(path: Path | None, *figures: Figure) -> None:
    """Write the figures as JSON, if a path is given (the option ``--record``)."""
    if path is not None:
        path.write_text(json.dumps([figure._asdict() for figure in figures]) + "\n")

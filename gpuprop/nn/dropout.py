"""Dropout."""

from __future__ import annotations

from typing import Any

import gpuprop.functional as F
from gpuprop.nn.module import Module
from gpuprop.random import Generator


class Dropout(Module):
    """In training, zeros with probability `p` and the rest divided by 1 - p; in use the input itself."""

    def __init__(self, p: float = 0.5, inplace: bool = False, rng: Generator | None = None) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p is a probability, not {p}")
        self.p, self.rng = p, rng

    def forward(self, input: Any) -> Any:
        return F.dropout(input, self.p, self.training, rng=self.rng)

    def extra_repr(self) -> str:
        return f"p={self.p}"

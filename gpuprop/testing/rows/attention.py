"""Attention, its heads and its positions."""

from __future__ import annotations

from gpuprop.testing.rows import Row

ROWS: list[Row] = []

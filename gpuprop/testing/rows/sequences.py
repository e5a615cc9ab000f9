"""Losses of sequences and of large vocabularies."""

from __future__ import annotations

from gpuprop.testing.rows import Row

ROWS: list[Row] = []

"""Recurrent layers: whole sequences and single steps."""

from __future__ import annotations

from gpuprop.testing.rows import Row

ROWS: list[Row] = []

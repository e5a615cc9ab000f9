"""Rows of a table: embeddings and bags of them."""

from __future__ import annotations

from gpuprop.testing.rows import Row

ROWS: list[Row] = []

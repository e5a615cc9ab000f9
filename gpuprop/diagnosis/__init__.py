"""Inspect a model: its layers and shapes, and the origin of a NaN."""

from gpuprop.diagnosis._debug import debug
from gpuprop.diagnosis._summary import Summary, summary

__all__ = ["Summary", "debug", "summary"]

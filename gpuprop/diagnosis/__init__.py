"""Looking into a model: its layers and shapes, and where a NaN comes from."""

from gpuprop.diagnosis._debug import debug
from gpuprop.diagnosis._summary import Summary, summary

__all__ = ["Summary", "debug", "summary"]

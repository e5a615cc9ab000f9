"""Save and load states of models, optimizers and runs as npz or safetensors, without pickle."""

from gpuprop.io._files import replacing
from gpuprop.io._state import load, save

__all__ = ["load", "replacing", "save"]

"""Layers, as `torch.nn`."""

from __future__ import annotations

import gpuprop.nn as _nn
from gpuprop.nn import init, utils
from gpuprop.torch._tensor import Parameter
from gpuprop.torch.nn import functional
from gpuprop.torch.nn._module import Module, class_for

__all__ = ["Module", "Parameter", "functional", "init", "utils"]

for _name in _nn.__all__:
    _value = getattr(_nn, _name)
    if isinstance(_value, type) and issubclass(_value, _nn.Module) and _value is not _nn.Module:
        globals()[_name] = class_for(_value)
        __all__.append(_name)

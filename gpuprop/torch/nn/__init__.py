"""Layers, as `torch.nn`."""

from __future__ import annotations

import itertools as _itertools
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

import gpuprop.nn as _nn
from gpuprop.nn import init, utils
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._paths import also_at
from gpuprop.torch._tensor import Parameter
from gpuprop.torch.nn import _module, functional, parallel
from gpuprop.torch.nn._module import Module, class_for
from gpuprop.torch.nn.parallel import DataParallel

__all__ = ["DataParallel", "Module", "Parameter", "functional", "init", "parallel", "utils"]

for _name in _nn.__all__:
    _value = getattr(_nn, _name)
    if isinstance(_value, type) and issubclass(_value, _nn.Module) and _value is not _nn.Module:
        globals()[_name] = class_for(_value)
        __all__.append(_name)

_list = utils.parametrize.ParametrizationList
setattr(_module, _list.__name__, class_for(_list, _module.__name__))  # where pickles find it

# the class of MultiheadAttention.out_proj in PyTorch: programs that load whole models list it
NonDynamicallyQuantizableLinear = globals()["Linear"]
__all__ += ["NonDynamicallyQuantizableLinear"]


def _ntuple(n: int) -> _Any:
    """A function that repeats a number n times and makes a tuple of anything else."""
    return lambda x: tuple(x) if hasattr(x, "__iter__") else tuple(_itertools.repeat(x, n))


_single, _pair, _triple, _quadruple = map(_ntuple, (1, 2, 3, 4))

also_at(__name__, "modules parameter")
also_at(f"{__name__}.modules", """activation adaptive batchnorm channelshuffle container conv
    distance dropout embedding flatten fold instancenorm linear loss module normalization padding
    pixelshuffle pooling rnn sparse transformer upsampling utils""", __name__)
also_at(__name__, "init", "gpuprop.nn.init")
also_at(__name__, "utils", "gpuprop.nn.utils")
also_at(f"{__name__}.utils", "clip_grad convert_parameters fusion spectral_norm weight_norm",
        "gpuprop.nn.utils")
also_at(f"{__name__}.utils", "rnn", "gpuprop.nn.utils.rnn")
for _name in ("parametrizations", "parametrize"):
    also_at(f"{__name__}.utils", _name, f"gpuprop.nn.utils.{_name}")

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)

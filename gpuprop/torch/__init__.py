"""PyTorch's names and meanings for whole training programs: ``import gpuprop.torch as torch``.

The Tensors are gpuprop's, whose methods here mean what they mean in PyTorch: `max(dim)` returns
values and indices, `transpose` swaps two axes, `std` divides by n - 1, methods with a trailing
underscore write in place.  As in PyTorch, the default device is the CPU: importing this module
makes it so, unless the program or GPUPROP_BACKEND has chosen a backend.
"""

from __future__ import annotations

import importlib as _importlib
import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING

import numpy as _np

from gpuprop._core import registry as _registry
from gpuprop._core.dtypes import as_dtype as _as_dtype
from gpuprop._core.mode import enable_grad, is_grad_enabled, no_grad
from gpuprop.random import Generator, manual_seed
from gpuprop.torch import _functions, _methods, _settings, autograd, cuda, nn, optim, utils
from gpuprop.torch._functions import *
from gpuprop.torch._serialization import load, save
from gpuprop.torch._settings import *
from gpuprop.torch._tensor import (
    Parameter,
    Size,
    Tensor,
    device,
    get_default_device,
    set_default_device,
)
from gpuprop.torch.autograd import inference_mode, set_grad_enabled

if _registry.chosen_backend() is None and not _os.environ.get("GPUPROP_BACKEND"):
    _registry.set_default_backend("cpu")

float32 = float = _np.dtype("float32")
float64 = double = _np.dtype("float64")
float16 = half = _np.dtype("float16")
int8 = _np.dtype("int8")
int16 = short = _np.dtype("int16")
int32 = int = _np.dtype("int32")
int64 = long = _np.dtype("int64")
uint8 = _np.dtype("uint8")
bool = _np.dtype("bool")
dtype = _np.dtype

_types = {str(_t).rpartition(".")[2]: _t for _t in _methods.TYPES.values() if _t.device == "cpu"}
globals().update(_types)
__all__ = [
    "Generator",
    "Parameter",
    "Size",
    "Tensor",
    "accelerator",
    "amp",
    "autocast",
    "autograd",
    "backends",
    "bool",
    "cuda",
    "device",
    "distributions",
    "double",
    "dtype",
    "enable_grad",
    "float",
    "float16",
    "float32",
    "float64",
    "get_default_device",
    "half",
    "inference_mode",
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "is_grad_enabled",
    "load",
    "long",
    "manual_seed",
    "multiprocessing",
    "nn",
    "no_grad",
    "optim",
    "save",
    "set_default_device",
    "set_grad_enabled",
    "short",
    "uint8",
    "utils",
]
__all__ += _functions.__all__
__all__ += [*_settings.__all__, *_types]

__version__ = "2.13.0+gpuprop"  # the release of PyTorch whose names and meanings these are
contiguous_format = "torch.contiguous_format"  # Tensors are contiguous; the names are accepted
preserve_format = "torch.preserve_format"
channels_last = "torch.channels_last"
strided = "torch.strided"

_LAZY = "accelerator", "amp", "backends", "distributions", "multiprocessing"

if _TYPE_CHECKING:  # at run time __getattr__ imports it at its first use
    from gpuprop.torch import accelerator, amp, backends, distributions, multiprocessing
    from gpuprop.torch.amp import autocast

else:

    def __getattr__(name: str) -> object:
        """Import a submodule that few programs use."""
        if name in _LAZY:
            return _importlib.import_module(f"gpuprop.torch.{name}")
        if name in ("autocast", "GradScaler"):
            return getattr(_importlib.import_module("gpuprop.torch.amp"), name)
        if name == "bfloat16":
            return _as_dtype(name)
        raise AttributeError(f"module 'gpuprop.torch' has no attribute {name!r}")

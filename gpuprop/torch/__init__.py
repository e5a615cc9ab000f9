"""PyTorch's names and meanings for whole training programs: ``import gpuprop.torch as torch``.

The Tensors are gpuprop's, whose methods here mean what they mean in PyTorch: `max(dim)` returns
values and indices, `transpose` swaps two axes, `std` divides by n - 1, methods with a trailing
underscore write in place.  As in PyTorch, the default device is the CPU: importing this module
makes it so, unless the program or GPUPROP_BACKEND has chosen a backend.
"""

from __future__ import annotations

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

import numpy as _np

from gpuprop._core import registry as _registry
from gpuprop._core.dtypes import as_dtype as _as_dtype
from gpuprop._core.mode import enable_grad, is_grad_enabled, no_grad
from gpuprop.random import Generator, default_generator, manual_seed
from gpuprop.torch import _einops, _functions, _methods, _settings, autograd, cuda
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._functions import *
from gpuprop.torch._settings import *
from gpuprop.torch._tensor import (
    Parameter,
    Size,
    Tensor,
    device,
    get_default_device,
    set_default_device,
)
from gpuprop.torch._words import (
    channels_last,
    channels_last_3d,
    contiguous_format,
    layout,
    memory_format,
    preserve_format,
    strided,
)
from gpuprop.torch.autograd import inference_mode, set_grad_enabled

_registry.set_automatic("cpu")

float32 = float = _np.dtype("float32")
float64 = double = _np.dtype("float64")
float16 = half = _np.dtype("float16")
int8 = _np.dtype("int8")
int16 = short = _np.dtype("int16")
int32 = int = _np.dtype("int32")
int64 = long = _np.dtype("int64")
uint8 = _np.dtype("uint8")
uint16 = _np.dtype("uint16")
uint32 = _np.dtype("uint32")
uint64 = _np.dtype("uint64")
bool = _np.dtype("bool")
dtype = _np.dtype

e, inf, nan, pi = _np.e, _np.inf, _np.nan, _np.pi
newaxis = None

_einops.register_at_import()

_types = {str(_t).rpartition(".")[2]: _t for _t in _methods.TYPES.values() if _t.device == "cpu"}
globals().update(_types)
__all__ = [
    "Generator", "Parameter", "Size", "Tensor", "accelerator", "amp", "autocast", "autograd",
    "backends", "bool", "channels_last", "channels_last_3d", "contiguous_format", "cuda",
    "default_generator", "device", "distributed", "distributions", "double", "dtype", "e",
    "enable_grad",
    "float", "float16", "float32", "float64", "func", "get_default_device", "half", "inf",
    "inference_mode", "int", "int8", "int16", "int32", "int64", "is_grad_enabled", "layout",
    "linalg", "load", "long", "manual_seed", "memory_format", "mps", "multiprocessing", "nan",
    "newaxis", "nn", "no_grad", "onnx", "optim", "pi", "preserve_format", "random", "save",
    "serialization", "set_default_device", "set_grad_enabled", "short", "special", "strided",
    "uint8", "uint16",
    "uint32", "uint64", "utils", "version", "xpu",
]
__all__ += [*_functions.__all__, *_functions.LAYERS]
__all__ += [*_settings.__all__, *_types]

__version__ = "2.13.0+gpuprop"  # the release of PyTorch whose names and meanings these are

_LAZY = {"accelerator", "amp", "backends", "distributed", "distributions", "func", "linalg", "mps",
         "multiprocessing", "nn", "onnx", "optim", "random", "serialization", "special",
         "utils", "version", "xpu"}
_MODULE_OF = {"autocast": "amp", "GradScaler": "amp", "load": "_serialization",
              "save": "_serialization"}

if _TYPE_CHECKING:  # at run time __getattr__ imports these at their first use
    from gpuprop.torch import (
        accelerator,
        amp,
        backends,
        distributed,
        distributions,
        func,
        linalg,
        mps,
        multiprocessing,
        nn,
        onnx,
        optim,
        random,
        serialization,
        special,
        utils,
        version,
        xpu,
    )
    from gpuprop.torch._serialization import load, save
    from gpuprop.torch.amp import autocast

else:
    _explain = _explained(__name__)

    def __getattr__(name: str) -> object:
        """Import a submodule, or a name of one, at its first use."""
        if name in _LAZY:
            return _importlib.import_module(f"gpuprop.torch.{name}")
        if name in _MODULE_OF:
            module = _importlib.import_module(f"gpuprop.torch.{_MODULE_OF[name]}")
            return globals().setdefault(name, getattr(module, name))
        if name in _functions.LAYERS:
            module = _importlib.import_module("gpuprop.torch._functions._layers")
            return globals().setdefault(name, getattr(module, name))
        if name == "bfloat16":
            return _as_dtype(name)
        if name.endswith("_") and not name.startswith("_"):  # torch.relu_(x) is x.relu_()
            for owner in (Tensor, _importlib.import_module("gpuprop.torch.nn.functional")):
                if hasattr(owner, name):
                    return getattr(owner, name)
        _explain(name)

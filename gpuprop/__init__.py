"""Neural networks on NumPy and CuPy: the same training run on the CPU and on an NVIDIA GPU.

The package also has NumPy's functions (`gpuprop.exp`, `gpuprop.sum`, ...), for Tensors and for
arrays of every backend.
"""

import sys as _sys
from typing import TYPE_CHECKING as _TYPE_CHECKING

if "numpy" not in _sys.modules:
    from gpuprop._core import blas_kernels as _blas_kernels

    _blas_kernels.choose_kernels()

from numpy import float16, float32, float64, int8, int16, int32, int64, uint8

from gpuprop import _array
from gpuprop._array import *
from gpuprop._core.backend import Backend, BackendMismatchError
from gpuprop._core.gradient import grad, value_and_grad
from gpuprop._core.instruments import no_sync
from gpuprop._core.locks import new_rlock as _new_rlock
from gpuprop._core.mode import autocast, enable_grad, generic, is_grad_enabled, no_grad
from gpuprop._core.namespace import get_array_module
from gpuprop._core.ops import kernel, op
from gpuprop._core.pointwise import pointwise
from gpuprop._core.registry import backends, set_default_backend, use
from gpuprop._core.signature import Array
from gpuprop._core.tensor import Parameter, Tensor, asnumpy, from_dlpack, tensor

if _TYPE_CHECKING:  # at run time __getattr__ imports these at their first use
    from gpuprop import (
        amp,
        backend,
        data,
        decoding,
        diagnosis,
        distributions,
        func,
        functional,
        io,
        models,
        nn,
        optim,
        random,
        testing,
        training,
        verification,
    )
    from gpuprop._capture import capture
    from gpuprop._environment import show_config
    from gpuprop._threads import get_num_threads, set_num_threads
    from gpuprop.diagnosis import debug, summary
    from gpuprop.io import load, save
    from gpuprop.random import manual_seed
    from gpuprop.verification import verify

__version__ = "0.1.0"

__all__ = [
    "Array", "Backend", "BackendMismatchError", "Parameter", "Tensor", "amp", "asnumpy", "autocast",
    "backend", "backends", "capture", "data", "debug", "decoding", "diagnosis", "distributions",
    "enable_grad", "float16", "float32", "float64", "from_dlpack", "func", "functional",
    "generic", "get_array_module", "get_num_threads", "grad", "int8", "int16", "int32", "int64",
    "io", "is_grad_enabled", "kernel", "load",
    "manual_seed", "models", "nn", "no_grad", "no_sync", "op", "optim", "pointwise", "random",
    "save", "set_default_backend", "set_num_threads", "show_config", "summary", "tensor",
    "testing", "training",
    "uint8", "use", "value_and_grad", "verification", "verify",
]
__all__ += _array.__all__

_MODULES = {
    "amp", "backend", "data", "decoding", "diagnosis", "distributions", "func", "functional",
    "io", "models", "nn", "optim", "random", "testing", "training", "verification",
}
_MODULE_OF = {
    "capture": "_capture", "debug": "diagnosis", "load": "io", "manual_seed": "random",
    "get_num_threads": "_threads", "save": "io", "set_num_threads": "_threads",
    "show_config": "_environment", "summary": "diagnosis",
    "verify": "verification",
}
_NAME_HERE = {  # PyTorch's name -> the name in gpuprop, for the error message
    "acos": "arccos", "amax": "max", "amin": "min", "as_tensor": "tensor", "asin": "arcsin",
    "atan": "arctan", "atan2": "arctan2", "bernoulli": "random.bernoulli",
    "bitwise_not": "invert", "bool": "astype", "cat": "concatenate", "clamp": "clip",
    "cuda": "backends", "device": "use", "div": "divide", "double": "float64", "eq": "equal",
    "float": "float32", "from_numpy": "tensor", "ge": "greater_equal", "gt": "greater",
    "half": "float16", "hstack": "concatenate", "inference_mode": "no_grad", "le": "less_equal",
    "long": "int64", "lt": "less", "mm": "matmul", "mul": "multiply", "mv": "matmul",
    "ne": "not_equal", "neg": "negative", "normal": "random.normal", "permute": "transpose",
    "pow": "power", "rand": "random.uniform", "rand_like": "random.uniform",
    "randint": "random.integers", "randn": "random.normal", "randn_like": "random.normal",
    "randperm": "random.permutation", "repeat_interleave": "repeat",
    "set_grad_enabled": "no_grad", "sub": "subtract", "swapdims": "swapaxes", "t": "transpose",
    "tensor_split": "split", "unbind": "unstack", "unsqueeze": "expand_dims",
    "vstack": "concatenate",
}


_LOADING = _new_rlock()

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name

    def __getattr__(name: str) -> object:
        """Import a submodule, or a name from one, at its first use."""
        import importlib

        # Two threads that import each other's packages would see halves of them.  A module of
        # gpuprop must not import lazy names from here: its thread holds the lock of that module.
        if name in _MODULES:
            with _LOADING:
                return importlib.import_module(f"gpuprop.{name}")
        if name in _MODULE_OF:
            with _LOADING:
                module = importlib.import_module(f"gpuprop.{_MODULE_OF[name]}")
            value = globals()[name] = getattr(module, name)
            return value
        hint = f": use gpuprop.{_NAME_HERE[name]}" if name in _NAME_HERE else ""
        raise AttributeError(f"module 'gpuprop' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

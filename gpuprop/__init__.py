"""Neural networks on NumPy and CuPy: one code, the same training run on the CPU and on an NVIDIA GPU.

Beside the names below, NumPy's functions work on Tensors and arrays of every backend: gpuprop.exp, gpuprop.sum ...
"""

from typing import Any as _Any

from numpy import float16, float32, float64, int8, int16, int32, int64, uint8

from gpuprop.autograd import Parameter, Tensor, asnumpy, from_dlpack, get_array_module, grad, tensor, value_and_grad
from gpuprop.backend import BackendMismatchError, backends, debug, no_sync, set_default_backend, use
from gpuprop.mode import autocast, enable_grad, generic, is_grad_enabled, no_grad
from gpuprop.ops import Array, kernel, op
from gpuprop.pointwise import pointwise

from gpuprop import functional, nn, optim, random  # isort: skip (the engine above comes first)
from gpuprop.capture import capture
from gpuprop.functional.creation import (
    arange,
    empty,
    eye,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from gpuprop.random import manual_seed

__version__ = "0.1.0"

globals().update(functional.ARRAY_FUNCTIONS)

__all__ = [
    "Array", "BackendMismatchError", "Parameter", "Tensor", "arange", "asnumpy", "autocast", "backends", "capture",
    "data", "debug", "decoding", "empty", "enable_grad", "eye", "float16", "float32", "float64", "from_dlpack", "full",
    "full_like", "functional", "generic", "get_array_module", "grad", "int16", "int32", "int64", "int8", "io",
    "is_grad_enabled", "kernel", "linspace", "load", "manual_seed", "nn", "no_grad", "no_sync", "ones",
    "ones_like", "op", "optim", "pointwise", "random", "save", "set_default_backend",
    "show_config", "tensor", "testing", "training", "uint8", "use", "value_and_grad", "verify", "zeros", "zeros_like",
    *functional.ARRAY_FUNCTIONS,
]

_LATER = {"data": "data", "decoding": "decoding", "io": "io", "load": "io:load", "save": "io:save",
          "testing": "testing", "training": "training", "show_config": "environment:show_config",
          "verify": "verification:verify"}

_NUMPYS = {
    "as_tensor": "tensor", "cat": "concatenate", "clamp": "clip", "cuda": "backends", "device": "use", "div": "divide",
    "double": "float64", "eq": "equal", "float": "float32", "from_numpy": "tensor", "ge": "greater_equal",
    "gt": "greater", "half": "float16", "inference_mode": "no_grad", "le": "less_equal", "long": "int64", "lt": "less",
    "mm": "matmul", "mul": "multiply", "ne": "not_equal", "permute": "transpose", "pow": "power",
    "rand": "random.uniform", "randint": "random.integers", "randn": "random.normal", "randn_like": "random.normal",
    "randperm": "random.permutation", "relu": "functional.relu", "repeat_interleave": "repeat",
    "softmax": "functional.softmax", "sub": "subtract", "t": "transpose", "unsqueeze": "expand_dims"}


def __getattr__(name: str) -> _Any:
    """What is imported when it is first named: modules, and names in modules."""
    if name not in _LATER:
        here = f": it is gpuprop.{_NUMPYS[name]} here" if name in _NUMPYS else ""
        raise AttributeError(f"module 'gpuprop' has no attribute {name!r}{here}")
    import importlib

    module, _, attribute = _LATER[name].partition(":")
    found = importlib.import_module(f"gpuprop.{module}")
    return getattr(found, attribute) if attribute else found

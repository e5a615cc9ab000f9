"""Neural networks on NumPy and CuPy: one code, the same training run on the CPU and on an NVIDIA GPU.

Beside the names below, NumPy's functions work on Tensors and arrays of every backend: gpuprop.exp, gpuprop.sum ...
"""

from gpuprop.autograd import Parameter, Tensor, asnumpy, get_array_module, grad, tensor, value_and_grad
from gpuprop.backend import BackendMismatchError, backends, debug, set_default_backend, use
from gpuprop.mode import autocast, enable_grad, generic, is_grad_enabled, no_grad
from gpuprop.ops import Array, kernel, op
from gpuprop.pointwise import pointwise
from gpuprop import functional, nn, optim, random  # isort: skip (the engine above comes first)
from gpuprop.capture import capture
from gpuprop.functional.creation import arange, empty, eye, full, full_like, linspace, ones, ones_like, zeros, zeros_like
from gpuprop.random import manual_seed

__version__ = "0.1.0"

globals().update(functional.ARRAY_FUNCTIONS)

__all__ = [
    "Array", "BackendMismatchError", "Parameter", "Tensor", "arange", "asnumpy", "autocast", "backends", "capture", "data",
    "debug", "empty", "enable_grad", "eye", "full", "full_like", "functional", "generic", "get_array_module", "grad",
    "is_grad_enabled", "kernel", "linspace", "manual_seed", "nn", "no_grad", "ones", "ones_like", "op", "optim", "pointwise",
    "random", "set_default_backend", "tensor", "testing", "training", "use", "value_and_grad", "zeros", "zeros_like",
    *functional.ARRAY_FUNCTIONS,
]


def __getattr__(name: str) -> object:
    """`gpuprop.data`, `.testing` and `.training` are imported when they are first named."""
    if name in ("data", "testing", "training"):
        import importlib

        return importlib.import_module(f"gpuprop.{name}")
    raise AttributeError(f"module 'gpuprop' has no attribute {name!r}")

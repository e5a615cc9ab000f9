"""Switches of PyTorch's libraries, as `torch.backends`: programs may set them, nothing reads them.

Here deterministic algorithms are the default, and matrix products of float32 are computed in
float32.
"""

from __future__ import annotations

import contextlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

from gpuprop.torch import cuda as _cuda
from gpuprop.torch._absent import explained as _explained

__all__ = ["cuda", "cudnn", "mkl", "mkldnn", "mps", "openmp"]


def _switches(name: str, is_available: Any, **values: Any) -> ModuleType:
    module = ModuleType(f"{__name__}.{name}", f"Switches, as `torch.backends.{name}`.")
    vars(module).update(values, is_available=is_available)
    sys.modules[module.__name__] = module
    return module


_never = lambda: False
cudnn = _switches("cudnn", _cuda.is_available, enabled=True, benchmark=False, deterministic=True,
                  allow_tf32=False, benchmark_limit=10, version=lambda: None,
                  flags=lambda **_: contextlib.nullcontext())
cuda = _switches("cuda", _cuda.is_available, is_built=lambda: True,
                 matmul=ModuleType("matmul"))
for _name in ("flash", "mem_efficient", "math", "cudnn"):
    setattr(cuda, f"enable_{_name}_sdp", lambda enabled: None)
    setattr(cuda, f"{_name}_sdp_enabled", _never)
mkldnn = _switches("mkldnn", _never, enabled=False)
mkl = _switches("mkl", _never)
openmp = _switches("openmp", _never)
mps = _switches("mps", _never, is_built=_never)

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)

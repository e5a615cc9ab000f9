"""Gradients, as `torch.autograd`."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

from gpuprop._core.mode import Switch, current, enable_grad, no_grad
from gpuprop.torch import _autograd_functional as functional
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._graph import Function, backward, grad
from gpuprop.torch._paths import also_at
from gpuprop.torch._tensor import Words

__all__ = [
    "Function", "Variable", "backward", "detect_anomaly", "enable_grad", "functional", "grad",
    "inference_mode", "no_grad", "set_detect_anomaly", "set_grad_enabled",
]


class _IsTensor(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, Words)


class Variable(metaclass=_IsTensor):
    """``Variable(t)`` is a leaf in the memory of `t`, as in programs from before PyTorch 0.4."""

    def __new__(cls, data: Any, requires_grad: bool = False, volatile: bool = False) -> Any:
        if volatile:
            warnings.warn("volatile was removed and now has no effect. Use `with torch.no_grad():` "
                          "instead.", stacklevel=2)
        leaf = data.detach()
        leaf.requires_grad = requires_grad
        return leaf


class set_grad_enabled(Switch):
    """Record ops, or do not, from here on; as a block or decorator, only inside of it."""

    def __init__(self, mode: bool) -> None:
        super().__init__(recording=bool(mode))
        self._before = current.get()
        current.set(self._changed(self._before))

    def __enter__(self) -> None:
        current.set(current.get()._replace(recording=self._before.recording))
        super().__enter__()

    def __call__(self, fn: Any) -> Any:
        current.set(current.get()._replace(recording=self._before.recording))
        return super().__call__(fn)


def set_detect_anomaly(mode: bool, check_nan: bool = True) -> Any:
    """Does nothing: `gpuprop.debug()` finds the first NaN.  It is a block, too."""
    return contextlib.nullcontext()


def detect_anomaly(check_nan: bool = True) -> Any:
    """A block that does nothing: see `set_detect_anomaly`."""
    return contextlib.nullcontext()


def inference_mode(mode: Any = True) -> Any:
    """Record no op inside the block, or the decorated function: here the same as `no_grad`."""
    return no_grad(mode) if callable(mode) else Switch(recording=not mode)


also_at(__name__, "function grad_mode variable")
also_at(__name__, "functional", functional.__name__)

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)

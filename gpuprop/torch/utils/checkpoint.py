"""Activation recomputation, as `torch.utils.checkpoint`; see `gpuprop.nn.utils.checkpoint`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

from gpuprop.nn import utils as _utils
from gpuprop.torch._absent import explained as _explained

__all__ = ["checkpoint", "checkpoint_sequential"]


def checkpoint(function: Callable, *args: Any, use_reentrant: bool | None = None,
               context_fn: Any = None, determinism_check: str = "default", debug: bool = False,
               preserve_rng_state: bool = True, early_stop: bool = True, **kwargs: Any) -> Any:
    """``function(*args, **kwargs)``, which backward runs again.

    It always works as ``use_reentrant=False``, and repeats the random numbers.  The other options
    have no effect.
    """
    return _utils.checkpoint(function, *args, **kwargs)


def checkpoint_sequential(functions: Any, segments: int, input: Any,
                          use_reentrant: bool | None = None,
                          preserve_rng_state: bool = True) -> Any:
    """Call functions one after the other, in parts whose activations are computed again."""
    return _utils.checkpoint_sequential(functions, segments, input)

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)

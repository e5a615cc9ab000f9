"""Seeds and states of the default generator, as `torch.random`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any

from gpuprop.random import default_generator, manual_seed
from gpuprop.torch._absent import explained as _explained
from gpuprop.torch._functions._random import get_rng_state, initial_seed, seed, set_rng_state

__all__ = ["default_generator", "fork_rng", "get_rng_state", "initial_seed", "manual_seed", "seed",
           "set_rng_state"]


@contextlib.contextmanager
def fork_rng(devices: Any = None, enabled: bool = True, device_type: str = "cuda",
             **_: Any) -> Iterator[None]:
    """The default generator is after the block as it was before."""
    state = default_generator.get_state()
    try:
        yield
    finally:
        if enabled:
            default_generator.set_state(state)

if not _TYPE_CHECKING:  # with a __getattr__, type checkers accept every name
    __getattr__ = _explained(__name__)

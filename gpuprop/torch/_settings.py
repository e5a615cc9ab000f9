"""Settings of the process: seeds, default types, and switches that have no effect here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gpuprop.random as random
from gpuprop.torch._functions._creation import set_default_dtype
from gpuprop.torch._methods import TYPES
from gpuprop.torch._tensor import set_default_device

__all__ = ["are_deterministic_algorithms_enabled", "compile", "get_float32_matmul_precision",
           "get_num_threads", "get_rng_state", "initial_seed", "seed",
           "set_default_tensor_type", "set_float32_matmul_precision", "set_num_interop_threads",
           "set_num_threads", "set_rng_state", "use_deterministic_algorithms"]


def compile(model: Any = None, **_: Any) -> Any:
    """The model or function itself: `gpuprop.capture` is what makes a step replayable."""
    return model if model is not None else lambda decorated: decorated


def seed() -> int:
    """Seed the default generator with a random number, which is returned."""
    import secrets

    number = secrets.randbits(63)
    random.manual_seed(number)
    return number


def initial_seed() -> int:
    return random.default_generator.get_state()["seed"]


def get_rng_state() -> Any:
    """The state of the default generator, for `set_rng_state`."""
    return random.default_generator.get_state()


def set_rng_state(new_state: Any) -> None:
    random.default_generator.set_state(new_state)


def set_default_tensor_type(t: Any) -> None:
    """The dtype and device of new Tensors, as a type such as ``torch.cuda.FloatTensor``."""
    found = TYPES[str(t)]
    set_default_dtype(found.dtype)
    set_default_device(found.device)


def set_float32_matmul_precision(precision: str) -> None:
    """Does nothing: the library that computes the products decides."""


def get_float32_matmul_precision() -> str:
    return "highest"


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Does nothing: all algorithms are deterministic."""


def are_deterministic_algorithms_enabled() -> bool:
    return True


def set_num_threads(n: int) -> None:
    """Does nothing: OMP_NUM_THREADS and OPENBLAS_NUM_THREADS, set before the start, decide."""


def get_num_threads() -> int:
    import os

    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


set_num_interop_threads: Callable = set_num_threads

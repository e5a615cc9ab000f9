"""Settings of the process: seeds, default types, and switches that have no effect here."""

from __future__ import annotations

from typing import Any

from gpuprop._core.dtypes import as_dtype
from gpuprop._core.mode import current, is_autocasting
from gpuprop.torch._functions._creation import set_default_dtype
from gpuprop.torch._methods import TYPES
from gpuprop.torch._printing import options as _printing
from gpuprop.torch._tensor import set_default_device

__all__ = [
    "are_deterministic_algorithms_enabled", "compile", "get_autocast_dtype",
    "get_deterministic_debug_mode", "get_float32_matmul_precision", "get_num_interop_threads",
    "get_num_threads", "is_anomaly_enabled", "is_autocast_enabled", "is_inference_mode_enabled",
    "is_warn_always_enabled", "set_anomaly_enabled", "set_default_tensor_type",
    "set_deterministic_debug_mode", "set_float32_matmul_precision", "set_flush_denormal",
    "set_num_interop_threads", "set_num_threads", "set_printoptions", "set_warn_always",
    "use_deterministic_algorithms",
]


def compile(model: Any = None, **_: Any) -> Any:
    """The model or function itself: `gpuprop.capture` is what makes a step replayable."""
    return model if model is not None else lambda decorated: decorated


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
    """Let one operation on the CPU use `n` threads."""
    from gpuprop import _threads  # the NumPy backend, which `import gpuprop.torch` does not need

    _threads.set_num_threads(n)


def get_num_threads() -> int:
    from gpuprop import _threads

    return _threads.get_num_threads()


def set_num_interop_threads(n: int) -> None:
    """Does nothing: operations run one after the other."""


def get_num_interop_threads() -> int:
    return 1


def set_flush_denormal(mode: bool) -> bool:
    """False: denormal numbers are never flushed to 0."""
    return False


def set_warn_always(b: bool) -> None:
    """Does nothing."""


def set_anomaly_enabled(mode: bool, check_nan: bool = True) -> None:
    """Does nothing: `gpuprop.debug()` finds the first NaN."""


def set_deterministic_debug_mode(debug_mode: Any) -> None:
    """Does nothing: all algorithms are deterministic."""


def get_deterministic_debug_mode() -> int:
    return 0


def is_warn_always_enabled() -> bool:
    return False


is_anomaly_enabled = is_warn_always_enabled


# ---- modes ---------------------------------------------------------------------------------------


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    return is_autocasting()


def get_autocast_dtype(device_type: str) -> Any:
    """The low precision, or what it would be on such a device."""
    return current.get().low or as_dtype("float16" if device_type == "cuda" else "bfloat16")


def is_inference_mode_enabled() -> bool:
    return not current.get().recording


def set_printoptions(precision: int | None = None, threshold: float | None = None,
                     edgeitems: int | None = None, linewidth: int | None = None,
                     profile: str | None = None, sci_mode: bool | None = None) -> None:
    """How Tensors are printed; `profile` is "default", "short" or "full"."""
    profiles = {"default": (4, 1000, 3), "short": (2, 1000, 2), "full": (4, float("inf"), 3)}
    if profile is not None:
        of_profile = zip(("precision", "threshold", "edgeitems"), profiles[profile], strict=True)
        _printing.update(of_profile, linewidth=80)
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems,
             "linewidth": linewidth}
    _printing.update({name: value for name, value in given.items() if value is not None})
    _printing["sci_mode"] = sci_mode

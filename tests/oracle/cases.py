"""Run many of PyTorch's samples in one test, except those that are excluded in refusals.py."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest
import torch
from refusals import Exclusion
from torch.testing._internal.common_utils import set_rng_seed
from torch.utils._pytree import tree_map_only

import gpuprop

SHOWN = 4  # failures that a message describes
Record = Callable[[str, object], None]  # pytest's record_property


class Call(NamedTuple):
    """The arguments of one call."""

    args: tuple
    kwargs: dict[str, Any]


def compare_samples(name: str, samples: Iterable, compare: Callable[..., None],
                    exclusions: list[Exclusion]) -> int:
    """Compare all samples that are not excluded and return their number.

    Fails if a sample differs, and if no sample of an exclusion without a tolerance differs.
    """
    set_rng_seed(0)
    gpuprop.manual_seed(0)
    needed = {exclusion: False for exclusion in exclusions if exclusion.name == name}
    compared = 0
    failures = []
    for sample in samples:
        exclusion = next((e for e in needed if e.when(sample)), None)
        tolerance = {}
        if exclusion:
            needed[exclusion] |= _error(compare, sample) is not None
            if exclusion.tolerance is None:
                continue
            tolerance["tolerance"] = exclusion.tolerance
        compared += 1
        error = _error(compare, sample, **tolerance)
        if error:
            failures.append(f"{describe(sample)}\n    {error}")
    if failures:
        shown = "\n".join(failures[:SHOWN])
        pytest.fail(f"{name}: {len(failures)} of {compared} samples failed\n{shown}",
                    pytrace=False)
    # how far rounding grows depends on the processor's kernels of BLAS
    unneeded = [exclusion.reason for exclusion, failed in needed.items()
                if not failed and exclusion.tolerance is None]
    if unneeded:
        pytest.fail(f"{name}: exclusions that are not needed: {'; '.join(unneeded)}",
                    pytrace=False)
    return compared


def _error(compare: Callable[..., None], *args: Any, **kwargs: Any) -> str | None:
    try:
        compare(*args, **kwargs)
    except Exception as e:
        frame = traceback.extract_tb(e.__traceback__)[-1]
        file = frame.filename.rpartition("/")[2]
        return f"{type(e).__name__}: {e}  [{file}:{frame.lineno}]"
    return None


def describe(sample: Any) -> str:
    """A sample in one line; tensors are shown as dtype and shape."""

    def describe_tensor(t: torch.Tensor) -> _Unquoted:
        dtype = str(t.dtype).removeprefix("torch.")
        layout = "" if t.is_contiguous() else " strided"
        return _Unquoted(f"{dtype}{list(t.shape)}{layout}")

    return str(tree_map_only(torch.Tensor, describe_tensor, sample))


def must_raise(call: Callable[[], Any]) -> None:
    """Check that `call` raises, for arguments for which PyTorch raises."""
    try:
        call()
    except (TypeError, ValueError, RuntimeError, IndexError):
        return
    raise AssertionError("PyTorch raises, gpuprop does not")


class _Unquoted(str):
    """A str without quotes in its repr."""

    __repr__ = str.__str__

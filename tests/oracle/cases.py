"""Many of PyTorch's samples as one test, with the refusals taken into account."""

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

SHOWN = 4  # failures of one function that are written out
Record = Callable[[str, object], None]  # pytest's record_property


class Call(NamedTuple):
    """The arguments of one call."""

    args: tuple
    kwargs: dict[str, Any]


def every(name: str, samples: Iterable, compare: Callable[..., None], refusals: list[Exclusion]) -> int:
    """Compare all samples but the refused and return their number; every refusal needs one of these that would fail."""
    set_rng_seed(0)
    gpuprop.manual_seed(0)
    needed = {r: False for r in refusals if r.name == name}
    compared, failures = 0, []
    for sample in samples:
        refusal, tolerance = next((r for r in needed if r.when(sample)), None), {}
        if refusal:
            needed[refusal] |= _error(compare, sample) is not None
            if refusal.tolerance is None:
                continue
            tolerance["tolerance"] = refusal.tolerance
        compared += 1
        error = _error(compare, sample, **tolerance)
        failures += [f"{describe(sample)}\n    {error}"] if error else []
    if failures:
        pytest.fail(f"{name}: {len(failures)} of {compared} samples\n" + "\n".join(failures[:SHOWN]), pytrace=False)
    stale = [r.reason for r, failed in needed.items() if not failed]
    if stale:
        pytest.fail(f"{name}: refused without need: {'; '.join(stale)}", pytrace=False)
    return compared


def _error(compare: Callable[..., None], *args: Any, **kwargs: Any) -> str | None:
    try:
        compare(*args, **kwargs)
    except Exception as e:
        where = traceback.extract_tb(e.__traceback__)[-1]
        return f"{type(e).__name__}: {e}  [{where.filename.rpartition('/')[2]}:{where.lineno}]"
    return None


def describe(sample: Any) -> str:
    """A sample in one line, tensors by dtype and shape."""
    brief = lambda t: f"{t.dtype}{list(t.shape)}{'' if t.is_contiguous() else ' strided'}".removeprefix("torch.")
    return str(tree_map_only(torch.Tensor, lambda t: _Word(brief(t)), sample))


def must_refuse(call: Callable[[], Any]) -> None:
    """Ours raises where PyTorch does."""
    try:
        call()
    except (TypeError, ValueError, RuntimeError, IndexError):
        return
    raise AssertionError("PyTorch raises, ours does not")


class _Word(str):
    __repr__ = str.__str__

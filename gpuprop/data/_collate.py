"""Samples made into a batch: arrays stacked, inside tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace


def default_collate(samples: Sequence) -> Any:
    """Samples of one structure as one such structure of arrays, one axis longer; texts become lists.

    Numbers become arrays; tuples, lists, named tuples and dicts are gone into.  Raises TypeError for other things and
    ValueError where samples differ in shape, length or keys.
    """
    first = samples[0]
    if isinstance(first, str | bytes):
        return list(samples)
    if isinstance(first, bool | int | float | complex | np.generic):
        numbers = np.asarray(samples)
        if numbers.dtype.kind != "O":  # None among them, or a number beyond 64 bits
            return numbers
    if isinstance(first, Mapping):
        _check_equal("keys", [sorted(map(str, s)) for s in samples])
        return _like(first, {key: default_collate([s[key] for s in samples]) for key in first})
    if isinstance(first, tuple | list):
        _check_equal("lengths", [len(s) for s in samples])
        return _like(first, [default_collate(field) for field in zip(*samples, strict=True)])
    if hasattr(raw(first), "shape"):
        arrays = [raw(s) for s in samples]
        _check_equal("shapes", [getattr(a, "shape", None) for a in arrays])
        return namespace(arrays[0]).stack(arrays)
    kinds = ", ".join(sorted({type(s).__name__ for s in samples}))
    raise TypeError(f"samples hold {kinds}, and a batch is made of arrays, numbers, texts, tuples, "
                    f"lists and dicts: convert it in the dataset, or pass collate_fn=")


def tree_map(f: Callable, batch: Any) -> Any:
    """The same structure of tuples, lists and dicts, with `f` of what is in it."""
    if isinstance(batch, tuple | list):
        return _like(batch, [tree_map(f, value) for value in batch])
    if not hasattr(batch, "shape") and isinstance(batch, Mapping):
        return _like(batch, {key: tree_map(f, value) for key, value in batch.items()})
    return f(batch)


def _like(container: Any, values: Any) -> Any:
    """`values` in such a container: a dict, a list, a tuple, or one of their kind."""
    make: Any = type(container)
    return make(*values) if hasattr(make, "_fields") else make(values)


def _check_equal(what: str, values: list) -> None:
    odd = next((i for i, v in enumerate(values) if v != values[0]), None)
    if odd is not None:
        raise ValueError(f"samples of one batch differ in their {what}: the first has {values[0]}, number {odd} of the "
                         f"batch has {values[odd]}; make them equal in the dataset, or pass collate_fn=")

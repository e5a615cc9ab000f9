"""Collate samples into a batch: arrays are stacked, also inside tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpuprop._core.graph import raw
from gpuprop._core.namespace import namespace
from gpuprop._core.tree import rebuilt


def default_collate(samples: Sequence) -> Any:
    """Combine samples of the same structure into one batch with a new first axis.

    Arrays are stacked, numbers become one array, and strings become a list.  Tuples, named tuples,
    lists and dicts are collated entry by entry.  Raises TypeError for other types, and ValueError
    if samples differ in shape, length or keys.

    >>> from gpuprop.data import default_collate
    >>> default_collate([(1, "a"), (2, "b")])
    (array([1, 2]), ['a', 'b'])
    """
    if not len(samples):
        raise ValueError("cannot collate a batch without samples")
    first = samples[0]
    types = {type(sample): sample for sample in samples}
    if len({_kind(sample) for sample in types.values()}) > 1:
        raise _error(samples, "samples of one batch must be of one kind")
    if isinstance(first, str | bytes):
        return list(samples)
    if isinstance(first, bool | int | float | complex | np.generic):
        numbers = np.asarray(samples)
        # objects: a sample is None, for example, or an integer of more than 64 bits
        if numbers.dtype.kind != "O":
            return numbers
    if isinstance(first, Mapping):
        _check_equal("keys", [sorted(map(str, s)) for s in samples])
        return rebuilt(first, {key: default_collate([s[key] for s in samples]) for key in first})
    if isinstance(first, tuple | list):
        _check_equal("lengths", [len(s) for s in samples])
        return rebuilt(first, [default_collate(field) for field in zip(*samples, strict=True)])
    if hasattr(raw(first), "shape"):
        arrays = [raw(s) for s in samples]
        _check_equal("shapes", [getattr(a, "shape", None) for a in arrays])
        return namespace(arrays[0]).stack(arrays)
    raise _error(samples, "samples must be arrays, numbers, strings, or tuples, lists and dicts of "
                          "these")


def _kind(sample: Any) -> type:
    """The type that stands for all types which are collated together."""
    for types in ((str, bytes), (bool, int, float, complex, np.generic), (Mapping,), (tuple, list)):
        if isinstance(sample, types):
            return types[0]
    return object


def _error(samples: Sequence, reason: str) -> TypeError:
    types = ", ".join(sorted({type(s).__name__ for s in samples}))
    return TypeError(f"cannot collate {types}: {reason}; convert them in the dataset, or pass "
                     f"collate_fn=")


def _check_equal(property_name: str, values: list) -> None:
    for i, value in enumerate(values):
        if value != values[0]:
            raise ValueError(f"cannot collate samples of different {property_name}: sample 0 of "
                             f"the batch has {values[0]}, sample {i} has {value}; make them equal "
                             f"in the dataset, or pass collate_fn=")

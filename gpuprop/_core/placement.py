"""Where arrays are: moving them, and computing on the device that holds them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import numpy as np

from gpuprop._core.backend import AS_IT_IS, BY_TYPE, SEVERAL
from gpuprop._core.graph import raw
from gpuprop._core.registry import backend_of, parse

F = TypeVar("F", bound=Callable)


def place(array: Any, where: str | None = None, dtype: Any = None) -> Any:
    """An array on another backend or device (named as for `use`), in another dtype, or both."""
    source = backend_of(array)
    target, device = (source, source.device_of(array)) if where is None else parse(where)
    value = array if target is source or type(array) is np.ndarray else source.to_numpy(array)
    with target.on_device(device):
        return target.asarray(value, dtype)


def place_of(array: Any) -> str:
    """The name of where an array is, as `use` and `place` take it: "numpy", "cupy:1"."""
    backend = backend_of(array)
    return f"{backend.name}:{backend.device_of(array)}" if backend in SEVERAL else backend.name


def write(array: Any, value: Any, key: Any = ...) -> None:
    """``array[key] = value`` on the array's device; other values are copied there first."""
    backend = backend_of(array)
    with backend.at(array):
        if isinstance(value, np.ndarray | list | tuple):
            value = backend.asarray(value, array.dtype)
        array[key] = backend.asarray(value) if type(value) is backend.array_type else value


def on_device_of(values: Iterable) -> Any:
    """A context manager: this thread computes on the device of the first array in `values`.

    What is no array is passed over, and so are arrays of backends with one device.
    """
    if SEVERAL:
        for array in map(raw, values):
            backend = BY_TYPE.get(type(array))
            if backend in SEVERAL:
                return backend.at(array)
    return AS_IT_IS


def on_device_of_arguments(fn: F) -> F:
    """`fn`, which runs on the device of the first array among its arguments."""

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not SEVERAL:
            return fn(*args, **kwargs)
        with on_device_of((*args, *kwargs.values())):
            return fn(*args, **kwargs)

    return cast(F, call)

"""Devices of arrays: moving arrays, and computing on the device that holds them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import numpy as np

from gpuprop._core.backend import BY_TYPE, MULTI_DEVICE, NO_SWITCH
from gpuprop._core.checks import as_element, check_elements
from gpuprop._core.dtypes import as_supported
from gpuprop._core.graph import extent, raw, written
from gpuprop._core.registry import backend_of, of_recording, parse_backend

F = TypeVar("F", bound=Callable)


def place(array: Any, where: str | None = None, dtype: Any = None) -> Any:
    """Move an array to a backend or device (named as for `use`), cast it to a dtype, or both."""
    source = backend_of(array)
    target = source
    device: int | None = source.device_of(array)
    if where is not None:
        target, device = parse_backend(where)
    is_readable = target is source or type(array) is np.ndarray
    value = array if is_readable else source.to_numpy(array)
    with target.on_device(device):
        return target.asarray(value, dtype)


def place_of(array: Any) -> str:
    """The backend and device of an array, as `use` and `place` take them: "numpy", "cupy:1"."""
    backend = backend_of(array)
    return f"{backend.name}:{backend.device_of(array)}" if backend in MULTI_DEVICE else backend.name


def write(array: Any, value: Any, key: Any = ...) -> None:
    """``array[key] = value`` on the array's device, to which host values are copied first."""
    array = of_recording(array)
    backend = backend_of(array)
    with backend.at(array):
        if isinstance(value, int | float):
            as_element("the number to write", value, array.dtype)
        if isinstance(value, list | tuple):
            value = as_supported("the values to write", np.asarray(value))
            check_elements("a number to write", value, array.dtype)
        if isinstance(value, np.ndarray):
            value = as_supported("the values to write", value)
            value = backend.asarray(value, array.dtype)
        elif not isinstance(value, int | float) and not hasattr(value, "shape"):
            raise TypeError(f"the value to write must be a number or an array, got {value!r}")
        array[key] = backend.asarray(value) if type(value) is backend.array_type else value
    written(extent(array))


def on_device_of(values: Iterable) -> Any:
    """A context manager: this thread computes on the device of the first array in `values`.

    Values that are no arrays, and arrays of backends with one device, are skipped.
    """
    if MULTI_DEVICE:
        for array in map(raw, values):
            backend = BY_TYPE.get(type(array))
            if backend in MULTI_DEVICE:
                return backend.at(array)
    return NO_SWITCH


def on_device_of_arguments(fn: F) -> F:
    """A decorator: `fn` runs on the device of the first array among its arguments."""

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not MULTI_DEVICE:
            return fn(*args, **kwargs)
        with on_device_of((*args, *kwargs.values())):
            return fn(*args, **kwargs)

    return cast(F, call)

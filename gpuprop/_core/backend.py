"""The base class of backends: an array library, and where it differs from NumPy."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpuprop._core.instruments import check_at_once, waits
from gpuprop._core.locks import new_lock


class BackendMismatchError(TypeError):
    """One call was given arrays of different backends, or of different devices."""


class CaptureError(RuntimeError):
    """A step cannot be captured.  The message names the cause, such as a call that waits."""


class Unavailable(str):
    """The reason why a backend cannot be used on this machine.

    Its truth value is False.  `error` is the exception class to raise with the reason.
    """

    error: type[Exception]

    def __new__(cls, reason: str, error: type[Exception] = RuntimeError) -> Unavailable:
        self = super().__new__(cls, reason)
        self.error = error
        return self

    def __bool__(self) -> bool:
        return False


class Recording(ABC):
    """The array calls of a step, recorded by `Backend.record`."""

    @abstractmethod
    def replay(self) -> None:
        """Repeat the calls, on the same memory."""

    @abstractmethod
    def difference(self, other: Any) -> str | None:
        """What another recording of the step did, but a replay would not do, or None."""

    @abstractmethod
    def outside(self) -> list[Any]:
        """Arrays that cover all memory that the calls use but did not allocate."""

    @abstractmethod
    def uses(self, array: Any) -> bool:
        """Whether the calls use the memory of this array."""

    @abstractmethod
    def held(self, ours: Iterable[Any]) -> str | None:
        """The code that made an array of the recording which is still referenced, or None.

        Arrays among `ours` do not count.
        """

    error: str | None = None  # what the step has done that cannot be replayed
    # If the recording has arrays of its own: its backend, whether its block has ended, and
    # ``call_outside(function, args, writes)``, which makes the calls of `instruments.as_one_call`.
    backend: Any = None
    has_ended: bool = False
    call_outside: Callable | None = None

    def release(self) -> None:
        """Give objects that refer to arrays of the recording arrays of the backend instead."""

    def turn(self) -> contextlib.AbstractContextManager[None]:
        """A context manager in which only one thread at a time replays."""
        return contextlib.nullcontext()

    def inner(self, array: Any) -> Any:
        """The array that the step must use in place of `array` while it is recorded."""
        return array

    def outer(self, array: Any) -> Any:
        """The array of the backend to which each replay writes what was recorded as `array`."""
        return array


class Backend(ABC):
    """An array library, and the few things in which it differs from NumPy.

    A subclass defines `name`, `xp`, `array_type`, `asarray` and `_to_numpy`.  Every other member
    has a default.  An entry point in the group ``gpuprop.backends`` registers the class;
    `gpuprop.testing.conformance` tests it.
    """

    name: str
    xp: Any  # the array namespace, with NumPy's names; missing `extras.NAMES` are added to it
    array_type: type  # the one array class of this backend
    kernels: dict[str, Callable] = {}  # name of an op ("gpuprop.functional:gelu") -> faster body

    install: str = ""  # the command that installs the library
    aliases: tuple[str, ...] = ()  # further names that `use` accepts
    priority: int = -1  # "auto" chooses the usable backend with the highest one; negative: never
    array_modules: tuple[str, ...] = ()  # top-level packages whose arrays belong to this backend
    dlpack_devices: tuple[int, ...] = ()  # the DLPack device types whose memory it can share

    @classmethod
    def is_available(cls) -> bool | Unavailable:
        """True, or an `Unavailable` with the reason why the backend cannot be used."""
        return True

    # ---- arrays

    @abstractmethod
    def asarray(self, value: Any, dtype: Any = None) -> Any:
        """Convert `value` to an array of this backend.

        The backend's own arrays are returned as they are, unless `dtype` differs.  Host data is
        copied to the device.
        """

    def to_numpy(self, array: Any) -> np.ndarray:
        """Copy an array to host memory.

        Waits for the device, then raises IndexError if a `check` failed since the last call.
        """
        waits("to_numpy() (called by .numpy(), .item(), float() and bool())")
        with self.at(array):
            host = self._to_numpy(array)
            self.raise_failed_checks()
        return host

    @abstractmethod
    def _to_numpy(self, array: Any) -> np.ndarray:
        """Copy an array to host memory."""

    def own(self, out: Any) -> Any:
        """The result of an op as an array.  NumPy returns scalars in place of 0-d arrays."""
        return out if type(out) is self.array_type else self.xp.asarray(out)

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""
        waits("synchronize()")
        self._synchronize()

    def _synchronize(self) -> None:
        """Wait until the device has finished; by default every call returns finished results."""

    def prefetch(self, batches: Iterable[list[np.ndarray]]) -> Iterator[list]:
        """Yield the host batches as arrays of this backend, in order.

        A backend may copy the next batch to the device while the current one is in use.
        """
        return ([self.asarray(a) for a in arrays] for arrays in batches)

    # ---- recording

    records: bool = False  # True if `record` works; if False, a captured step runs as usual
    recorder: Any = None  # the backend of a recording's arrays, if it is another one: its `host` is
    # this backend, and ``one_call(run)`` is the body of a kernel that is recorded as one call
    guests: tuple[type, ...] = ()  # types of other backends' arrays that `asarray` adopts in an op

    def record(self, tensors: Iterable[Any] = ()) -> contextlib.AbstractContextManager[Recording]:
        """A context manager that records the array calls inside its block.

        It yields a `Recording`.  At the end of the block all memory from before it has its former
        contents.  `tensors` are those of which the block uses the arrays or gradients; a backend
        may replace these arrays inside the block.
        """
        raise RuntimeError(f"backend {self.name!r} cannot record steps")

    def pays_to_record(self, arrays: Iterable[Any]) -> bool:
        """Whether to capture a step that uses these arrays, or to run it as usual."""
        return True

    def conditions(self) -> Any:
        """A key of the circumstances, other than arguments, on which a recording depends."""
        return None

    # ---- elementwise bodies

    def _pointwise(self, body: Callable) -> Callable | None:
        """A faster version of an elementwise body; None means that the body itself runs.

        The version must compute half types in float32 and round its results once.
        """
        return None

    # ---- devices

    def device_count(self) -> int:
        return 1

    def device(self) -> int:
        """The index of this thread's current device, on which it makes arrays."""
        return 0

    def device_of(self, array: Any) -> int:
        """The index of the device that holds `array`, an array of this backend."""
        return 0

    def use_device(self, index: int) -> None:
        """Make a device the current one of this thread."""
        if index != 0:
            raise ValueError(f"backend {self.name!r} has one device, with index 0: got {index}")

    def at(self, array: Any) -> contextlib.AbstractContextManager[None]:
        """A context manager that makes the device of `array` the current one of this thread."""
        return self.on_device(self.device_of(array)) if self in MULTI_DEVICE else NO_SWITCH

    def on_device(self, device: int | None) -> contextlib.AbstractContextManager[None]:
        """A context manager that makes a device the current one of this thread.

        With None the current device stays.
        """
        return NO_SWITCH if device is None or device == self.device() else self._switched(device)

    @contextlib.contextmanager
    def _switched(self, index: int) -> Iterator[None]:
        before = self.device()
        self.use_device(index)
        try:
            yield
        finally:
            self.use_device(before)

    # ---- memory

    def workspace(self) -> int:
        """The number of bytes that an op may use at once in addition to its arguments and results.

        It must be the same in every run on one machine, because the order of sums may depend on it.
        """
        return 4 << 20

    def extent(self, array: Any) -> tuple[int, int]:
        """The addresses of an array's first byte and of the byte after its last one.

        It shows whether two arrays share memory.  By default it is read from the array's interface
        (``__array_interface__`` or ``__cuda_array_interface__``); an array without one shares its
        memory only with itself.
        """
        interface = getattr(array, "__array_interface__", None)
        if interface is None:
            interface = getattr(array, "__cuda_array_interface__", None)
        if interface is None:
            return id(array), id(array) + 1
        return span(interface["data"][0], array)

    def memory(self) -> dict[str, int]:
        """Bytes by kind (``used``, ``reserved`` ...), as far as the library reports them."""
        return {}

    # ---- checks of data

    def check(self, condition: Any, message: str, values: Any = None) -> None:
        """Raise IndexError(message) unless every element of `condition` is true.

        The host does not wait for the device: a flag on the device stores the result, and the next
        `to_numpy` reads it and raises.  Inside `gpuprop.debug()` it is read at once.  `values` is
        the array that `condition` checks; a backend that can read it at once names the wrong value.
        """
        flag = self._current_flags().of(message)
        flag &= condition.all()
        if check_at_once.get():
            self.raise_failed_checks()

    def raise_failed_checks(self) -> None:
        """Raise for one `check` that failed on the current device, and reset its flag."""
        flags = None if self._flags is None else self._flags.get(self.device())
        failed = [] if flags is None else flags.failed(self._read_flags)
        if failed:
            message, flag = failed[0]
            flag[...] = True
            raise IndexError(message)

    _flags: dict[int, Flags] | None = None  # by device

    def _current_flags(self) -> Flags:
        device = self.device()
        if self._flags is None or device not in self._flags:
            with _flags_lock:
                self._flags = self._flags or {}
                if device not in self._flags:
                    self._flags[device] = Flags(self.xp)
        return self._flags[device]

    def _read_flags(self, flags: Any) -> np.ndarray:
        """Copy an array of bools to host memory."""
        return self._to_numpy(flags)


_flags_lock = new_lock()


class Flags:
    """The results of `check` on one device: one bool per message, True until the check fails.

    All are elements of one array, so that one copy to the host reads them.  When it is full,
    another array is added.
    """

    SIZE = 64  # bools per array; a full one is not replaced, because captured steps write to it

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.arrays: list[Any] = []
        self.flags: dict[str, Any] = {}  # message -> its flag, a 0-d view of an array
        self._lock = new_lock()

    def of(self, message: str) -> Any:
        """The flag of a message: a 0-d array."""
        if message not in self.flags:
            with self._lock:
                n = len(self.flags)
                if n == len(self.arrays) * self.SIZE:
                    self.arrays.append(self.xp.ones(self.SIZE, "bool"))
                i = n % self.SIZE
                self.flags.setdefault(message, self.arrays[-1][i:i + 1].reshape(()))
        return self.flags[message]

    def failed(self, read: Callable) -> list[tuple[str, Any]]:
        """(message, flag) of each check that failed; waits for the device once per array."""
        values = [value for array in list(self.arrays) for value in read(array)]
        pairs = zip(list(self.flags.items()), values, strict=False)
        return [item for item, value in pairs if not value]


def span(pointer: int, array: Any) -> tuple[int, int]:
    """The addresses from which to which the elements of a strided array are."""
    if not array.size:
        return pointer, pointer
    steps = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    return (pointer + sum(step for step in steps if step < 0),
            pointer + sum(step for step in steps if step > 0) + array.itemsize)


def owner_of(array: np.ndarray) -> np.ndarray:
    """The array that owns the memory; the chain of bases may contain other objects."""
    found = array
    base = array.base
    while base is not None:
        if isinstance(base, np.ndarray):
            found = base
        base = getattr(base, "base", None)
    return found


# The registry fills these two.  They are in this module because every op looks up its arrays.
BY_TYPE: dict[type, Backend] = {}  # array type -> its backend
choices: list[dict[type, Any]] = []  # caches of what depends on the backend of an array type


def forget_choices() -> None:
    """Clear these caches, after a change of a backend or of its `kernels`."""
    for cache in choices:
        cache.clear()
MULTI_DEVICE: list[Backend] = []  # the backends with more than one device
NO_SWITCH = contextlib.nullcontext()  # in place of a context manager that switches the device

"""The base class of backends: an array library, and what it does not spell as NumPy does."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from gpuprop._core.instruments import check_at_once, waits


class BackendMismatchError(TypeError):
    """Arrays of two backends, or of two devices, met in one call."""


class CaptureError(RuntimeError):
    """A step cannot be captured.  The message names the call that forbids it."""


class Unavailable(str):
    """The reason why a backend cannot be used here.

    It is false; `error` is the exception class to raise with it.
    """

    error: type[Exception]

    def __new__(cls, reason: str, error: type[Exception] = RuntimeError) -> Unavailable:
        self = super().__new__(cls, reason)
        self.error = error
        return self

    def __bool__(self) -> bool:
        return False


class Backend(ABC):
    """An array library and the few things it does not spell as NumPy does.

    A subclass defines `name`, `xp`, `array_type`, `asarray` and `_to_numpy`.  All else has a
    default.  An entry point in the group ``gpuprop.backends`` makes it known;
    `gpuprop.testing.conformance` tests it.
    """

    name: str
    xp: Any  # the array namespace: NumPy's names; what it lacks of `extras.NAMES` is added
    array_type: type  # the one array class of this backend
    kernels: dict[str, Callable] = {}  # name of an op ("gpuprop.functional:gelu") -> faster body

    install: str = ""  # the command that installs the library
    aliases: tuple[str, ...] = ()  # further names that `use` accepts
    priority: int = 0  # "auto" chooses the highest of the usable ones, and never a negative one
    array_modules: tuple[str, ...] = ()  # top-level packages whose arrays belong to this backend
    dlpack_devices: tuple[int, ...] = ()  # DLPack's device types whose memory it can share

    @classmethod
    def is_available(cls) -> bool | Unavailable:
        """True, or the reason why the backend cannot be used."""
        return True

    # ---- arrays

    @abstractmethod
    def asarray(self, value: Any, dtype: Any = None) -> Any:
        """`value` as an array of this backend.

        Its own arrays stay as they are; host data is copied to the device.
        """

    def to_numpy(self, array: Any) -> np.ndarray:
        """A copy in host memory.

        It waits for the device, then raises what `check` found wrong in the meantime.
        """
        waits("to_numpy(), as .numpy(), .item(), float() and bool() call it,")
        with self.at(array):
            host = self._to_numpy(array)
            self.raise_failed_checks()
        return host

    @abstractmethod
    def _to_numpy(self, array: Any) -> np.ndarray:
        """A copy in host memory."""

    def own(self, out: Any) -> Any:
        """The result of an op as an array: NumPy returns scalars in place of 0-d arrays."""
        return out if type(out) is self.array_type else self.xp.asarray(out)

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""
        waits("synchronize()")
        self._synchronize()

    def _synchronize(self) -> None:
        """Nothing: results are there when a call returns."""

    def prefetch(self, batches: Iterable[list[np.ndarray]]) -> Iterator[list]:
        """Host batches as arrays of this backend, in order.

        A device may receive each while the last one is used.
        """
        return ([self.asarray(a) for a in arrays] for arrays in batches)

    # ---- recording

    records: bool = False  # can a step be recorded and replayed?  Otherwise it is called again

    def record(self) -> Any:
        """A context manager that records the array calls inside its block.

        The recording has `replay()`; `difference(other)`, a description of what another recording
        of the step did differently, or None; `outside()`, the memory, as arrays, that the calls use
        and did not make; `uses(array)`; `held(arrays)`, the code that made an array of its own that
        somebody holds other than these, or None; and `turn()`, a context manager in which one
        thread at a time replays it.
        """
        raise RuntimeError(f"backend {self.name!r} records nothing")

    def _pointwise(self, body: Callable) -> Callable | None:
        """A faster way to run an elementwise body, or None: the body runs as it is.

        Half types must be computed in float32, and results rounded once.
        """
        return None

    # ---- devices

    def device_count(self) -> int:
        return 1

    def device(self) -> int:
        """The number of the device on which this thread makes arrays."""
        return 0

    def device_of(self, array: Any) -> int:
        """The number of the device that holds `array`, one of this backend's."""
        return 0

    def use_device(self, index: int) -> None:
        """Make arrays on this device from now on, in this thread."""
        if index != 0:
            raise ValueError(f"backend {self.name!r} has one device, number 0, not {index}")

    def at(self, array: Any) -> contextlib.AbstractContextManager[None]:
        """A context manager: this thread computes, and makes arrays, on the device of `array`."""
        return self.on_device(self.device_of(array)) if self in SEVERAL else AS_IT_IS

    def on_device(self, device: int | None) -> contextlib.AbstractContextManager[None]:
        """A context manager: this thread computes, and makes arrays, on this device.

        None is the current one.
        """
        return AS_IT_IS if device is None or device == self.device() else self._switched(device)

    @contextlib.contextmanager
    def _switched(self, index: int) -> Iterator[None]:
        before = self.device()
        self.use_device(index)
        try:
            yield
        finally:
            self.use_device(before)

    def workspace(self) -> int:
        """Bytes that an op may use at once beside its arguments and results.

        It must be the same in every run on one machine, since the order of sums may depend on it.
        """
        return 4 << 20

    def memory(self) -> dict[str, int]:
        """Bytes by kind (``used``, ``reserved`` ...), as far as the library knows them."""
        return {}

    # ---- checks of data

    def check(self, condition: Any, message: str, values: Any = None) -> None:
        """Require that all of `condition` is true; else raise IndexError(message).

        `values` are the array that is checked, for a backend that can read the wrong one at once.
        The host does not wait for it: a flag on the device is read together with the next value, or
        at once inside `gpuprop.debug()`.
        """
        holds = self._flags_here().of(message)
        holds &= condition.all()
        if check_at_once.get():
            self.raise_failed_checks()

    def raise_failed_checks(self) -> None:
        """Raise for the first `check` on the current device that failed since the last call."""
        flags = self._flags and self._flags.get(self.device())
        for message, holds in flags.failed(self._read_flags) if flags else ():
            holds[...] = True
            raise IndexError(message)

    _flags: dict[int, Flags] | None = None  # by device

    def _flags_here(self) -> Flags:
        if self._flags is None:
            self._flags = {}
        device = self.device()
        if device not in self._flags:
            self._flags[device] = Flags(self.xp)
        return self._flags[device]

    def _read_flags(self, flags: Any) -> np.ndarray:
        """A copy of bool flags in host memory."""
        return self._to_numpy(flags)


class Flags:
    """The results of `check` on one device.

    They are bools side by side in one array, so that one read answers for all.
    """

    SIZE = 64  # bools in an array; captured steps write to it, so a full one stays where it is

    def __init__(self, xp: Any) -> None:
        self.xp, self.arrays, self.views = xp, [], {}  # type: ignore[var-annotated]
        self._lock = threading.Lock()

    def of(self, message: str) -> Any:
        """The flag of a message: a 0-d array."""
        if message not in self.views:
            with self._lock:
                number = len(self.views)
                if number == len(self.arrays) * self.SIZE:
                    self.arrays.append(self.xp.ones(self.SIZE, "bool"))
                self.views.setdefault(message, self.arrays[-1][number % self.SIZE:][:1].reshape(()))
        return self.views[message]

    def failed(self, read: Callable) -> list[tuple[str, Any]]:
        """(message, flag) of each check that failed.

        It waits for the device once for each array.
        """
        held = [holds for array in list(self.arrays) for holds in read(array)]
        pairs = zip(list(self.views.items()), held, strict=False)
        return [found for found, holds in pairs if not holds]


# The registry fills these two: they are here because arrays are looked up by every op.
BY_TYPE: dict[type, Backend] = {}  # array type -> its backend
SEVERAL: list[Backend] = []  # those with more than one device: on others no array is elsewhere
AS_IT_IS = contextlib.nullcontext()

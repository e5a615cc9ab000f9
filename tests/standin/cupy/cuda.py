"""``cupy.cuda``: two devices that are not there."""

from collections import deque
from types import SimpleNamespace
from typing import Any

from cupy._array import machine

runtime = SimpleNamespace(
    CUDARuntimeError=type("CUDARuntimeError", (RuntimeError,), {}),
    getDeviceCount=lambda: machine.devices, getDevice=lambda: machine.device, memGetInfo=lambda: (2**33, 2**34),
    driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13000)


class Device:
    def __init__(self, device: int | None = None) -> None:
        self.id = machine.device if device is None else device

    def use(self) -> "Device":
        if not 0 <= self.id < machine.devices:
            raise runtime.CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        machine.device = self.id
        return self

    def synchronize(self) -> None:
        machine.sync("Device.synchronize()")

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


class Stream:
    """A queue whose work is done as late as can be: when someone waits for it."""

    null: "Stream"

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self._at_once, self._todo = null, deque()
        self._asked = self._done = 0

    def __enter__(self) -> "Stream":  # array calls of the stand-in are done at once, on whatever stream
        return self

    def __exit__(self, *_: Any) -> None:
        self._run(self._asked)

    def _ask(self, work: Any) -> None:
        self._asked += 1
        self._todo.append(work)
        if self._at_once:
            self._run(self._asked)

    def _run(self, until: int) -> None:
        while self._done < until:
            self._todo.popleft()()
            self._done += 1

    def record(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        event._stream._run(event._until)

    def synchronize(self) -> None:
        machine.sync("Stream.synchronize()")
        self._run(self._asked)


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self._stream, self._until = Stream.null, 0

    def record(self, stream: Stream | None = None) -> None:
        self._stream = stream or Stream.null
        self._until = self._stream._asked

    def synchronize(self) -> None:
        machine.forbid("Event.synchronize()")
        self._stream._run(self._until)


Stream.null = Stream(null=True)


def get_current_stream(device_id: int = -1) -> Stream:
    return Stream.null


def is_available() -> bool:
    return True

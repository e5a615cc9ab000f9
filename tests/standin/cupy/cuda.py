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
        self.at_once, self.todo = null, deque()
        self.asked = self.done = 0

    def ask(self, work: Any) -> None:
        self.asked += 1
        self.todo.append(work)
        if self.at_once:
            self.run(self.asked)

    def run(self, until: int) -> None:
        while self.done < until:
            self.todo.popleft()()
            self.done += 1

    def record(self, event: "Event | None" = None) -> "Event":
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: "Event") -> None:
        event.run()

    def synchronize(self) -> None:
        machine.sync("Stream.synchronize()")
        self.run(self.asked)


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self.stream, self.until = Stream.null, 0

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or Stream.null
        self.until = self.stream.asked

    @property
    def done(self) -> bool:
        return self.stream.done >= self.until

    def run(self) -> None:
        self.stream.run(self.until)

    def synchronize(self) -> None:
        machine.forbid("Event.synchronize()")
        self.run()


Stream.null = Stream(null=True)


def get_current_stream(device_id: int = -1) -> Stream:
    return Stream.null


def is_available() -> bool:
    return True

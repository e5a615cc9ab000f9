"""``cupy.cuda``: two devices that are not there."""

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


def is_available() -> bool:
    return True

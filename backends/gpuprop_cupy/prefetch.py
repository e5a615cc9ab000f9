"""Batches sent to the device ahead of use: from pinned memory, on a stream of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

IN_FLIGHT = 3  # batches in pinned memory; so the host, too, is no further ahead of the device


class Prefetch:
    """Sends each batch while the one before is in use, to the device on which the caller's thread is.

    Batches are waited for there, on the stream that is the current one when they are handed out: the caller may have
    gone to another device or stream meanwhile.
    """

    def __init__(self, cupy: Any) -> None:
        from cupyx import empty_pinned

        self._cupy, self._empty_pinned = cupy, empty_pinned
        self._streams: dict[int, Any] = {}  # by device
        self._in_flight: deque[tuple[Any, list]] = deque()  # pinned memory is not to be reused before it is copied

    def __call__(self, batches: Iterable[list[np.ndarray]]) -> Iterator[list]:
        sent: deque[tuple[list, Any, Any]] = deque()
        failure = None
        try:
            for arrays in batches:
                sent.append(self._send(arrays))
                if len(sent) > 1:
                    yield self._received(*sent.popleft())
        except Exception as e:
            failure = e  # the batch before is good
        finally:
            for batch in sent:  # who gets its memory next must not be overtaken by the copy
                self._received(*batch)
        for arrays, *_ in sent:
            yield arrays
        if failure is not None:
            raise failure

    def _send(self, arrays: list[np.ndarray]) -> tuple[list, Any, Any]:
        """The arrays on the device, the event after which they are whole, and the device."""
        stream = self._stream()
        stream.wait_event(self._here().record())  # until then the memory that `empty` finds may still be read
        pairs = [self._copy(a, stream) for a in arrays]
        copied = stream.record()
        self._in_flight.append((copied, [pinned for _, pinned in pairs]))
        if len(self._in_flight) > IN_FLIGHT:
            self._in_flight.popleft()[0].synchronize()
        return [array for array, _ in pairs], copied, self._cupy.cuda.Device()

    def _copy(self, host: np.ndarray, stream: Any) -> tuple[Any, Any]:
        array = self._cupy.empty(host.shape, host.dtype)
        if not host.size:
            return array, None
        pinned = self._empty_pinned(host.shape, host.dtype)
        pinned[...] = host
        array.set(pinned, stream)
        return array, pinned

    def _received(self, arrays: list, copied: Any, device: Any) -> list:
        with device:
            self._here().wait_event(copied)
        return arrays

    def _here(self) -> Any:
        return self._cupy.cuda.get_current_stream()

    def _stream(self) -> Any:
        device = self._cupy.cuda.runtime.getDevice()
        if device not in self._streams:
            self._streams[device] = self._cupy.cuda.Stream(non_blocking=True)
        return self._streams[device]

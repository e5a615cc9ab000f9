"""Copies batches to the device ahead of their use, from pinned memory and on a separate stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

IN_FLIGHT = 3  # batches in pinned memory, which also limits how far the host runs ahead


class Prefetch:
    """Copies each batch to the caller's current device while the previous batch is in use.

    When a batch is returned, the stream that is then current on its device waits for the copy.  The
    caller may have changed the device or the stream since the copy was started.
    """

    def __init__(self, cupy: Any) -> None:
        from cupyx import empty_pinned

        self._cupy = cupy
        self._empty_pinned = empty_pinned
        self._streams: dict[int, Any] = {}  # by device
        # Pinned memory must not be reused before the copy from it has finished.
        self._in_flight: deque[tuple[Any, list]] = deque()

    def __call__(self, batches: Iterable[list[np.ndarray]]) -> Iterator[list]:
        sent: deque[tuple[list, Any, Any]] = deque()
        failure = None
        try:
            for arrays in batches:
                sent.append(self._send(arrays))
                if len(sent) > 1:
                    yield self._received(*sent.popleft())
        except Exception as e:
            failure = e  # raised after the last batch that was sent, which is still valid
        finally:
            for batch in sent:  # its memory must not be reused before the copy has finished
                self._received(*batch)
        for arrays, *_ in sent:
            yield arrays
        if failure is not None:
            raise failure

    def _send(self, arrays: list[np.ndarray]) -> tuple[list, Any, Any]:
        """The arrays on the device, the event at the end of the copies, and the device."""
        stream = self._stream()
        # The memory that `empty` returns may still be read by earlier work of the current stream.
        stream.wait_event(self._current_stream().record())
        pairs = [self._copy(a, stream) for a in arrays]
        copied = stream.record()
        self._in_flight.append((copied, [pinned for _, pinned in pairs]))
        if len(self._in_flight) > IN_FLIGHT:
            oldest, _ = self._in_flight.popleft()
            oldest.synchronize()
        return [array for array, _ in pairs], copied, self._cupy.cuda.Device()

    def _copy(self, host: np.ndarray, stream: Any) -> tuple[Any, Any]:
        """A device array, and the pinned memory from which the stream copies to it."""
        array = self._cupy.empty(host.shape, host.dtype)
        if not host.size:
            return array, None
        pinned = self._empty_pinned(host.shape, host.dtype)
        pinned[...] = host
        array.set(pinned, stream)
        return array, pinned

    def _received(self, arrays: list, copied: Any, device: Any) -> list:
        """The arrays, after the current stream of their device was made to wait for the copy."""
        with device:
            self._current_stream().wait_event(copied)
        return arrays

    def _current_stream(self) -> Any:
        return self._cupy.cuda.get_current_stream()

    def _stream(self) -> Any:
        device = self._cupy.cuda.runtime.getDevice()
        if device not in self._streams:
            self._streams[device] = self._cupy.cuda.Stream(non_blocking=True)
        return self._streams[device]

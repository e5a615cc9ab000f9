"""Steps recorded as CUDA graphs, by capture of a stream, and what two recordings of one step did otherwise."""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import functools
import os
import struct
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import cupy
import numpy as np
from cupy.cuda import runtime

from gpuprop.backend import CaptureError, instances, looking
from gpuprop_cupy import products

# ---- recording ------------------------------------------------------------------------------------------------------


class Recording:
    """The device work of one step.

    While it is recorded nothing is computed.  Its memory is its own, and lives as long as it or any array made in it.
    """

    def __init__(self) -> None:
        self.arena = Arena()
        self.device = self.arena.device
        self.graph: Any = None
        self.nodes: list[Node] = []
        self._used: list[Any] = []  # memory that was there before

    def end(self, graph: Any) -> None:
        """Take over what was captured, and keep the memory alive that it uses."""
        self.graph, self.nodes = graph, nodes_of(graph.graph)
        words = {w for node in self.nodes for argument in node.arguments for w in _addresses(argument, node)}
        with looking:  # until the memory of other threads' arrays is let go
            self._used = _memory_at([w for w in words if not self.arena.has(w)])

    def outside(self) -> list:
        """What the work uses and did not make, as arrays of whole memories: the state that a replay depends on."""
        pointer = cupy.cuda.MemoryPointer
        return [cupy.ndarray((memory.size,), "uint8", pointer(memory, 0)) for memory in self._used]

    def uses(self, array: Any) -> bool:
        """Does the work use the memory of an array that was there before?"""
        return any(memory.ptr <= array.data.ptr < memory.ptr + memory.size for memory in self._used)

    def held(self, ours: Iterable[Any]) -> str | None:
        """The code that made an array, other than `ours`, that somebody still holds, or None."""
        return self.arena.held({a.data.ptr for a in ours})

    def replay(self) -> None:
        """Do the work again, on the stream that is current, with the addresses and numbers of the recording."""
        if self.graph is None:
            raise CaptureError("nothing to replay: recording this step did not come to its end")
        with self.turn():
            self.graph.launch()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """What this thread asks of the device inside the block is done after all such blocks before, on any stream.

        Replays take turns, because they share a workspace, and what a replay reads and leaves must not be written to by
        the next one.
        """
        turns = _turns[self.device]
        with turns.lock:
            stream = cupy.cuda.get_current_stream()
            if turns.event is not None and turns.stream != stream.ptr:
                stream.wait_event(turns.event)
            elif turns.stream == NULL != stream.ptr:
                stream.wait_event(cupy.cuda.Stream.null.record())
            try:
                yield
            finally:
                # Another stream may be destroyed before it is asked, and a thread's default stream has every thread's
                # address: what comes next waits for an event.
                turns.event = None if stream.ptr == NULL else stream.record()
                turns.stream = None if stream.ptr == PER_THREAD else stream.ptr

    def difference(self, other: Recording) -> str | None:
        """What another recording of the same step did otherwise, in words, or None: a replay would get it wrong."""
        mine, its = self.nodes, other.nodes
        found = (self._differing(a, b, other) for a, b in zip(mine, its, strict=False))
        found = filter(None, found)  # type: ignore[assignment]
        same_number = None if len(mine) == len(its) else f"{len(mine)} device operations became {len(its)}"
        return next(found, same_number)

    def _differing(self, mine: Node, its: Node, other: Recording) -> str | None:
        if (mine.kind, mine.name) != (its.kind, its.name):
            return f"a call of {self._called(mine)} became one of {other._called(its)}"
        if mine.launch != its.launch:
            return f"{self._called(mine)}: was launched as {mine.launch}, then as {its.launch}: shapes must not change"
        for i, (was, now) in enumerate(zip_longest(mine.arguments, its.arguments, fillvalue=b"")):
            change = self._change(was, now, other, not mine.by_library)
            if change:
                return f"{self._called(mine)}: argument {i} {change}"
        return None

    def _change(self, was: bytes, now: bytes, other: Recording, exact: bool) -> str | None:
        if was == now:
            return None
        if len(was) != len(now):
            return f"had {len(was)} bytes, then {len(now)}"
        if len(was) % 8:
            return _number(was, now) if exact else None
        words = list(zip(_words(was), _words(now), strict=True))
        if exact and len(words) % 2 and len(words) > 1:  # a CIndexer: CuPy leaves its last words, the index, unwritten
            words = words[:len(words) // 2 + 1]
        for a, b in words:
            if a == b or self.arena.place(a) & other.arena.place(b):
                continue
            if _on_device(a) and _on_device(b):
                return "is an array that was elsewhere: what lasts from step to step must change in place"
            if exact:
                return _number(was, now) if len(words) == 1 else f"was of shape or strides {a}, then {b}"
        return None

    def _called(self, node: Node) -> str:
        """A node's name, and the code that made the newest array among its arguments."""
        words = [w for argument in node.arguments for w in _words(argument)]
        last = max((n for w in words for n, _ in self.arena.place(w)), default=None)
        return node.name if last is None else f"{node.name} in {self.arena.made[last].where}"


NULL, PER_THREAD = 0, 2  # the addresses of the default streams


class _Turns:
    """Which stream had the last turn on a device, and the event at its end."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.stream: int | None = None
        self.event: Any = None


_turns: defaultdict[int, _Turns] = defaultdict(_Turns)  # by device
_workspaces: dict[int, int] = {}  # by device: the address of the one that all recordings' products use
_here = threading.local()


def _workspace() -> int | None:
    """The memory that cuBLAS uses in recordings on this device; kept for good, as graphs hold its address."""
    device = runtime.getDevice()
    size = products.workspace_size(device)
    with _memory_lock:
        if device not in _workspaces:
            address = _allocate(size)
            if not address:
                raise cupy.cuda.memory.OutOfMemoryError(size, reserved(device))
            _workspaces[device] = address
            _reserved[device] += size
        return _workspaces[device]


@contextlib.contextmanager
def record() -> Iterator[Recording]:
    """Capture what this thread asks of its device inside the block; on its stream that goes on as before.

    Raises CaptureError for a call that cannot be captured, with the call's name and the line that made it.
    """
    if getattr(_here, "recording", False):
        raise CaptureError("this thread is recording already")
    recording, stream = Recording(), cupy.cuda.Stream(non_blocking=True)
    products.lend_workspace(_workspace())
    _here.recording = True
    try:
        with cupy.cuda.using_allocator(recording.arena.malloc), stream:
            # The calls that are unsafe in this mode would be made once, now, and not be replayed.
            stream.begin_capture(runtime.streamCaptureModeThreadLocal)
            try:
                yield recording
            except BaseException:
                with contextlib.suppress(RuntimeError):  # that the capture is spoilt
                    stream.end_capture()
                raise
            graph = stream.end_capture()
        recording.end(graph)
    except RuntimeError as error:
        if _is_refusal(error):
            raise CaptureError(_refusal(error)) from error
        raise
    finally:
        _here.recording = False
        with cupy.cuda.Device(recording.device):
            products.lend_workspace(None)


def _is_refusal(error: BaseException) -> bool:
    """Is this how CUDA, CuPy or cuBLAS refuses a call while a stream captures?"""
    refused = 900 <= getattr(error, "status", 0) <= 908 or "captur" in str(error)
    return refused and not isinstance(error, CaptureError)


def _refusal(error: BaseException) -> str:
    where, call, trace = "this step", "a call", error.__traceback__
    while trace is not None:
        frame, code = trace.tb_frame, trace.tb_frame.f_code
        if not frame.f_globals.get("__name__", "").startswith(PASSED_OVER):
            where, call = f"{code.co_qualname} ({code.co_filename.rpartition('/')[2]}:{trace.tb_lineno})", ""
        elif not call:
            call = code.co_qualname
        trace = trace.tb_next
    why = ("waits for the device, which a captured step cannot do" if "D2H" in str(error) or "ynchron" in str(error)
           else "copies from the host, which a captured step cannot do" if "H2D" in str(error)
           else "cannot be captured")
    return f"{call or 'a call'} in {where} {why}: {error}"


PASSED_OVER = ("cupy", "gpuprop_cupy", "numpy", "contextlib", "gpuprop.backend")


def caller() -> str:
    """The code that made this call of CuPy: ``adam_update (adam.py:31)``."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(PASSED_OVER):
        frame = frame.f_back
    code = frame.f_code
    return f"{code.co_qualname} ({code.co_filename.rpartition('/')[2]}:{frame.f_lineno})"


# ---- memory ---------------------------------------------------------------------------------------------------------

UNIT, CHUNK, LARGE = 512, 64 << 10, 2 << 20  # bytes: what blocks and chunks are multiples of; chunks grow up to LARGE
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


class Made(NamedTuple):
    """A block that was allocated while recording, and the code that asked for it."""

    address: int
    size: int
    where: str


class Block:
    """What a MemoryPointer owns: memory that goes back to its arena, which it keeps alive."""

    def __init__(self, arena: Arena, address: int, size: int) -> None:
        self.arena, self.address, self.size = arena, address, size

    def __del__(self) -> None:
        self.arena.returned.append((self.address, self.size))


class Arena:
    """Device memory for one recording, which nobody else is given.

    CuPy's MemoryPool does not serve: one that is dropped never frees its memory, and its arrays do not keep it alive.
    """

    def __init__(self) -> None:
        self.device = runtime.getDevice()
        self.made: list[Made] = []  # every block, in the order of the calls
        self._out: dict[int, Made] = {}  # by address: the blocks that have not come back
        self.returned: deque[tuple[int, int]] = deque()  # by any thread, at any time
        self._free: list[tuple[int, int]] = []  # by address
        self._chunks: dict[int, int] = {}  # sizes by address
        self._process = os.getpid()
        self._places: dict[int, frozenset[tuple[int, int]]] = {}

    def malloc(self, size: int) -> Any:
        """Memory for CuPy, from the smallest free block that is large enough."""
        device = runtime.getDevice()
        if device != self.device:
            raise CaptureError(f"{caller()} makes an array on cuda:{device} in a step that is recorded on "
                               f"cuda:{self.device}: a captured step computes on one device")
        size = -(-size // UNIT) * UNIT
        if not size:
            return cupy.cuda.MemoryPointer(cupy.cuda.Memory(0), 0)
        self._take_back()
        fitting = [(n, address) for address, n in self._free if n >= size]
        n, address = min(fitting) if fitting else self._grow(size)
        self._free.remove((address, n))
        if n > size:
            bisect.insort(self._free, (address + size, n - size))
        self._out[address] = Made(address, size, caller())
        self.made.append(self._out[address])
        memory = cupy.cuda.UnownedMemory(address, size, Block(self, address, size), runtime.getDevice())
        return cupy.cuda.MemoryPointer(memory, 0)

    def held(self, ours: set[int]) -> str | None:
        """The code that made a block that has not come back and has none of these addresses, or None."""
        with looking:
            self._take_back()
            return next((m.where for m in self._out.values()
                         if not any(m.address <= a < m.address + m.size for a in ours)), None)

    def _take_back(self) -> None:
        while self.returned:
            address, size = self.returned.popleft()
            del self._out[address]
            self._put(address, size)

    def _grow(self, size: int) -> tuple[int, int]:
        size = -(-max(size, min(sum(self._chunks.values()), LARGE)) // CHUNK) * CHUNK  # as much as there is, or more
        with relaxed():
            address = _allocate(size)
            if not address:
                cupy.get_default_memory_pool().free_all_blocks()  # what eager steps left
                address = _allocate(size)
        if not address:
            raise cupy.cuda.memory.OutOfMemoryError(size, sum(self._chunks.values()))
        self._chunks[address] = size
        with _memory_lock:
            _reserved[self.device] += size
        self._put(address, size)
        return size, address

    def _put(self, address: int, size: int) -> None:
        """Make memory free again, one block with its free neighbours of the same chunk."""
        i = bisect.bisect(self._free, (address, size))
        if i < len(self._free) and address + size == self._free[i][0] not in self._chunks:
            size += self._free.pop(i)[1]
        if i and sum(self._free[i - 1]) == address not in self._chunks:
            i -= 1
            before, n = self._free.pop(i)
            address, size = before, n + size
        self._free.insert(i, (address, size))

    def has(self, address: int) -> bool:
        return any(start <= address < start + size for start, size in self._chunks.items())

    def place(self, address: int) -> frozenset[tuple[int, int]]:
        """(block, byte) for every block that ever lay at this address: blocks are counted in the order of the calls."""
        if not self.has(address):
            return frozenset()
        if address not in self._places:
            starts, sizes = self._extents
            found = np.flatnonzero((starts <= address) & (address < starts + sizes))
            self._places[address] = frozenset((int(n), address - self.made[n].address) for n in found)
        return self._places[address]

    @functools.cached_property
    def _extents(self) -> tuple[Any, Any]:
        return np.array([m.address for m in self.made], "int64"), np.array([m.size for m in self.made], "int64")

    def __del__(self) -> None:
        if self._process == os.getpid() and not sys.is_finalizing():
            with relaxed():
                for address, size in self._chunks.items():
                    runtime.free(address)  # waits until it is out of use
                    with _memory_lock:
                        _reserved[self.device] -= size


_reserved: defaultdict[int, int] = defaultdict(int)  # bytes by device
_memory_lock = threading.RLock()  # an arena may be dropped at any time


def reserved(device: int) -> int:
    """Bytes of a device that belong to recordings."""
    return _reserved[device]


def _allocate(size: int) -> int:
    """The address of new memory, or 0 where there is none."""
    try:
        return runtime.malloc(size)
    except runtime.CUDARuntimeError as e:
        if e.status != OUT_OF_MEMORY:
            raise
        return 0


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """Let this thread allocate and free while it captures, which CUDA otherwise forbids to a thread that does.

    It is forbidden because the call itself is not captured; these are not meant to be.
    """
    mode = ctypes.c_int(runtime.streamCaptureModeRelaxed)
    driver("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    try:
        yield
    finally:
        driver("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))


# ---- what a graph holds ---------------------------------------------------------------------------------------------


class Node(NamedTuple):
    """A device operation of a graph: its name, how it is launched, and its arguments."""

    kind: int
    name: str
    launch: tuple
    arguments: tuple[bytes, ...]
    by_library: bool = False  # whose arguments are structures with gaps, in which anything may be


class KernelParams(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2."""

    _fields_ = [("func", ctypes.c_void_p), ("sizes", ctypes.c_uint * 7),
                ("params", ctypes.POINTER(ctypes.c_void_p)), ("extra", ctypes.c_void_p), ("kern", ctypes.c_void_p),
                ("ctx", ctypes.c_void_p)]


class CopyParams(ctypes.Structure):
    """CUDA_MEMCPY3D_v2: all words, but for the memory types."""

    _fields_ = [("words", ctypes.c_size_t * 25)]


class SetParams(ctypes.Structure):
    """CUDA_MEMSET_NODE_PARAMS."""

    _fields_ = [("to", ctypes.c_uint64), ("pitch", ctypes.c_size_t), ("value", ctypes.c_uint),
                ("element", ctypes.c_uint), ("width", ctypes.c_size_t), ("height", ctypes.c_size_t)]


KERNEL, COPY, SET, CHILD = 0, 1, 2, 4  # CUgraphNodeType
NAMES = {COPY: "a copy", SET: "a fill", 3: "a host function", CHILD: "a graph", 5: "an empty node", 6: "a wait",
         7: "an event"}


def nodes_of(graph: int) -> list[Node]:
    """The operations of a graph, in the order in which they were captured."""
    n = ctypes.c_size_t()
    driver("cuGraphGetNodes", ctypes.c_void_p(graph), None, ctypes.byref(n))
    handles = (ctypes.c_void_p * n.value)()
    driver("cuGraphGetNodes", ctypes.c_void_p(graph), handles, ctypes.byref(n))
    return [node for handle in handles for node in _read(ctypes.c_void_p(handle))]


def _read(handle: ctypes.c_void_p) -> list[Node]:
    number = ctypes.c_int()
    driver("cuGraphNodeGetType", handle, ctypes.byref(number))
    kind = number.value
    if kind == KERNEL:
        return [_kernel(handle)]
    if kind == COPY:
        copy = CopyParams()
        driver("cuGraphMemcpyNodeGetParams", handle, ctypes.byref(copy))
        return [Node(kind, NAMES[kind], (), (bytes(copy.words),))]
    if kind == SET:
        fill = SetParams()
        driver("cuGraphMemsetNodeGetParams", handle, ctypes.byref(fill))
        launch = fill.pitch, fill.value, fill.element, fill.width, fill.height
        return [Node(kind, NAMES[kind], launch, (struct.pack("Q", fill.to),))]
    if kind == CHILD:
        graph = ctypes.c_void_p()
        driver("cuGraphChildGraphNodeGetGraph", handle, ctypes.byref(graph))
        return nodes_of(graph.value or 0)
    return [Node(kind, NAMES.get(kind, f"a node of type {kind}"), (), ())]


def _kernel(handle: ctypes.c_void_p) -> Node:
    params = KernelParams()
    driver("cuGraphKernelNodeGetParams_v2", handle, ctypes.byref(params))
    function = params.func
    if not function:  # of a library that loads its kernels by context-free handles
        pointer = ctypes.c_void_p()
        driver("cuKernelGetFunction", ctypes.byref(pointer), ctypes.c_void_p(params.kern))
        function = pointer.value or 0
    name, sizes = _signature(function)
    arguments = [ctypes.string_at(params.params[i], size) for i, size in enumerate(sizes)] if params.params else []
    own = name.startswith(("cupy", "gpuprop"))
    plain = name.removeprefix("cupy_").removeprefix("gpuprop_").partition("__")[0] if own else name
    return Node(KERNEL, plain, tuple(params.sizes), tuple(arguments), not own)


def _signature(function: int) -> tuple[str, tuple[int, ...]]:
    """A kernel's name, and the sizes of its parameters."""
    text, sizes = ctypes.c_char_p(), []  # type: ignore[var-annotated]
    driver("cuFuncGetName", ctypes.byref(text), ctypes.c_void_p(function))
    offset, size = ctypes.c_size_t(), ctypes.c_size_t()
    while not library().cuFuncGetParamInfo(ctypes.c_void_p(function), ctypes.c_size_t(len(sizes)),
                                           ctypes.byref(offset), ctypes.byref(size)):
        sizes.append(size.value)
    return (text.value or b"?").decode(), tuple(sizes)


def _memory_at(addresses: list[int]) -> list[Any]:
    """The memory of CuPy's arrays, of all there are, that these addresses, if they are such, lie in."""
    addresses.sort()
    device, found = runtime.getDevice(), {}  # type: ignore[var-annotated]
    with instances(cupy.ndarray) as arrays:
        for memory in [getattr(a.data, "mem", None) for a in arrays]:  # None while another thread makes an array
            if memory is None or memory.device_id != device:
                continue
            i = bisect.bisect_left(addresses, memory.ptr)
            if i < len(addresses) and addresses[i] < memory.ptr + memory.size:
                known = found.get(memory.ptr)  # an array of another library may be in the same memory
                found[memory.ptr] = memory if known is None or known.size < memory.size else known
    return list(found.values())


def _words(argument: bytes) -> tuple[int, ...]:
    return struct.unpack(f"{len(argument) // 8}q", argument[:len(argument) // 8 * 8])


def _addresses(argument: bytes, node: Node) -> tuple[int, ...]:
    """The words of an argument that may be addresses: an array of CuPy's begins with its own.

    The others of its words are lengths; those that CuPy leaves unwritten may be addresses of other threads' memory.
    """
    words = _words(argument)
    if node.kind != KERNEL or node.by_library or len(words) < 2:
        return words
    return words[:1] if len(words) % 2 == 0 else ()


def _on_device(address: int) -> bool:
    return address > 0 and runtime.pointerGetAttributes(address).type == runtime.memoryTypeDevice


def _number(was: bytes, now: bytes) -> str:
    return f"was {_decoded(was)}, then {_decoded(now)}: what changes from step to step must be a 0-d array"


def _decoded(value: bytes) -> Any:
    """A Python number that was baked in; its type is not known, but floats look odd as integers."""
    whole = int.from_bytes(value, "little", signed=True)
    code = {2: "e", 4: "f", 8: "d"}.get(len(value))
    if code is None or abs(whole) < 2 ** (4 * len(value)):
        return whole
    return struct.unpack(code, value)[0]


# ---- the driver -----------------------------------------------------------------------------------------------------


@functools.cache
def library() -> Any:
    """CUDA's driver, which CuPy has loaded; it is asked what CuPy's runtime does not tell."""
    return ctypes.WinDLL("nvcuda.dll") if os.name == "nt" else ctypes.CDLL("libcuda.so.1")  # type: ignore[attr-defined]


def can_record() -> bool:
    """Does the driver tell the arguments of a graph's kernels?

    It does since CUDA 12.4.  Without them nobody knows which memory a step uses, and so not what must live as long as
    its recording, nor whether a replay does what the step does.
    """
    return hasattr(library(), "cuFuncGetParamInfo")


def driver(name: str, *args: Any) -> None:
    status = getattr(library(), name)(*args)
    if status:
        text = ctypes.c_char_p()
        library().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"{name}: {(text.value or b'error %d' % status).decode()}")

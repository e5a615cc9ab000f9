"""Steps recorded as CUDA graphs by stream capture, and the differences between two recordings."""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import functools
import os
import struct
import sys
import threading
import traceback
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import cupy
import numpy as np
from cupy.cuda import runtime

import gpuprop.backend
from gpuprop.backend import CaptureError, calling_line, instances, instances_lock
from gpuprop_cupy import products

# ---- recording ----------------------------------------------------------------------------------


class Recording(gpuprop.backend.Recording):
    """The device operations of one step.

    Nothing is computed while recording.  New arrays get memory of the recording's arena, which
    lives as long as the recording or any of these arrays.
    """

    def __init__(self) -> None:
        self.arena = Arena()
        self.device = self.arena.device
        self.graph: Any = None
        self.nodes: list[Node] = []
        self._used: list[Any] = []  # memory from before the recording

    def end(self, graph: Any) -> None:
        """Store the captured graph, and keep alive the memory that it uses."""
        self.graph = graph
        self.nodes = nodes_of(graph.graph)
        words = {word
                 for node in self.nodes
                 for argument in node.arguments
                 for word in _addresses(argument, node)}
        with instances_lock:  # held until the references to other threads' arrays are dropped
            self._used = _memory_at([w for w in words if not self.arena.has(w)])

    def outside(self) -> list:
        """The older memory that the graph uses, as arrays: the state that a replay depends on."""
        pointer = cupy.cuda.MemoryPointer
        return [cupy.ndarray((memory.size,), "uint8", pointer(memory, 0)) for memory in self._used]

    def uses(self, array: Any) -> bool:
        """True if the graph uses the memory of this older array."""
        address = array.data.ptr
        return any(memory.ptr <= address < memory.ptr + memory.size for memory in self._used)

    def held(self, ours: Iterable[Any]) -> str | None:
        """The code that made a new array that is still referenced and not in `ours`, or None."""
        return self.arena.held({a.data.ptr for a in ours})

    def replay(self) -> None:
        """Launch the graph on the current stream, with the recorded addresses and numbers."""
        if self.graph is None:
            raise CaptureError("nothing to replay: the recording of this step failed")
        with self.turn():
            self.graph.launch()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Order the device work of this block after that of all earlier blocks.

        The order holds across streams and threads.  Replays need it because they share a workspace,
        and because a replay must overwrite neither the results of the previous replay nor the
        memory that it still reads.
        """
        with _memory_lock:
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
                # An event is recorded now, because this stream may be destroyed before the next
                # turn.  All threads' per-thread default streams have one address, so the next
                # turn always waits for the event of such a stream.
                turns.event = None if stream.ptr == NULL else stream.record()
                turns.stream = None if stream.ptr == PER_THREAD else stream.ptr

    def difference(self, other: Recording) -> str | None:
        """The first difference between this and another recording of the same step, or None.

        Only differences count that a replay would not reproduce.
        """
        for mine, theirs in zip(self.nodes, other.nodes, strict=False):
            found = self._node_difference(mine, theirs, other)
            if found is not None:
                return found
        before, after = len(self.nodes), len(other.nodes)
        return None if before == after else f"{before} device operations became {after}"

    def _node_difference(self, mine: Node, theirs: Node, other: Recording) -> str | None:
        if (mine.kind, mine.name) != (theirs.kind, theirs.name):
            return f"a call of {self._description(mine)} became one of {other._description(theirs)}"
        if mine.launch != theirs.launch:
            return (f"{self._description(mine)}: was launched as {mine.launch}, then as "
                    f"{theirs.launch}: shapes must not change")
        pairs = zip_longest(mine.arguments, theirs.arguments, fillvalue=b"")
        for i, (before, after) in enumerate(pairs):
            change = self._change(before, after, other, exact=not mine.of_library)
            if change:
                return f"{self._description(mine)}: argument {i} {change}"
        return None

    def _change(self, before: bytes, after: bytes, other: Recording, exact: bool) -> str | None:
        """How an argument changed, or None; only addresses are compared unless `exact`."""
        if before == after:
            return None
        if len(before) != len(after):
            return f"had {len(before)} bytes, then {len(after)}"
        if len(before) % 8:
            return _number_change(before, after) if exact else None
        words = list(zip(_words(before), _words(after), strict=True))
        if exact and len(words) % 2 and len(words) > 1:
            # A CIndexer: a size, a shape and an index.  CuPy does not initialize the index.
            words = words[:len(words) // 2 + 1]
        for a, b in words:
            if a == b or self.arena.blocks_at(a) & other.arena.blocks_at(b):
                continue
            if _on_device(a) and _on_device(b):
                return ("is an array at another address: an array that is kept between steps must "
                        "change in place")
            if exact and len(words) == 1:
                return _number_change(before, after)
            if exact:
                return f"had shape or strides {a}, then {b}"
        return None

    def _description(self, node: Node) -> str:
        """The node's name, and the code that made the newest array among its arguments."""
        words = [w for argument in node.arguments for w in _words(argument)]
        last = max((n for w in words for n, _ in self.arena.blocks_at(w)), default=None)
        return node.name if last is None else f"{node.name} in {self.arena.made[last].where}"


NULL, PER_THREAD = 0, 2  # the addresses of the default streams


class _Turns:
    """The stream of the last turn on a device, and the event at its end."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.stream: int | None = None
        self.event: Any = None


_turns: defaultdict[int, _Turns] = defaultdict(_Turns)  # by device
_workspaces: dict[int, int] = {}  # by device: the address of the workspace of all recordings
_here = threading.local()


def _workspace() -> int | None:
    """The workspace of cuBLAS in recordings on this device; never freed, as graphs use it."""
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
    """Capture the device work of this thread inside the block, on a stream of its own.

    Raises CaptureError for a call that cannot be captured; the message names the call and the line
    that made it.
    """
    if getattr(_here, "recording", False):
        raise CaptureError("this thread is already recording a step")
    recording = Recording()
    stream = cupy.cuda.Stream(non_blocking=True)
    products.set_shared_workspace(_workspace())
    _here.recording = True
    try:
        with cupy.cuda.using_allocator(recording.arena.malloc), stream:
            # In this mode CUDA rejects calls that would run now, but not in the replays.
            stream.begin_capture(runtime.streamCaptureModeThreadLocal)
            try:
                yield recording
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the error that the capture is invalid
                    stream.end_capture()
                raise
            graph = stream.end_capture()
        recording.end(graph)
    except RuntimeError as error:
        if _cannot_be_captured(error):
            raise CaptureError(_capture_message(error)) from error
        raise
    finally:
        _here.recording = False
        with cupy.cuda.Device(recording.device):
            products.set_shared_workspace(None)


def _cannot_be_captured(error: BaseException) -> bool:
    """True for an error of CUDA, CuPy or cuBLAS about a call that a capture does not allow."""
    # 900 to 908: cudaErrorStreamCaptureUnsupported to cudaErrorStreamCaptureWrongThread
    of_capture = 900 <= getattr(error, "status", 0) <= 908 or "captur" in str(error)
    return of_capture and not isinstance(error, CaptureError)


def _capture_message(error: BaseException) -> str:
    """Which call cannot be captured, the line that made it, and why it cannot."""
    frames = list(traceback.walk_tb(error.__traceback__))
    where, call = calling_line(reversed(frames), skip=SKIPPED_MODULES)
    text = str(error)
    if "D2H" in text or "ynchron" in text:
        why = "waits for the device, which a captured step cannot do"
    elif "H2D" in text:
        why = "copies from the host, which a captured step cannot do"
    else:
        why = "cannot be captured"
    return f"{call or 'a call'} in {where} {why}: {error}"


SKIPPED_MODULES = ("gpuprop_cupy", "cupy")


def caller() -> str:
    """The code that called CuPy, for example ``adam_update (_adam.py:31)``."""
    return calling_line(traceback.walk_stack(sys._getframe(1)), skip=SKIPPED_MODULES)[0]


# ---- memory -------------------------------------------------------------------------------------

# Bytes.  Sizes of blocks are multiples of UNIT, sizes of chunks are multiples of CHUNK.  Each new
# chunk is at least as large as all earlier ones together, or as LARGE.
UNIT, CHUNK, LARGE = 512, 64 << 10, 2 << 20
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


class Made(NamedTuple):
    """A block that was allocated while recording, and the code that allocated it."""

    address: int
    size: int
    where: str


class Block:
    """The owner of a MemoryPointer's memory: keeps the arena alive and returns the memory to it."""

    def __init__(self, arena: Arena, address: int, size: int) -> None:
        self.arena = arena
        self.address = address
        self.size = size

    def __del__(self) -> None:
        self.arena.returned.append((self.address, self.size))


class Arena:
    """The device memory of one recording.

    CuPy's MemoryPool is no substitute: a pool that is dropped never frees its memory, and its
    arrays do not keep it alive.
    """

    def __init__(self) -> None:
        self.device = runtime.getDevice()
        self.made: list[Made] = []  # every block, in the order of the calls
        self._out: dict[int, Made] = {}  # by address: the blocks in use
        self.returned: deque[tuple[int, int]] = deque()  # appended to by any thread, at any time
        self._free: list[tuple[int, int]] = []  # (address, size), sorted
        self._chunks: dict[int, int] = {}  # sizes by address
        self._process = os.getpid()
        self._blocks_at: dict[int, frozenset[tuple[int, int]]] = {}

    def malloc(self, size: int) -> Any:
        """Memory for CuPy, from the smallest free block that is large enough."""
        device = runtime.getDevice()
        if device != self.device:
            raise CaptureError(f"{caller()} makes an array on cuda:{device} in a step that is "
                               f"recorded on cuda:{self.device}: a captured step uses one device")
        size = -(-size // UNIT) * UNIT
        if not size:
            return cupy.cuda.MemoryPointer(cupy.cuda.Memory(0), 0)
        self._take_back()
        candidates = [(n, address) for address, n in self._free if n >= size]
        n, address = min(candidates) if candidates else self._grow(size)
        self._free.remove((address, n))
        if n > size:
            bisect.insort(self._free, (address + size, n - size))
        self._out[address] = Made(address, size, caller())
        self.made.append(self._out[address])
        owner = Block(self, address, size)
        memory = cupy.cuda.UnownedMemory(address, size, owner, runtime.getDevice())
        return cupy.cuda.MemoryPointer(memory, 0)

    def held(self, ours: set[int]) -> str | None:
        """The code that made a block in use, if one contains none of these addresses, or None."""
        with instances_lock:
            self._take_back()
            for made in self._out.values():
                if not any(made.address <= a < made.address + made.size for a in ours):
                    return made.where
        return None

    def _take_back(self) -> None:
        """Make the blocks free that their owners have returned."""
        while self.returned:
            address, size = self.returned.popleft()
            del self._out[address]
            self._put(address, size)

    def _grow(self, size: int) -> tuple[int, int]:
        """Allocate a chunk for at least `size` bytes; returns the free block that contains it."""
        size = max(size, min(sum(self._chunks.values()), LARGE))
        size = -(-size // CHUNK) * CHUNK
        with relaxed():
            address = _allocate(size)
            if not address:
                cupy.get_default_memory_pool().free_all_blocks()  # unused memory of eager steps
                address = _allocate(size)
        if not address:
            raise cupy.cuda.memory.OutOfMemoryError(size, sum(self._chunks.values()))
        self._chunks[address] = size
        with _memory_lock:
            _reserved[self.device] += size
        self._put(address, size)
        return size, address

    def _put(self, address: int, size: int) -> None:
        """Add a free block, merged with the free blocks beside it in the same chunk."""
        i = bisect.bisect(self._free, (address, size))
        if i < len(self._free) and address + size == self._free[i][0] not in self._chunks:
            size += self._free.pop(i)[1]
        if i and sum(self._free[i - 1]) == address not in self._chunks:
            i -= 1
            address, n = self._free.pop(i)
            size += n
        self._free.insert(i, (address, size))

    def has(self, address: int) -> bool:
        return any(start <= address < start + size for start, size in self._chunks.items())

    def blocks_at(self, address: int) -> frozenset[tuple[int, int]]:
        """(index in `made`, byte offset) for every block that ever contained this address."""
        if not self.has(address):
            return frozenset()
        if address not in self._blocks_at:
            starts, sizes = self._extents
            found = np.flatnonzero((starts <= address) & (address < starts + sizes))
            self._blocks_at[address] = frozenset(
                (int(n), address - self.made[n].address) for n in found)
        return self._blocks_at[address]

    @functools.cached_property
    def _extents(self) -> tuple[Any, Any]:
        starts = np.array([m.address for m in self.made], "int64")
        sizes = np.array([m.size for m in self.made], "int64")
        return starts, sizes

    def __del__(self) -> None:
        if self._process == os.getpid() and not sys.is_finalizing():
            with relaxed():
                for address, size in self._chunks.items():
                    runtime.free(address)  # waits for the device work that uses the memory
                    with _memory_lock:
                        _reserved[self.device] -= size


_reserved: defaultdict[int, int] = defaultdict(int)  # bytes by device
_memory_lock = threading.RLock()  # an arena may be dropped at any time


def reserved(device: int) -> int:
    """Bytes of a device that belong to recordings."""
    return _reserved[device]


def _allocate(size: int) -> int:
    """The address of new memory, or 0 if there is not enough."""
    try:
        return runtime.malloc(size)
    except runtime.CUDARuntimeError as e:
        if e.status != OUT_OF_MEMORY:
            raise
        return 0


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """Let this thread allocate and free memory while it captures.

    CUDA forbids it by default, because such a call runs at once and is not captured.  That is
    intended here.
    """
    mode = ctypes.c_int(runtime.streamCaptureModeRelaxed)
    driver("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    try:
        yield
    finally:
        driver("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))


# ---- the nodes of a graph -----------------------------------------------------------------------


class Node(NamedTuple):
    """A device operation of a graph: its name, its launch configuration and its arguments."""

    kind: int
    name: str
    launch: tuple
    arguments: tuple[bytes, ...]
    of_library: bool = False  # arguments may be structures with padding, whose bytes are arbitrary


class KernelParams(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2."""

    _fields_ = [
        ("func", ctypes.c_void_p),
        ("sizes", ctypes.c_uint * 7),
        ("params", ctypes.POINTER(ctypes.c_void_p)),
        ("extra", ctypes.c_void_p),
        ("kern", ctypes.c_void_p),
        ("ctx", ctypes.c_void_p),
    ]


class CopyParams(ctypes.Structure):
    """CUDA_MEMCPY3D_v2 as words: its fields have 64 bits, except for the memory types."""

    _fields_ = [("words", ctypes.c_size_t * 25)]


class SetParams(ctypes.Structure):
    """CUDA_MEMSET_NODE_PARAMS."""

    _fields_ = [
        ("to", ctypes.c_uint64),
        ("pitch", ctypes.c_size_t),
        ("value", ctypes.c_uint),
        ("element", ctypes.c_uint),
        ("width", ctypes.c_size_t),
        ("height", ctypes.c_size_t),
    ]


KERNEL, COPY, SET, CHILD = 0, 1, 2, 4  # CUgraphNodeType
NAMES = {
    COPY: "a copy",
    SET: "a memset",
    3: "a host function",
    CHILD: "a child graph",
    5: "an empty node",
    6: "an event wait",
    7: "an event record",
}


def nodes_of(graph: int) -> list[Node]:
    """The operations of a graph, in the order in which they were captured."""
    n = ctypes.c_size_t()
    driver("cuGraphGetNodes", ctypes.c_void_p(graph), None, ctypes.byref(n))
    handles = (ctypes.c_void_p * n.value)()
    driver("cuGraphGetNodes", ctypes.c_void_p(graph), handles, ctypes.byref(n))
    return [node for handle in handles for node in _read(ctypes.c_void_p(handle))]


def _read(handle: ctypes.c_void_p) -> list[Node]:
    """The operations of one node: several for a child graph, else one."""
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
    if not function:  # the kernel has a context-free handle (CUkernel)
        pointer = ctypes.c_void_p()
        driver("cuKernelGetFunction", ctypes.byref(pointer), ctypes.c_void_p(params.kern))
        function = pointer.value or 0
    name, sizes = _signature(function)
    arguments = []
    if params.params:
        arguments = [ctypes.string_at(params.params[i], size) for i, size in enumerate(sizes)]
    of_cupy = name.startswith(("cupy", "gpuprop"))
    if of_cupy:
        name = name.removeprefix("cupy_").removeprefix("gpuprop_").partition("__")[0]
    return Node(KERNEL, name, tuple(params.sizes), tuple(arguments), of_library=not of_cupy)


def _signature(function: int) -> tuple[str, tuple[int, ...]]:
    """A kernel's name, and the sizes of its parameters."""
    text = ctypes.c_char_p()
    driver("cuFuncGetName", ctypes.byref(text), ctypes.c_void_p(function))
    sizes: list[int] = []
    offset, size = ctypes.c_size_t(), ctypes.c_size_t()
    while not library().cuFuncGetParamInfo(
            ctypes.c_void_p(function), ctypes.c_size_t(len(sizes)),
            ctypes.byref(offset), ctypes.byref(size)):
        sizes.append(size.value)
    return (text.value or b"?").decode(), tuple(sizes)


def _memory_at(addresses: list[int]) -> list[Any]:
    """The memory of live CuPy arrays that contains one or more of these possible addresses."""
    addresses.sort()
    device = runtime.getDevice()
    found: dict[int, Any] = {}
    with instances(cupy.ndarray) as arrays:
        # an array that another thread is constructing has no memory yet
        for memory in [getattr(a.data, "mem", None) for a in arrays]:
            if memory is None or memory.device_id != device:
                continue
            i = bisect.bisect_left(addresses, memory.ptr)
            if i < len(addresses) and addresses[i] < memory.ptr + memory.size:
                # several objects may start at one address, if another library owns the memory
                known = found.get(memory.ptr)
                if known is None or known.size < memory.size:
                    found[memory.ptr] = memory
    return list(found.values())


def _words(argument: bytes) -> tuple[int, ...]:
    """The bytes as signed 64-bit integers, without an incomplete last one."""
    return struct.unpack(f"{len(argument) // 8}q", argument[:len(argument) // 8 * 8])


def _addresses(argument: bytes, node: Node) -> tuple[int, ...]:
    """The words of an argument that may be addresses.

    A CuPy array begins with its address.  The words after it are lengths or uninitialized; an
    uninitialized word may hold an address of another thread's memory.
    """
    words = _words(argument)
    if node.kind != KERNEL or node.of_library or len(words) < 2:
        return words
    return words[:1] if len(words) % 2 == 0 else ()


def _on_device(address: int) -> bool:
    if address <= 0:
        return False
    return runtime.pointerGetAttributes(address).type == runtime.memoryTypeDevice


def _number_change(before: bytes, after: bytes) -> str:
    return (f"was {_decoded(before)}, then {_decoded(after)}: "
            "a number that changes between steps must be a 0-d array")


def _decoded(value: bytes) -> Any:
    """A Python number from the bytes of an int or a float.

    The type is unknown.  The bytes of most floats, read as an integer, are implausibly large.
    """
    integer = int.from_bytes(value, "little", signed=True)
    code = {2: "e", 4: "f", 8: "d"}.get(len(value))
    if code is None or abs(integer) < 2 ** (4 * len(value)):
        return integer
    return struct.unpack(code, value)[0]


# ---- the driver ---------------------------------------------------------------------------------


@functools.cache
def library() -> Any:
    """CUDA's driver library, for functions that CuPy lacks; CuPy has already loaded it."""
    if os.name == "nt":
        return ctypes.WinDLL("nvcuda.dll")  # type: ignore[attr-defined]
    return ctypes.CDLL("libcuda.so.1")


def can_record() -> bool:
    """True if the driver reports the arguments of a graph's kernels, as it does since CUDA 12.4.

    They are needed to find the memory that a step uses, which must live as long as its recording,
    and to find out whether a replay computes the same as the step.
    """
    return hasattr(library(), "cuFuncGetParamInfo")


def driver(name: str, *args: Any) -> None:
    """Call the driver's function `name`; raises RuntimeError if it fails."""
    status = getattr(library(), name)(*args)
    if status:
        text = ctypes.c_char_p()
        library().cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"{name}: {(text.value or b'error %d' % status).decode()}")

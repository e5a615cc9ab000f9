"""Measures how a GPU behaves under CuPy, cuBLASLt and CUDA graphs, in five minutes at most.

    python benchmarks/gpu_facts.py --out gpu_facts.json
    python benchmarks/gpu_facts.py --quick    # small sizes, few repetitions: not for timing

Each question runs in its own process under a time limit, so a crash or a hang costs one answer.
An answer is {"point", "question", "answer", "detail", "seconds"}; "point" is the number of its
topic, as in the headings of this file.  If there is no answer, "error" and "kind" (crash, timeout,
exception, no device, not on this device) replace "answer".  If hostcuda takes the place of a GPU,
the quick version runs, without the libraries that hostcuda lacks.  The summary on stdout is JSON;
the file also has the details and is rewritten after every answer.  The script needs NumPy and CuPy,
and times PyTorch if it is installed.

Errors are ``norm(x - reference) / norm(reference)``, with the reference in float64 on the host.
Times are in microseconds.
"""
import argparse
import contextlib
import ctypes
import faulthandler
import functools
import importlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

cp: Any = None  # CuPy, imported in the child processes only: the report must survive its failure
quick = False   # --quick, in the child processes too

HOSTCUDA_LACKS = ("cuBLASLt", "cuRAND", "PyTorch")


# ---- running the questions
@dataclass(frozen=True)
class Question:
    point: int
    text: str
    run: Callable           # returns answer and detail; importable, as it runs in another process
    args: tuple = ()
    needs: str = "CuPy"     # the library that it uses; "" for none


def run_all(
    questions: Iterable[Question],
    limit: float,
    budget: float = math.inf,
    report: Callable[[list[dict]], object] = lambda answers: None,
    small: bool = False,
) -> list[dict]:
    """Run questions in order, each for `limit` seconds at most, for `budget` seconds in all.

    ``report(answers)`` is called after each.
    """
    end = time.monotonic() + budget
    answers: list[dict] = []
    for question in questions:
        started = time.monotonic()
        left = min(limit, end - started)
        if left > 1:
            reply = ask(question, left, small)
        else:
            reply = {"error": "the time budget of the whole run is spent", "kind": "timeout"}
        seconds = round(time.monotonic() - started, 2)
        answers.append(
            {"point": question.point, "question": question.text, **reply, "seconds": seconds}
        )
        report(answers)
    return answers


def ask(question: Question, limit: float, small: bool = False) -> dict:
    """The reply of a new process; after a crash or a timeout, the end of its output."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile(suffix=".log") as log, ours:
        process = context.Process(
            target=answer, args=(question, theirs, log.name, limit, small), daemon=True
        )
        process.start()
        theirs.close()
        kind, reply = "timeout", ""
        with contextlib.suppress(EOFError):
            if ours.poll(limit):
                kind = "crash"  # if nothing is received
                reply = ours.recv()
        process.join(5 if kind == "crash" else 0)
        process.kill()
        process.join(5)
        if reply:
            rounded = lambda digits: float(f"{float(digits):.5g}")
            return json.loads(reply, parse_float=rounded, parse_constant=str)
        printed = log.read().decode(errors="replace")[-3000:]
        return {
            "error": f"exit code {process.exitcode}, limit {limit:.0f} s",
            "kind": kind,
            "detail": printed,
        }


def answer(question: Question, pipe: Any, log: str, limit: float, small: bool) -> None:
    """In the child process: send the reply to `pipe`; all output goes to the file `log`."""
    global quick
    quick = small
    file = open(log, "a")  # noqa: SIM115 (faulthandler needs it to the end)
    for stream in (1, 2):
        os.dup2(file.fileno(), stream)
    faulthandler.enable(file)  # prints a traceback of a crash
    faulthandler.dump_traceback_later(max(limit - 2, 0.2), file=file)  # and of a hang
    plain = lambda x: x.tolist() if hasattr(x, "tolist") else str(x)
    pipe.send(json.dumps(reply_to(question), default=plain))


def reply_to(question: Question) -> dict:
    """Run a question on one non-blocking stream, which can be captured and needs no other waits."""
    global cp
    try:
        if question.needs:
            cp = importlib.import_module("cupy")
        if not has(question.needs):
            return {
                "error": f"{device_name()} has no {question.needs}",
                "kind": "not on this device",
            }
        with cp.cuda.Stream(non_blocking=True) if question.needs else contextlib.nullcontext():
            result, detail = question.run(*question.args)
        return {"answer": result, "detail": detail}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "kind": "exception",
                "detail": traceback.format_exc()[-3000:]}


def device_name() -> str:
    return cp.cuda.runtime.getDeviceProperties(0)["name"].decode()


def has(library: str) -> bool:
    """True unless hostcuda is the device and lacks the library."""
    return library not in HOSTCUDA_LACKS or "hostcuda" not in device_name()


def sized(full: int, small: int) -> int:
    return small if quick else full


def attempt(call: Callable, *args: Any, **options: Any) -> Any:
    """The result of the call, or the text of its exception."""
    try:
        return call(*args, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


# ---- arrays, times, graphs
def dtype(name: str) -> np.dtype:
    return np.dtype(importlib.import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def random(shape: tuple, name: str, scale: float = 1.0, seed: int = 0) -> tuple:
    """Normal numbers of dtype `name` on the device, and the same values in float64 on the host."""
    values = scale * np.random.default_rng(seed).standard_normal(shape, np.float32)
    values = values.astype(dtype(name))
    return cp.asarray(values), values.astype(np.float64)


def error_of(x: Any, reference: np.ndarray) -> float:
    return float(np.linalg.norm(x.get().astype(np.float64) - reference) / np.linalg.norm(reference))


def bits(x: Any) -> Any:
    return x.view(f"uint{8 * x.itemsize}")


def measured(call: Callable, count: int) -> tuple[float, float]:
    """Host time and device time per call.

    The device time is meaningful only if the device takes longer than the host.
    """
    start, stop = cp.cuda.Event(), cp.cuda.Event()
    start.record()
    start.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        call()
    host = time.perf_counter() - began
    stop.record()
    stop.synchronize()
    return host * 1e6 / count, cp.cuda.get_elapsed_time(start, stop) * 1e3 / count


def timed(calls: dict[str, Callable], count: int, nbytes: dict[str, int] | None = None) -> dict:
    """Best and median times over nine rounds (one if quick) of all calls.

    With `nbytes`, also GB/s, and its fraction of the GB/s of "device copy".  A call that raises has
    its error in place of times.
    """
    failed = {}
    for name, call in calls.items():
        result = attempt(call)  # also compiles the kernels
        if isinstance(result, str):
            failed[name] = result
    calls = {name: call for name, call in calls.items() if name not in failed}
    count = sized(count, 2)
    rounds = []
    for _ in range(sized(10, 2)):
        rounds.append({name: measured(call, count) for name, call in calls.items()})
    table: dict[str, Any] = {}
    for name in rounds[0]:
        host, device = zip(*(times[name] for times in rounds[1:]), strict=True)
        table[name] = {
            "host best": min(host),
            "host median": statistics.median(host),
            "device best": min(device),
            "device median": statistics.median(device),
        }
        if nbytes:
            table[name]["GB/s"] = nbytes[name] / min(device) / 1e3
    if nbytes:
        for row in table.values():
            row["fraction of device copy"] = row["GB/s"] / table["device copy"]["GB/s"]
    return table | failed


class Recorded:
    """A CUDA graph of `step`, captured on the current stream; it keeps its memory pool alive.

    Two eager runs first compile the kernels, load the modules and fill the pool.
    """

    def __init__(self, step: Callable[[], list], pool: Any = None):
        self.pool = cp.cuda.MemoryPool() if pool is None else pool
        stream = cp.cuda.get_current_stream()
        with cp.cuda.using_allocator(self.pool.malloc):
            step()
            step()
            stream.synchronize()
            stream.begin_capture()
            try:
                self.outputs = step()
            except BaseException:
                attempt(stream.end_capture)  # ends the capture; its error adds nothing
                raise
            self.launch = stream.end_capture().launch


def differing(step: Callable[[], list], times: int) -> int:
    """The number of replays that differ in any bit from the eager run.

    The outputs are overwritten before each replay.
    """
    expected = [x.copy() for x in step()]
    recorded = Recorded(step)
    wrong = cp.zeros((), dtype=np.int64)
    for _ in range(times):
        for x in recorded.outputs:
            x.data.memset_async(0xFF, x.nbytes)  # NaN in every float type
        recorded.launch()
        for x, good in zip(recorded.outputs, expected, strict=True):
            wrong += (bits(x) != bits(good)).any()
    return int(wrong)


# ---- cuBLASLt by ctypes; constants of cublasLt.h, cublas_api.h and library_types.h
TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}  # cudaDataType_t
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
TRANSA, TRANSB, EPILOGUE, BIAS_POINTER = 3, 4, 7, 8  # MatmulDesc
EPILOGUE_AUX_POINTER, EPILOGUE_AUX_LD = 11, 12
BATCH_COUNT, STRIDED_BATCH_OFFSET = 5, 6  # MatrixLayout
MAX_WORKSPACE_BYTES = 1  # MatmulPreference
MIN_ALIGNMENT_A_BYTES, MIN_ALIGNMENT_B_BYTES = 5, 6
MIN_ALIGNMENT_C_BYTES, MIN_ALIGNMENT_D_BYTES = 7, 8
EPILOGUES = {
    "DEFAULT": 1,
    "BIAS": 4,
    "RELU_BIAS": 6,
    "GELU_BIAS": 36,
    "GELU_AUX_BIAS": 164,
    "DGELU": 192,
    "DGELU_BGRAD": 208,
    "BGRADA": 256,
    "BGRADB": 512,
}


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algo", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


SIGNATURES = {  # p: a pointer, i: an int or an enum, s: size_t, u: uint64_t, q: int64_t
    "Create": "p",
    "MatmulDescCreate": "pii",
    "MatrixLayoutCreate": "piuuq",
    "MatmulPreferenceCreate": "p",
    "MatmulDescSetAttribute": "pips",
    "MatrixLayoutSetAttribute": "pips",
    "MatmulPreferenceSetAttribute": "pips",
    "MatmulAlgoGetHeuristic": "ppppppp" + "ipp",
    "Matmul": "pp" + "ppppp" + "ppp" + "pp" + "pp" + "sp",
}
LETTERS = {
    "p": ctypes.c_void_p,
    "i": ctypes.c_int,
    "s": ctypes.c_size_t,
    "u": ctypes.c_uint64,
    "q": ctypes.c_int64,
}


@functools.cache
def library() -> ctypes.CDLL:
    pathfinder = importlib.import_module("cuda.pathfinder")  # a dependency of CuPy
    found = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path)
    found.cublasLtGetStatusName.restype = ctypes.c_char_p
    found.cublasLtGetVersion.restype = ctypes.c_size_t
    for name, letters in SIGNATURES.items():
        function = getattr(found, "cublasLt" + name)
        function.restype = ctypes.c_int
        function.argtypes = [LETTERS[letter] for letter in letters]
    return found


def lt(name: str, *args: Any) -> None:
    """Call cuBLASLt's function `name`; raises if it fails."""
    if status := getattr(library(), "cublasLt" + name)(*args):
        raise RuntimeError(f"cublasLt{name}: {library().cublasLtGetStatusName(status).decode()}")


def described(kind: str, *args: Any, **attributes: Any) -> ctypes.c_void_p:
    """A new descriptor with these attributes; never destroyed, as the process is short-lived."""
    descriptor = ctypes.c_void_p()
    lt(kind + "Create", ctypes.byref(descriptor), *args)
    for name, value in attributes.items():
        number = globals()[name]
        lt(kind + "SetAttribute", descriptor, number, ctypes.byref(value), ctypes.sizeof(value))
    return descriptor


@functools.cache
def handle() -> ctypes.c_void_p:
    return described("")


def layout(x: Any, batch: int) -> ctypes.c_void_p:
    """The layout of a row-major (R, C) matrix: a column-major (C, R) one with columns C apart."""
    *_, rows, columns = x.shape
    stride = rows * columns if x.ndim == 3 else 0  # 0: one matrix for the whole batch
    return described("MatrixLayout", TYPES[x.dtype.name], columns, rows, columns,
                     BATCH_COUNT=ctypes.c_int32(batch), STRIDED_BATCH_OFFSET=ctypes.c_int64(stride))


class Gemm:
    """``d = epilogue(op(a) @ op(b) + beta * d)`` of contiguous arrays.

    Shapes are (..., M, K), (..., K, N) and (..., M, N).  cuBLASLt is column-major, so it computes
    ``d.T = op(b).T @ op(a).T``: its A is b, its B is a, and a bias has one element per column of d.
    The algorithm and the workspace are fixed; the arrays of a call must have the shapes, dtypes
    and alignments of those given here.
    """

    def __init__(
        self,
        a: Any,
        b: Any,
        d: Any,
        *,
        ta: bool = False,
        tb: bool = False,
        beta: float = 0.0,
        compute: int | None = None,
        epilogue: str = "DEFAULT",
        bias: Any = None,
        aux: Any = None,
    ):
        double = d.dtype == np.float64
        scalar = ctypes.c_double if double else ctypes.c_float
        self.alpha = scalar(1.0)
        self.beta = scalar(beta)
        self.kept = bias, aux  # their pointers are stored below
        attributes: dict[str, Any] = dict(TRANSA=ctypes.c_int32(tb), TRANSB=ctypes.c_int32(ta),
                                          EPILOGUE=ctypes.c_uint32(EPILOGUES[epilogue]))
        if bias is not None:
            attributes |= dict(BIAS_POINTER=ctypes.c_void_p(bias.data.ptr))
        if aux is not None:
            attributes |= dict(EPILOGUE_AUX_POINTER=ctypes.c_void_p(aux.data.ptr),
                               EPILOGUE_AUX_LD=ctypes.c_int64(aux.shape[1]))
        self.operation = described(
            "MatmulDesc",
            compute or (COMPUTE_64F if double else COMPUTE_32F),
            TYPES["float64" if double else "float32"],
            **attributes,
        )
        self.a, self.b, self.d = (layout(x, d.shape[0] if d.ndim == 3 else 1) for x in (a, b, d))
        aligned = {
            f"MIN_ALIGNMENT_{name}_BYTES": ctypes.c_uint32(min(x.data.ptr & -x.data.ptr, 256))
            for name, x in (("A", b), ("B", a), ("C", d), ("D", d))
        }
        preference = described(
            "MatmulPreference", MAX_WORKSPACE_BYTES=ctypes.c_uint64(32 << 20), **aligned
        )
        self.found = Heuristic()
        count = ctypes.c_int()
        lt("MatmulAlgoGetHeuristic", handle(), self.operation, self.b, self.a, self.d, self.d,
           preference, 1, ctypes.byref(self.found), ctypes.byref(count))
        if not count.value or self.found.state:
            raise RuntimeError(
                f"cuBLASLt has no algorithm: {count.value} found, status {self.found.state}"
            )
        self.workspace = cp.empty(max(self.found.workspace, 1), dtype=np.uint8)

    def __call__(self, a: Any, b: Any, d: Any) -> None:
        lt("Matmul", handle(), self.operation,
           ctypes.byref(self.alpha), b.data.ptr, self.b, a.data.ptr, self.a,
           ctypes.byref(self.beta), d.data.ptr, self.d, d.data.ptr, self.d,
           ctypes.byref(self.found.algo), self.workspace.data.ptr, self.found.workspace,
           cp.cuda.get_current_stream().ptr)


# ---- our own kernels, which need no header
CUDA = r"""
// Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
// state, on the device: the key, the upper half of the counter, and its lower half for thread 0.
extern "C" __global__ void philox(const unsigned long long* state, uint4* out) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  unsigned long long low = state[2] + i, high = state[1];
  uint4 c = make_uint4((unsigned)low, (unsigned)(low >> 32),
                       (unsigned)high, (unsigned)(high >> 32));
  uint2 k = make_uint2((unsigned)state[0], (unsigned)(state[0] >> 32));
  for (int round = 0; round < 10; ++round, k.x += 0x9E3779B9u, k.y += 0xBB67AE85u) {
    unsigned p = __umulhi(0xD2511F53u, c.x), q = __umulhi(0xCD9E8D57u, c.z);
    c = make_uint4(q ^ c.y ^ k.x, 0xCD9E8D57u * c.z, p ^ c.w ^ k.y, 0xD2511F53u * c.x);
  }
  out[i] = c;
}
extern "C" __global__ void advance(unsigned long long* state) { state[1] += 1; }

// Blocks of 32 by 8 threads; a block sums some rows of 128 columns into row blockIdx.y of y.
__device__ void add(float4& s, float4 v) { s.x += v.x; s.y += v.y; s.z += v.z; s.w += v.w; }
extern "C" __global__ void column_sums(const float4* x, float4* y, int rows, int quads) {
  __shared__ float4 tile[8][32];
  int column = blockIdx.x * 32 + threadIdx.x;
  float4 sum = make_float4(0, 0, 0, 0);
  for (int row = blockIdx.y * 8 + threadIdx.y; row < rows; row += gridDim.y * 8)
    add(sum, x[row * (long long)quads + column]);
  tile[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y) return;
  for (int k = 1; k < 8; ++k) add(sum, tile[k][threadIdx.x]);
  y[blockIdx.y * (long long)quads + column] = sum;
}

extern "C" __global__ void negate_bfloat16(const uint4* x, uint4* y) {
  long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
  uint4 v = x[i];
  unsigned sign = 0x80008000u;
  y[i] = make_uint4(v.x ^ sign, v.y ^ sign, v.z ^ sign, v.w ^ sign);
}
"""


@functools.cache
def kernel(name: str) -> Callable:
    return cp.RawModule(code=CUDA).get_function(name)


# ---- point 0: the device, and dtype promotion
def device_facts() -> tuple:
    runtime = cp.cuda.runtime
    smi = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    properties = runtime.getDeviceProperties(0)
    sizes = {
        key: properties.get(key)
        for key in ("major", "minor", "multiProcessorCount", "totalGlobalMem", "l2CacheSize")
    }
    return device_name(), {
        **sizes,
        "driver": attempt(subprocess.check_output, smi, text=True, timeout=20),
        "CUDA of the driver": runtime.driverGetVersion(),
        "CUDA CuPy was built with": runtime.runtimeGetVersion(),
        "CUDA runtime": attempt(lambda: cp.cuda.get_local_runtime_version()),
        "NVRTC": attempt(lambda: cp.cuda.nvrtc.getVersion()),
        "cuBLASLt": attempt(lambda: library().cublasLtGetVersion()),
    }


PROMOTIONS = (
    "ones(3, 'f4') * 2.0",
    "ones(3, 'f4') * float64(2)",
    "ones(3, 'f4') * array(2.0)",
    "ones(3, 'f2') + 1",
    "ones(3, 'f2') * ones((), 'f4')",
    "ones(3, 'i4') * 2.0",
    "ones(3, 'i1') + 1",
    "ones(3, 'f4') + ones(3, 'i4')",
    "where(ones(3, '?'), ones(3, 'f4'), 0.0)",
    "ones(3, 'f4').sum() * 2.5",
)
BFLOAT16 = (
    "ones(3, bf16) * 2.5",
    "ones(3, bf16) + 1",
    "ones(3, bf16) * ones(3, 'f4')",
    "ones(3, bf16) * ones((), 'f4')",
    "ones((), bf16) * ones(3, 'f4')",
    "ones(3, bf16) * ones((), bf16)",
    "ones(3, bf16) * ones(3, 'f2')",
    "ones(3, bf16) * ones(3, 'i4')",
    "ones(3, bf16).sum()",
    "maximum(ones(3, bf16), 0.0)",
    "exp(ones(3, bf16))",
)


def promotion(expressions: tuple) -> tuple:
    """Detail: the dtypes of NumPy and CuPy for each expression."""

    def outcome(xp: Any, text: str) -> str:
        names = {name: getattr(xp, name) for name in ("ones", "array", "where", "maximum", "exp")}
        names |= {"float64": np.float64, "bf16": dtype("bfloat16")}
        with contextlib.suppress(Exception):
            return eval(text, names).dtype.name
        return "error"

    table = {text: [outcome(xp, text) for xp in (np, cp)] for text in expressions}
    return all(host == device for host, device in table.values()), table


# ---- point 1: cuBLASLt, eager and in a graph with its own pool
PRECISIONS = {
    "float64": ("float64", "float64", None),
    "float32": ("float32", "float32", None),
    "tf32": ("float32", "float32", COMPUTE_32F_FAST_TF32),
    "bfloat16": ("bfloat16", "bfloat16", None),
    "bfloat16 to float32": ("bfloat16", "float32", None),
    "float16": ("float16", "float16", None),
    "float16 to float32": ("float16", "float32", None),
}
CASES: dict[str, dict[str, Any]] = {
    "plain": dict(a=(512, 384), b=(384, 256), times=1000),
    "accumulating": dict(a=(96, 64), b=(64, 128), beta=1.0),
    "b transposed": dict(a=(96, 64), b=(128, 64), tb=True),
    "a transposed": dict(a=(64, 96), b=(64, 128), ta=True),
    "both transposed": dict(a=(64, 96), b=(128, 64), ta=True, tb=True),
    "batch": dict(a=(8, 96, 64), b=(8, 64, 128)),
    "batch, one b": dict(a=(8, 96, 64), b=(64, 128)),
    "batch, both transposed": dict(a=(8, 64, 96), b=(8, 128, 64), ta=True, tb=True),
    "odd and off alignment": dict(a=(33, 17), b=(17, 65), shift=1),
}


def placed(x: Any, shift: int) -> Any:
    """A copy of x that starts `shift` elements after an aligned address."""
    view = cp.empty(x.size + shift, x.dtype)[shift:].reshape(x.shape)
    view[...] = x
    return view


def product(
    precision: str, a: tuple, b: tuple, times: int = 100, shift: int = 0, **options: Any
) -> dict:
    """The error of a product of shapes a and b, and the number of replays that differ.

    With `beta`, d is initially random.
    """
    inputs, output, compute = PRECISIONS[precision]
    x, x64 = random(a, inputs)
    y, y64 = random(b, inputs, seed=1)
    if options.get("ta"):
        x64 = x64.swapaxes(-1, -2)
    if options.get("tb"):
        y64 = y64.swapaxes(-1, -2)
    start, start64 = random((x64 @ y64).shape, output, seed=2)
    x, y, start = (placed(v, shift) for v in (x, y, start))
    gemm = Gemm(x, y, start, compute=compute, **options)

    def step() -> list:
        d = placed(start, shift)
        gemm(x, y, d)
        return [d]

    expected = x64 @ y64 + options.get("beta", 0.0) * start64
    return {
        "error": error_of(step()[0], expected),
        "replays differ": differing(step, sized(times, 3)),
        "workspace": gemm.found.workspace,
    }


def gemm_cases(precision: str) -> tuple:
    return {name: attempt(product, precision, **case) for name, case in CASES.items()}, ""


def gemm_planned_in_capture() -> tuple:
    """Can the heuristics plan a new problem during capture, once cuBLASLt is initialized?"""
    a, b, d = (random(shape, "bfloat16")[0] for shape in ((80, 48), (48, 112), (80, 112)))
    Gemm(b, d.reshape(112, 80), cp.empty((48, 80), d.dtype))
    stream = cp.cuda.get_current_stream()
    stream.begin_capture()
    planned, ended = attempt(Gemm, a, b, d), attempt(stream.end_capture)
    return isinstance(planned, Gemm) and not isinstance(ended, str), [planned, ended]


def gelu(x: np.ndarray) -> tuple:
    """GELU (tanh approximation) and its derivative."""
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    slope = (1 - t * t) / 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return x * (1 + t) / 2, (1 + t) / 2 + x * slope


def epilogue_reference(
    name: str, a: np.ndarray, b: np.ndarray, bias: np.ndarray, aux: np.ndarray
) -> list:
    """The expected outputs of an epilogue: d, and the second output of those that have one."""
    if name in ("BGRADA", "BGRADB"):
        return [a @ b, b.sum(0) if name == "BGRADA" else a.sum(1)]
    if "DGELU" in name:
        gradient = a @ b * gelu(aux)[1]
        return [gradient, gradient.sum(0)] if "BGRAD" in name else [gradient]
    z = a @ b + bias
    if name == "BIAS":
        return [z]
    if name == "RELU_BIAS":
        return [np.maximum(z, 0)]
    y, _ = gelu(z)
    return [y, z] if "AUX" in name else [y]


def epilogue_case(name: str, precision: str) -> dict:
    """BGRADA and BGRADB sum the rows of a (transposed) or b: dy in a layer's weight gradient."""
    M, K, N = 128, 256, 192
    inputs, output, compute = PRECISIONS[precision]
    ta = name in ("BGRADA", "BGRADB")
    a, a64 = random((K, M) if ta else (M, K), inputs, K**-0.5)
    b, b64 = random((K, N), inputs, seed=1)
    bias, bias64 = random((M if name == "BGRADB" else N,), output, seed=2)
    aux, aux64 = random((M, N), output, seed=3)
    gemm = Gemm(
        a, b, cp.empty((M, N), dtype(output)), ta=ta, compute=compute, epilogue=name,
        bias=None if name == "DGELU" else bias,
        aux=aux if "AUX" in name or "DGELU" in name else None)

    def step() -> list:
        d = cp.empty((M, N), dtype(output))
        gemm(a, b, d)
        return [d] + [bias] * ("BGRAD" in name) + [aux] * ("AUX" in name)

    good = epilogue_reference(name, a64.T if ta else a64, b64, bias64, aux64)
    return {
        "errors": [error_of(x, y) for x, y in zip(step(), good, strict=True)],
        "replays differ": differing(step, sized(100, 3)),
    }


def gemm_epilogue(name: str) -> tuple:
    errors = {precision: attempt(epilogue_case, name, precision) for precision in PRECISIONS}
    return errors, "compared with the tanh approximation of GELU"


# ---- point 2: the memory of a graph
def lifetime(private: bool) -> tuple:
    """Are results and arrays that are made after the capture right after replays?"""
    n = sized(1 << 21, 1 << 16)
    x = (cp.arange(n) % 97).astype(np.float32)
    host = x.get()

    def step() -> list:
        a = x * 2
        b = a + 1
        return [a * b]  # the memory of a and b returns to the pool

    recorded = Recorded(step, None if private else cp.get_default_memory_pool())
    sizes = [n // 4 * quarters for quarters in (4, 4, 2, 1, 4)]
    make = lambda: [cp.full(size, 777, dtype=np.float32) for size in sizes]
    others = {"same stream": make()}
    with cp.cuda.Stream.null:
        others["null stream"] = make()
    cp.cuda.Device().synchronize()
    right = []
    for _ in range(3):
        recorded.launch()
        right.append(np.array_equal(recorded.outputs[0].get(), host * 2 * (host * 2 + 1)))
    damaged = {name: [int((y != 777).sum()) for y in arrays] for name, arrays in others.items()}
    intact = not any(map(sum, damaged.values()))
    return all(right) and intact, {"results right": right, "damaged elements": damaged}


# ---- point 3: host time per call
def host_cost(with_torch: bool) -> tuple:
    x, y, z = (cp.full(1024, value, dtype=np.float32) for value in (1, 2, 3))
    m, out = (cp.full((64, 64), value, dtype=np.float32) for value in (1, 2))
    h, negate = m.astype(np.float16), kernel("negate_bfloat16")
    element = cp.ElementwiseKernel(
        "float32 x, float32 y", "float32 z", "z = x * y + 1.f", "gpu_facts_element"
    )
    calls: dict[str, Callable] = {
        "x + y": lambda: x + y,
        "exp(x)": lambda: cp.exp(x),
        "x.sum()": lambda: x.sum(),
        "matmul float32": lambda: cp.matmul(m, m),
    }
    if not with_torch:
        if has("cuBLASLt"):
            gemm = Gemm(m, m, out)
            calls["cuBLASLt by ctypes"] = lambda: gemm(m, m, out)
        calls |= {
            "add(x, y, out=z)": lambda: cp.add(x, y, out=z),
            "x * 2.0": lambda: x * 2.0,
            "empty_like(x)": lambda: cp.empty_like(x),
            "m.reshape(-1)": lambda: m.reshape(-1),
            "ElementwiseKernel": lambda: element(x, y),
            "ElementwiseKernel, with out": lambda: element(x, y, z),
            "RawKernel": lambda: negate((1,), (256,), (x, z)),
            "matmul, with out": lambda: cp.matmul(m, m, out=out),
            "matmul float16": lambda: cp.matmul(h, h),
        }
        return timed(calls, 200), ""
    torch = importlib.import_module("torch")
    with torch.cuda.stream(torch.cuda.ExternalStream(cp.cuda.get_current_stream().ptr)):
        t, tm, leaf = (torch.ones(shape, device="cuda") for shape in (1024, (64, 64), 1024))
        leaf.requires_grad_(True)
        calls |= {
            "torch t + t": lambda: t + t,
            "torch t + t, with autograd": lambda: leaf + leaf,
            "torch t.sum()": lambda: t.sum(),
            "torch exp(t)": lambda: torch.exp(t),
            "torch matmul": lambda: torch.matmul(tm, tm),
        }
        return timed(calls, 200), ""


def graph_launch() -> tuple:
    """Graphs of several sizes; each node adds 1 to an array of 1024 elements."""
    x = cp.zeros(1024, dtype=np.float32)
    graph = lambda nodes: Recorded(lambda: [cp.add(x, 1, out=x) for _ in range(nodes)])
    graphs = {f"{nodes} nodes": graph(nodes) for nodes in (10, 100, sized(1000, 200))}
    return timed({name: recorded.launch for name, recorded in graphs.items()}, 8), ""


# ---- point 4: bandwidth
def column_sums() -> tuple:
    """Sums of columns; only the bytes of the input count."""
    values = np.random.default_rng(0).random((sized(65536, 1024), 1024), dtype=np.float32)
    x = cp.asarray(values)
    copied = cp.empty_like(x)
    partial = cp.empty((256, 1024), dtype=np.float32)
    y = cp.empty(1024, dtype=np.float32)
    rows, stripes, quads = map(np.int32, (len(x), 256, 1024 // 4))

    def two_stages() -> None:
        kernel("column_sums")((8, 256), (32, 8), (x, partial, rows, quads))
        kernel("column_sums")((8, 1), (32, 8), (partial, y, stripes, quads))

    calls = {
        "sum(axis=0)": lambda: x.sum(axis=0),
        "two stages": two_stages,
        "device copy": lambda: copied.data.copy_from_device_async(x.data, x.nbytes),
    }
    nbytes = {"sum(axis=0)": x.nbytes, "two stages": x.nbytes, "device copy": 2 * x.nbytes}
    times = timed(calls, 10, nbytes)
    good = values.sum(axis=0, dtype=np.float64)
    errors = {"sum(axis=0)": error_of(x.sum(axis=0), good), "two stages": error_of(y, good)}
    return times, {"errors": errors}


def bias_gradient(precision: str) -> tuple:
    """dw = dy.T @ x, both (65536, 1024)."""
    inputs, _, compute = PRECISIONS[precision]
    shape = (2, sized(65536, 1024), 1024)
    values = np.random.default_rng(0).random(shape, dtype=np.float32).astype(dtype(inputs))
    x, dy = cp.asarray(values[0]), cp.asarray(values[1])
    dw, db = cp.empty((1024, 1024), x.dtype), cp.zeros(1024, x.dtype)
    plain = Gemm(dy, x, dw, ta=True, compute=compute)
    fused = Gemm(dy, x, dw, ta=True, compute=compute, epilogue="BGRADB", bias=db)
    calls = {
        "product": lambda: plain(dy, x, dw),
        "product with BGRADB": lambda: fused(dy, x, dw),
        "sum(axis=0)": lambda: dy.sum(axis=0),
    }
    times = timed(calls, 10)
    return times, {"error": error_of(db, values[1].sum(axis=0, dtype=np.float64))}


def pointwise_bandwidth() -> tuple:
    """-x over 256 MiB."""
    x = (cp.arange(sized(1 << 27, 1 << 20), dtype=np.float32) % 251).astype(dtype("bfloat16"))
    y, z = cp.empty_like(x), cp.empty_like(x)
    xf, yf, negate = x.view(np.float32), y.view(np.float32), kernel("negate_bfloat16")
    element = cp.ElementwiseKernel(
        "T x", "T y", "y = static_cast<T>(-static_cast<float>(x))", "gpu_facts_negate"
    )
    calls = {
        "ElementwiseKernel": lambda: element(x, y),
        "ufunc": lambda: cp.negative(x, out=y),
        "ElementwiseKernel float32": lambda: element(xf, yf),
        "ufunc float32": lambda: cp.negative(xf, out=yf),
        "16-byte RawKernel": lambda: negate((x.size // 8 // 256,), (256,), (x, z)),
        "device copy": lambda: y.data.copy_from_device_async(x.data, x.nbytes),
    }
    times = timed(calls, 10, dict.fromkeys(calls, 2 * x.nbytes))
    return times, {"RawKernel equals ElementwiseKernel": bool((bits(element(x)) == bits(z)).all())}


# ---- point 5: CuPy's own matmul
def cupy_matmul(name: str, batched: bool) -> tuple:
    n = sized(512 if batched else 2048, 64)
    shape = (16, n, n) if batched else (n, n)
    a, a64 = random(shape, name)
    b, b64 = random(shape, name, seed=1)
    a32, b32 = a.astype(np.float32), b.astype(np.float32)
    out = attempt(cp.matmul, a, b)
    if isinstance(out, str):
        return "error", out
    calls = {
        name: lambda: cp.matmul(a, b),
        "float32": lambda: cp.matmul(a32, b32),
        f"{name}, b transposed": lambda: cp.matmul(a, b.swapaxes(-1, -2)),
    }
    times = timed(calls, 10)
    return {"dtype": out.dtype.name, "error": error_of(out, a64 @ b64), **times}, {"shape": shape}


# ---- point 6: random numbers in a graph
PUBLISHED = (  # (counter, key, numbers): known answers published with Random123
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)))


def philox(key: int = 7, high: int = 0, low: int = 0) -> Callable:
    """A generator of 4096 numbers per call; a kernel advances its counter on the device."""
    state = cp.asarray(np.array([key, high, low], np.uint64))

    def draw() -> Any:
        out = cp.empty((1024, 4), np.uint32)
        kernel("philox")((4,), (256,), (state, out))
        kernel("advance")((1,), (1,), (state,))
        return out

    return draw


def generator() -> Callable:
    source = cp.random.default_rng(7)
    return lambda: source.random(4096, dtype=np.float32)


def philox_published() -> tuple:
    right = []
    for (a, b, c, d), (k, l), numbers in PUBLISHED:
        draw = philox(k | l << 32, c | d << 32, a | b << 32)
        right.append(tuple(draw()[0].get().tolist()) == numbers)
    return all(right), right


def draws_in_graph(source: Callable[[], Callable]) -> tuple:
    """Detail: do the replays continue after the two eager runs before the capture?"""
    draw, eager_draw = source(), source()
    recorded = Recorded(lambda: [draw()])
    drawn = []
    for _ in range(3):
        recorded.launch()
        drawn.append(recorded.outputs[0].get())
    eager = [eager_draw().get() for _ in range(5)][2:]
    all_differ = len({x.tobytes() for x in drawn}) == 3
    equal = [np.array_equal(x, y) for x, y in zip(drawn, eager, strict=True)]
    return all_differ, {"equal to eager draws": equal}


# ---- point 9: sorting, gathering and scattering in a graph
def scattered(xp: Any, x: Any, i: Any) -> Any:
    total = xp.zeros_like(x)
    xp.add.at(total, i[:, 0], x)
    return total


MOVES = {
    "sort": lambda xp, x, i: xp.sort(x, axis=-1),
    "argsort": lambda xp, x, i: xp.argsort(x, axis=-1),
    "take_along_axis": lambda xp, x, i: xp.take_along_axis(x, i, axis=-1),
    "add.at": scattered,
}


def move_in_graph(name: str) -> tuple:
    """Can it be captured, and are replays on new data right?

    The data are integers, so the order of sums does not matter.
    """
    move = MOVES[name]
    rng = np.random.default_rng(0)
    rows = np.tile(np.arange(1000, dtype=np.float32), (64, 1))
    data = lambda: (rng.permuted(rows, axis=1), rng.integers(0, 64, rows.shape))
    x, i = (cp.asarray(values) for values in data())
    recorded = Recorded(lambda: [move(cp, x, i)])
    right = []
    for _ in range(3):
        new_x, new_i = data()
        x[...] = cp.asarray(new_x)
        i[...] = cp.asarray(new_i)
        recorded.launch()
        right.append(np.array_equal(recorded.outputs[0].get(), move(np, new_x, new_i)))
    return all(right), {"replays right": right}


# ---- the questions
DEVICE = Question(0, "device", device_facts)
QUESTIONS = [
    Question(0, "dtypes promote as in NumPy", promotion, (PROMOTIONS,)),
    Question(0, "bfloat16 promotes as in NumPy", promotion, (BFLOAT16,)),
    *(Question(1, f"cuBLASLt, {name}", gemm_cases, (name,), "cuBLASLt") for name in PRECISIONS),
    Question(1, "cuBLASLt's heuristics work during capture", gemm_planned_in_capture,
             needs="cuBLASLt"),
    *(
        Question(1, f"cuBLASLt epilogue {name}", gemm_epilogue, (name,), "cuBLASLt")
        for name in EPILOGUES
        if name != "DEFAULT"
    ),
    Question(2, "a graph with its own pool and other arrays stay right", lifetime, (True,)),
    Question(2, "a graph with the default pool and other arrays stay right", lifetime, (False,)),
    Question(3, "time per call", host_cost, (False,)),
    Question(3, "time per call, with PyTorch", host_cost, (True,), "PyTorch"),
    Question(3, "time per graph launch", graph_launch),
    Question(4, "sum over axis 0 of (65536, 1024) float32", column_sums),
    *(
        Question(4, f"BGRADB in a weight gradient, {name}", bias_gradient, (name,), "cuBLASLt")
        for name in ("tf32", "bfloat16")
    ),
    Question(4, "bandwidth of a pointwise kernel, bfloat16", pointwise_bandwidth),
    *(
        Question(5, f"cupy.matmul {name}, {shape}", cupy_matmul, (name, shape == "batched"))
        for shape in ("2-D", "batched")
        for name in ("float16", "bfloat16")
    ),
    Question(6, "our Philox kernel gives the published numbers", philox_published),
    Question(6, "our Philox kernel gives new numbers at each replay", draws_in_graph, (philox,)),
    Question(6, "Generator.random gives new numbers at each replay", draws_in_graph, (generator,),
             "cuRAND"),
    *(Question(9, f"{name} in a graph", move_in_graph, (name,)) for name in MOVES),
]
PACKAGES = (
    "numpy",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "torch",
    "ml_dtypes",
    "nvidia-cublas",
    "nvidia-cuda-nvrtc",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how a GPU behaves; print JSON.")
    parser.add_argument("--out", help="file for the answers with their details")
    parser.add_argument("--quick", action="store_true", help="small sizes, few repetitions")
    given = parser.parse_args()
    out = given.out
    probe, = run_all([DEVICE], limit=90)
    versions = {name: attempt(importlib.metadata.version, name) for name in PACKAGES}
    facts = {
        "device": probe.get("answer"),
        "about": probe.get("detail"),
        "python": sys.version,
        "versions": versions,
    }

    def save(answers: list[dict]) -> None:
        print(f"{answers[-1]['seconds']:6.1f} s  {answers[-1]['question']}", file=sys.stderr)
        if out:
            with open(out, "w") as file:
                json.dump(facts | {"answers": answers}, file, indent=1)

    if facts["device"] is None:
        answers = [
            {
                "point": question.point,
                "question": question.text,
                "error": f"no device: {probe['error']}",
                "kind": "no device",
                "seconds": 0.0,
            }
            for question in QUESTIONS
        ]
        save(answers)
    else:
        small = given.quick or "hostcuda" in facts["device"]
        answers = run_all(
            QUESTIONS, limit=45, budget=280 - probe["seconds"], report=save, small=small
        )
    brief = [
        json.dumps({key: value for key, value in answer.items() if key != "detail"})
        for answer in answers
    ]
    print(json.dumps(facts)[:-1] + ', "answers": [\n' + ",\n".join(brief) + "\n]}")


if __name__ == "__main__":
    main()

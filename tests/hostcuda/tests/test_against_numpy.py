"""CuPy's values compared with NumPy's in about 1400 calls, and user kernels."""

import warnings

import cupy as cp
import ml_dtypes
import numpy as np
import pytest
from numpy_calls import BF16, CALLS, data

pytestmark = pytest.mark.gpu

# Known differences between CuPy 14.2 and NumPy 2 with ml_dtypes' bfloat16, on any device.
NOT_BFLOAT16 = "dtype float32, not bfloat16"  # CuPy has no bfloat16 version
NOT_FLOAT32 = "dtype bfloat16, not float32"   # NumPy returns float32, as ml_dtypes defines
NO_TYPE_CODE = "TypeError: data type 'E' not understood"  # CuPy's cuBLAS asks NumPy for the dtype
DIFFERENCES = {
    "where bfloat16": NOT_BFLOAT16,
    "where broadcast bfloat16": NOT_BFLOAT16,
    "tril bfloat16": NOT_BFLOAT16,
    "matmul 2-D bfloat16": NOT_FLOAT32,
    "matmul 2-D transposed bfloat16": NOT_FLOAT32,
    "matmul 2-D sliced bfloat16": NOT_FLOAT32,
    "matvec bfloat16": NOT_FLOAT32,
    "matmul 3-D bfloat16": NO_TYPE_CODE,
    "matmul 3-D transposed bfloat16": NO_TYPE_CODE,
    "matmul 3-D x 2-D bfloat16": NO_TYPE_CODE,
    "matmul 2-D x 3-D bfloat16": NO_TYPE_CODE,
    "scatter_add bfloat16": "TypeError: cupy.add.at only supports int32, int64, float16, float32, "
                            "float64, uint32, uint64 as data type",
    # NumPy keeps NaN in ml_dtypes' types, and sums in bfloat16, where 256 + 1 is 256.
    "nan_to_num bfloat16": "114 of 231 differ, first 0.0, not nan",
    "sum of 4096 ones, bfloat16": "1 of 1 differ, first 4096.0, not 256.0",
}


def precision(*dtypes):
    """The largest machine epsilon of the dtypes."""
    info = lambda t: ml_dtypes.finfo(t) if t == BF16 else np.finfo(t)
    return max(float(info(t).eps) for t in dtypes if t.kind in "fcV")


def compare(got, want, dtypes):
    """A description of the difference, or None."""
    if got.shape != want.shape:
        return f"shape {got.shape}, not {want.shape}"
    if got.dtype.kind in "biu" and want.dtype.kind in "biu":
        far = got != want
    else:
        wide = "c16" if "c" in (got.dtype.kind, want.dtype.kind) else "f8"
        x, y = got.astype(wide), want.astype(wide)
        eps = 24 * precision(got.dtype, want.dtype, *dtypes)
        largest = np.max(np.abs(y), where=np.isfinite(y), initial=0)
        far = ~np.isclose(x, y, rtol=eps, atol=eps * max(1.0, largest**0.5), equal_nan=True)
    if far.any():
        first = np.argmax(far.ravel())
        return (f"{far.sum()} of {far.size} differ, first {got.ravel()[first]}, "
                f"not {want.ravel()[first]}")
    return None if got.dtype == want.dtype else f"dtype {got.dtype}, not {want.dtype}"


def difference(name):
    f, arrays = CALLS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of NaN and division by zero
        want = np.asarray(f(np, *arrays))
        try:
            got = cp.asnumpy(f(cp, *(cp.asarray(a) for a in arrays)))
        except TypeError as error:
            return f"TypeError: {error}"
        return compare(got, want, [a.dtype for a in arrays])


@pytest.mark.parametrize("name", CALLS)
def test_a_call_agrees_with_numpy(name):
    assert difference(name) == DIFFERENCES.get(name)


def test_every_known_difference_has_a_call():
    assert DIFFERENCES.keys() <= CALLS.keys()


# ---- user kernels

BLOCK_SUM = r"""
extern "C" __global__ void block_sum(const float* x, float* y, int n) {
  __shared__ float part[256];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  part[threadIdx.x] = i < n ? x[i] : 0;
  __syncthreads();
  for (int s = blockDim.x / 2; s > 0; s /= 2) {
    if (threadIdx.x < s) part[threadIdx.x] += part[threadIdx.x + s];
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(y, part[0]);
}"""
WARP_SUM = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>
template <class T> __global__ void warp_sum(const T* x, float* y) {
  extern __shared__ float part[];
  float v = (float)x[blockIdx.x * blockDim.x + threadIdx.x];
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffff, v, d);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    v = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.f;
    for (int d = 16; d; d >>= 1) v += __shfl_down_sync(0xffffffff, v, d);
    if (threadIdx.x == 0) y[blockIdx.x] = v;
  }
}"""


def test_a_raw_kernel_with_shared_memory():
    x = data("float32", 1000)
    y = cp.zeros((), "f4")
    cp.RawKernel(BLOCK_SUM, "block_sum")((4,), (256,), (cp.asarray(x), y, np.int32(x.size)))
    assert np.isclose(float(y), x.sum(dtype="f8"), rtol=1e-6)


@pytest.mark.parametrize(("dtype", "of"), [("float32", "float"), ("float16", "__half"),
                                       (BF16, "__nv_bfloat16")])
def test_a_raw_module_with_templates_and_shuffles(dtype, of):
    x, y = data(dtype, 1024), cp.zeros(4, "f4")
    names = ["warp_sum<float>", "warp_sum<__half>", "warp_sum<__nv_bfloat16>"]
    module = cp.RawModule(code=WARP_SUM, name_expressions=names)
    kernel = module.get_function(f"warp_sum<{of}>")
    kernel((4,), (256,), (cp.asarray(x), y), shared_mem=32)
    assert np.allclose(y.get(), x.astype("f8").reshape(4, 256).sum(1), rtol=1e-5)


WARP_VOTES = r"""
extern "C" __global__ void votes(unsigned* out) {
  int i = threadIdx.x;
  unsigned ballot = __ballot_sync(0xffffffff, i % 3 == 0);
  unsigned most = __reduce_max_sync(0xffffffff, (i * 7) % 32);
  unsigned sum = __reduce_add_sync(0xffffffff, i);
  int any = __any_sync(0xffffffff, i == 5), all = __all_sync(0xffffffff, i < 31);
  int up = __shfl_up_sync(0xffffffff, i, 2), from = __shfl_sync(0xffffffff, i, 9);
  int threes = __syncthreads_count(i % 3 == 0);
  if (i == 20) {
    unsigned values[] = {ballot, most, sum, (unsigned)any, (unsigned)all, (unsigned)up,
                         (unsigned)from, (unsigned)threes};
    for (int k = 0; k < 8; k++) out[k] = values[k];
  }
}"""


def test_votes_and_reductions_of_a_warp():
    out = cp.zeros(8, "u4")
    cp.RawKernel(WARP_VOTES, "votes")((1,), (32,), (out,))
    ballot = sum(1 << i for i in range(0, 32, 3))
    assert out.get().tolist() == [ballot, 31, sum(range(32)), 1, 0, 18, 9, 11]


ATOMICS = r"""
extern "C" __global__ void atomics(int* x, float* f, unsigned* wrapped) {
  int i = threadIdx.x;
  atomicAdd(x, i);
  atomicMax(x + 1, i);
  atomicMin(x + 2, -i);
  atomicXor(x + 3, 1 << i % 8);
  atomicCAS(x + 4, 0, 7);
  atomicSub(x + 5, 2);
  atomicAdd(f, 0.5f);
  atomicInc(wrapped, 9);
  atomicDec(wrapped + 1, 9);
}"""


def test_atomics():
    x, f, wrapped = cp.zeros(6, "i4"), cp.zeros(1, "f4"), cp.zeros(2, "u4")
    cp.RawKernel(ATOMICS, "atomics")((1,), (64,), (x, f, wrapped))
    assert x.get().tolist() == [2016, 63, -63, 0, 7, -128]
    assert f.get().tolist() == [32.0]
    assert wrapped.get().tolist() == [64 % 10, 6]


def test_an_elementwise_kernel():
    a, b = data("float32", 9, 1), data("float32", 5)
    f = cp.ElementwiseKernel("T x, T y", "T z", "z = x * y + (x > y ? x : y)", "hc_fused")
    assert np.allclose(f(cp.asarray(a), cp.asarray(b)).get(), a * b + np.maximum(a, b))


def test_a_reduction_kernel():
    a = data("float32", 9, 50)
    f = cp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = sqrt(a)", "0", "hc_norm")
    assert np.allclose(f(cp.asarray(a), axis=1).get(), np.sqrt((a * a).sum(1)))


@cp.fuse()
def gelu_like(x):
    return cp.tanh(x * 0.8 + x * x * x * 0.03) * x


def test_a_fused_function():
    a = data("float32", 9, 5)
    want = np.tanh(a * np.float32(0.8) + a * a * a * np.float32(0.03)) * a
    assert np.allclose(gelu_like(cp.asarray(a)).get(), want, rtol=1e-5)

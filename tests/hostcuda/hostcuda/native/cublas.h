// Shared declarations of libcublas.  Matrices are column-major.
#pragma once
#include "hostcuda.h"
#include <complex>

using I = int64_t;
using C = std::complex<float>;
using Z = std::complex<double>;

enum Status {
  OK = 0,
  NOT_INITIALIZED = 1,
  ALLOC_FAILED = 3,
  INVALID_VALUE = 7,
  ARCH_MISMATCH = 8,
  MAPPING_ERROR = 11,
  EXECUTION_FAILED = 13,
  INTERNAL_ERROR = 14,
  NOT_SUPPORTED = 15,
};
enum Transpose { PLAIN, TRANSPOSED, CONJUGATED };

struct Handle {
  void* stream = nullptr;
  bool device_scalars = false;  // cublasPointerMode_t
  int math = 0;
};

inline int submit(Handle* h, const char* name, std::vector<const void*> pointers, Op op) {
  return hc_submit(h->stream, name, std::move(op), std::move(pointers)) ? EXECUTION_FAILED : OK;
}
// For a result in device memory, or in host memory; then it waits.
inline int submit_result(Handle* h, const char* name, std::vector<const void*> pointers, Op op) {
  int status = submit(h, name, std::move(pointers), std::move(op));
  if (status || h->device_scalars) return status;
  return hc_wait(h->stream) ? EXECUTION_FAILED : OK;
}

// A scalar argument: in host memory it is read now, in device memory when the work runs.
template <class T> struct Scalar {
  T value{};
  const T* there = nullptr;
  Scalar(Handle* h, const void* p) {
    if (h->device_scalars) there = (const T*)p;
    else value = *(const T*)p;
  }
  T operator()() const { return there ? *there : value; }
};

inline float conjugate(float x) { return x; }
inline double conjugate(double x) { return x; }
inline int conjugate(int x) { return x; }
template <class T> std::complex<T> conjugate(std::complex<T> x) { return std::conj(x); }

// Element (i, j) of op(a).
template <class T> T at(const T* a, int op, I i, I j, I ld) {
  if (op == PLAIN) return a[i + j * ld];
  return op == TRANSPOSED ? a[j + i * ld] : conjugate(a[j + i * ld]);
}

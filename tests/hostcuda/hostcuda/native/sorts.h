// The dtype numbers of CuPy's thrust and cub modules, and NumPy's sort order.
#pragma once
#include "hostcuda.h"
#include <cmath>
#include <complex>
#include <cstdio>
#include <cstdlib>
#include <type_traits>

struct Half {
  uint16_t bits;
  Half() = default;
  Half(float f) : bits(hc_float_to_half(f)) {}
  operator float() const { return hc_half_to_float(bits); }
};

// Calls f with a value of the type; the numbers are those of cupy/type_dispatcher.cuh.
template <class F> void dispatch(int dtype, F f) {
  switch (dtype) {
    case 0: return f(int8_t());
    case 1: return f(uint8_t());
    case 2: return f(int16_t());
    case 3: return f(uint16_t());
    case 4: return f(int32_t());
    case 5: return f(uint32_t());
    case 6: return f(int64_t());
    case 7: return f(uint64_t());
    case 8: return f(Half());
    case 9: return f(float());
    case 10: return f(double());
    case 11: return f(std::complex<float>());
    case 12: return f(std::complex<double>());
    case 13: return f(bool());
  }
  fprintf(stderr, "hostcuda: thrust or cub with dtype %d\n", dtype);
  abort();
}

template <class T> bool is_nan(const T&) { return false; }
inline bool is_nan(float v) { return std::isnan(v); }
inline bool is_nan(double v) { return std::isnan(v); }
inline bool is_nan(const Half& v) { return std::isnan((float)v); }
template <class T> bool is_nan(const std::complex<T>& v) { return std::isnan(v.real()) || std::isnan(v.imag()); }

// NaN is last; complex numbers are ordered by the real part, then the imaginary part.
template <class T> bool less(const T& a, const T& b) {
  if constexpr (std::is_same_v<T, Half>) return less((float)a, (float)b);
  else return is_nan(b) ? !is_nan(a) : a < b;
}
template <class T> bool less(const std::complex<T>& a, const std::complex<T>& b) {
  auto rank = [](const std::complex<T>& z) { return 2 * std::isnan(z.real()) + std::isnan(z.imag()); };
  int p = rank(a), q = rank(b);
  if (p != q) return p < q;
  bool real_counts = p < 2, imaginary_counts = p == 0 || p == 2;
  if (real_counts && a.real() != b.real()) return a.real() < b.real();
  return imaginary_counts && a.imag() < b.imag();
}

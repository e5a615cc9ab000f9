// Functions that CuPy's thrust module wraps: sorts, all of them stable.
#include "sorts.h"
#include <algorithm>
#include <numeric>

static size_t product(const std::vector<ptrdiff_t>& shape) {
  size_t n = 1;
  for (auto extent : shape) n *= extent;
  return n;
}

// Sorts along the last axis.
API void hc_thrust_sort(int dtype, void* data, size_t*, const std::vector<ptrdiff_t>& shape, intptr_t stream, void*) {
  size_t size = product(shape), row = shape.back();
  hc_submit((void*)stream, "{sort}", [=] {
    dispatch(dtype, [&](auto zero) {
      using T = decltype(zero);
      T* p = (T*)data;
      for (size_t i = 0; i < size; i += row)
        std::stable_sort(p + i, p + i + row, [](const T& a, const T& b) { return less(a, b); });
    });
  }, {data});
}
API void hc_thrust_argsort(int dtype, size_t* index, void* data, void*, const std::vector<ptrdiff_t>& shape,
                           intptr_t stream, void*) {
  size_t size = product(shape), row = shape.back();
  hc_submit((void*)stream, "{argsort}", [=] {
    dispatch(dtype, [&](auto zero) {
      using T = decltype(zero);
      T* p = (T*)data;
      std::vector<T> sorted(row);
      for (size_t i = 0; i < size; i += row) {
        size_t* to = index + i;
        std::iota(to, to + row, (size_t)0);
        std::stable_sort(to, to + row, [&](size_t a, size_t b) { return less(p[i + a], p[i + b]); });
        for (size_t j = 0; j < row; j++) sorted[j] = p[i + to[j]];
        std::copy(sorted.begin(), sorted.end(), p + i);  // Thrust also sorts the keys
      }
    });
  }, {index, data});
}
// The last of k keys of length n is the primary one.
API void hc_thrust_lexsort(int dtype, size_t* index, void* keys, size_t k, size_t n, intptr_t stream, void*) {
  hc_submit((void*)stream, "{lexsort}", [=] {
    dispatch(dtype, [&](auto zero) {
      using T = decltype(zero);
      std::iota(index, index + n, (size_t)0);
      for (size_t i = 0; i < k; i++) {
        const T* key = (const T*)keys + i * n;
        std::stable_sort(index, index + n, [&](size_t a, size_t b) { return less(key[a], key[b]); });
      }
    });
  }, {index, keys});
}

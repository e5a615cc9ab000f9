// Functions that CuPy's cub module wraps: reductions, scans and histograms.  Sums are pairwise; a GPU uses another
// order.  Each function is first called without a workspace, and then returns the size of the workspace.
#include "sorts.h"
#include <algorithm>

constexpr size_t WORKSPACE = 1;  // CuPy allocates nothing for 0
enum Operation { SUM, MIN, MAX, ARGMIN, ARGMAX, CUMSUM, CUMPROD, PROD };

// The type of sums: half precision is summed in float and rounded once.
template <class T> struct Wide {
  using type = T;
};
template <> struct Wide<Half> {
  using type = float;
};

template <class T> static T sum(const T* x, size_t n) {
  using W = typename Wide<T>::type;
  constexpr size_t IN_ORDER = 64;
  if (n > IN_ORDER) {
    size_t half = n / 2;
    T left = sum(x, half), right = sum(x + half, n - half);
    if constexpr (std::is_same_v<T, bool>) return left | right;
    else return (T)((W)left + (W)right);
  }
  W s = (W)0;
  for (size_t i = 0; i < n; i++) s = (W)(s + (W)x[i]);
  return (T)s;
}
template <class T> static T prod(const T* x, size_t n) {
  using W = typename Wide<T>::type;
  W s = (W)1;
  for (size_t i = 0; i < n; i++) s = (W)(s * (W)x[i]);
  return (T)s;
}
// The index of the first minimum or maximum, or of the first NaN.
template <class T> static size_t extreme(const T* x, size_t n, bool minimum) {
  size_t best = 0;
  for (size_t i = 1; i < n && !is_nan(x[best]); i++) {
    bool better = minimum ? less(x[i], x[best]) : less(x[best], x[i]);
    if (is_nan(x[i]) || better) best = i;
  }
  return best;
}
template <class T> static T reduce(const T* x, size_t n, int op) {
  if (op == SUM) return sum(x, n);
  if (op == PROD) return prod(x, n);
  return x[extreme(x, n, op == MIN)];
}

template <class T> struct KeyValuePair {  // as in cub
  int key;
  T value;
};

API void hc_cub_device_reduce(void* work, size_t& size, void* x, void* y, int n, void* stream, int op, int dtype) {
  if (!work) {
    size = WORKSPACE;
    return;
  }
  hc_submit(stream, "{cub reduce}", [=] {
    dispatch(dtype, [&](auto zero) {
      using T = decltype(zero);
      const T* p = (const T*)x;
      if (op != ARGMIN && op != ARGMAX) {
        *(T*)y = reduce(p, n, op);
        return;
      }
      size_t best = extreme(p, n, op == ARGMIN);
      *(KeyValuePair<T>*)y = {(int)best, p[best]};
    });
  }, {x, y});
}
API void hc_cub_device_segmented_reduce(void* work, size_t& size, void* x, void* y, int segments, int length,
                                        void* stream, int op, int dtype) {
  if (!work) {
    size = WORKSPACE;
    return;
  }
  hc_submit(stream, "{cub segmented reduce}", [=] {
    dispatch(dtype, [&](auto zero) {
      using T = decltype(zero);
      for (int i = 0; i < segments; i++) ((T*)y)[i] = reduce((const T*)x + (size_t)i * length, length, op);
    });
  }, {x, y});
}
API void hc_cub_device_scan(void* work, size_t& size, void* x, void* y, int n, void* stream, int op, int dtype) {
  if (!work) {
    size = WORKSPACE;
    return;
  }
  hc_submit(stream, "{cub scan}", [=] {
    dispatch(dtype, [&](auto zero) {
      using T = decltype(zero);
      using W = typename Wide<T>::type;
      const T* p = (const T*)x;
      T* q = (T*)y;
      if (!n) return;
      W s = (W)p[0];
      q[0] = (T)s;
      for (int i = 1; i < n; i++) {
        s = (W)(op == CUMSUM ? s + (W)p[i] : s * (W)p[i]);
        q[i] = (T)s;
      }
    });
  }, {x, y});
}

// ---- histograms of real numbers; `levels` is the number of bins plus one

template <class F> static void dispatch_real(int dtype, F f) {
  dispatch(dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (!std::is_same_v<T, std::complex<float>> && !std::is_same_v<T, std::complex<double>>) f(zero);
  });
}
API void hc_cub_histogram_range(void* work, size_t& size, void* x, void* y, int levels, void* bins, size_t n,
                                void* stream, int dtype) {
  if (!work) {
    size = WORKSPACE;
    return;
  }
  hc_submit(stream, "{cub histogram}", [=] {
    dispatch_real(dtype, [&](auto zero) {
      using T = decltype(zero);
      using B = std::conditional_t<std::is_integral_v<T>, double, T>;
      auto* counts = (long long*)y;
      const B* edges = (const B*)bins;
      const T* p = (const T*)x;
      std::fill(counts, counts + levels - 1, 0);
      for (size_t i = 0; i < n; i++) {
        auto* above = std::upper_bound(edges, edges + levels, (B)p[i], [](const B& a, const B& b) { return a < b; });
        if (above != edges && above != edges + levels) counts[above - edges - 1]++;
      }
    });
  }, {x, y, bins});
}
API void hc_cub_histogram_even(void* work, size_t& size, void* x, void* y, int levels, int low, int high, size_t n,
                               void* stream, int dtype) {
  if (!work) {
    size = WORKSPACE;
    return;
  }
  hc_submit(stream, "{cub histogram}", [=] {
    dispatch_real(dtype, [&](auto zero) {
      using T = decltype(zero);
      auto* counts = (long long*)y;
      const T* p = (const T*)x;
      std::fill(counts, counts + levels - 1, 0);
      double range = (double)high - low;
      for (size_t i = 0; i < n; i++) {
        if (!(p[i] >= (T)low && p[i] < (T)high)) continue;  // NaN is in no bin
        auto bin = (long long)(((double)p[i] - low) * (levels - 1) / range);
        counts[bin]++;
      }
    });
  }, {x, y});
}

API size_t hc_cub_device_reduce_workspace(void*, void*, int, void*, int, int) { return WORKSPACE; }
API size_t hc_cub_device_segmented_reduce_workspace(void*, void*, int, int, void*, int, int) { return WORKSPACE; }
API size_t hc_cub_device_scan_workspace(void*, void*, int, void*, int, int) { return WORKSPACE; }
API size_t hc_cub_histogram_range_workspace(void*, void*, int, void*, size_t, void*, int) { return WORKSPACE; }
API size_t hc_cub_histogram_even_workspace(void*, void*, int, int, int, size_t, void*, int) { return WORKSPACE; }

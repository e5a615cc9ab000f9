// cuBLAS: vectors, matrix-vector products, and other matrix functions, all by plain loops.
#include "cublas.h"
#include <cmath>

// The first element of a vector whose increment may be negative.
template <class T> static T* start(T* x, I n, I increment) { return increment < 0 ? x - (n - 1) * increment : x; }

// beta * y; if beta is 0, y may be uninitialized.
template <class T> static T scaled(T beta, T y) { return beta == T(0) ? T(0) : beta * y; }

// ---- a matrix and a vector

template <class T>
static int gemv(Handle* h, const char* name, int t, int m, int n, const T* alpha, const T* a, int lda, const T* x,
                int ix, const T* beta, T* y, int iy) {
  Scalar<T> al(h, alpha), be(h, beta);
  return submit(h, name, {a, x, y}, [=] {
    int rows = t ? n : m, columns = t ? m : n;
    const T* p = start(x, columns, ix);
    T* q = start(y, rows, iy);
    for (I i = 0; i < rows; i++) {
      T sum = T(0);
      for (I j = 0; j < columns; j++) sum += at(a, t, i, j, lda) * p[j * ix];
      q[i * iy] = al() * sum + scaled(be(), q[i * iy]);
    }
  });
}
template <class T, class F>
static int ger(Handle* h, int m, int n, const T* alpha, const T* x, int ix, const T* y, int iy, T* a, int lda, F of_y) {
  Scalar<T> al(h, alpha);
  return submit(h, "<ger>", {x, y, a}, [=] {
    const T *p = start(x, m, ix), *q = start(y, n, iy);
    for (I j = 0; j < n; j++)
      for (I i = 0; i < m; i++) a[i + j * lda] += al() * p[i * ix] * of_y(q[j * iy]);
  });
}
template <class T>
static int dgmm(Handle* h, const char* name, int right, int m, int n, const T* a, int lda, const T* x, int ix, T* c,
                int ldc) {
  return submit(h, name, {a, x, c}, [=] {
    const T* p = start(x, right ? n : m, ix);
    for (I j = 0; j < n; j++)
      for (I i = 0; i < m; i++) c[i + j * ldc] = a[i + j * lda] * p[(right ? j : i) * ix];
  });
}

// ---- matrices

template <class T>
static int geam(Handle* h, const char* name, int ta, int tb, int m, int n, const T* alpha, const T* a, int lda,
                const T* beta, const T* b, int ldb, T* c, int ldc) {
  Scalar<T> al(h, alpha), be(h, beta);
  return submit(h, name, {a, b, c}, [=] {
    T f = al(), g = be();
    std::vector<T> sum((I)m * n);  // c may be a or b
    for (I j = 0; j < n; j++)
      for (I i = 0; i < m; i++) {
        T left = f == T(0) ? T(0) : f * at(a, ta, i, j, lda);
        T right = g == T(0) ? T(0) : g * at(b, tb, i, j, ldb);
        sum[i + j * m] = left + right;
      }
    for (I j = 0; j < n; j++)
      for (I i = 0; i < m; i++) c[i + j * ldc] = sum[i + j * m];
  });
}
template <class T>
static int syrk(Handle* h, const char* name, int upper, int t, int n, int k, const T* alpha, const T* a, int lda,
                const T* beta, T* c, int ldc) {
  Scalar<T> al(h, alpha), be(h, beta);
  return submit(h, name, {a, c}, [=] {
    for (I j = 0; j < n; j++)
      for (I i = upper ? 0 : j; i < (upper ? j + 1 : n); i++) {
        T sum = T(0);
        for (I l = 0; l < k; l++) sum += at(a, t, i, l, lda) * at(a, t, j, l, lda);
        c[i + j * ldc] = al() * sum + scaled(be(), c[i + j * ldc]);
      }
  });
}

// Substitution by rows; from the right it is the same for the transposed matrices.
template <class T>
static int trsm(Handle* h, const char* name, int right, int upper, int t, int unit, int m, int n, const T* alpha,
                const T* a, int lda, T* b, int ldb) {
  Scalar<T> al(h, alpha);
  return submit(h, name, {a, b}, [=] {
    I size = right ? n : m, others = right ? m : n;
    bool lower = (upper == 0) != (t != 0);
    if (right) lower = !lower;
    auto matrix = [&](I i, I j) { return right ? at(a, t, j, i, lda) : at(a, t, i, j, lda); };
    auto solution = [&](I i, I j) -> T& { return right ? b[j + i * ldb] : b[i + j * ldb]; };
    for (I j = 0; j < others; j++)
      for (I step = 0; step < size; step++) {
        I i = lower ? step : size - 1 - step;
        T value = al() * solution(i, j);
        for (I l = lower ? 0 : i + 1; l < (lower ? i : size); l++) value -= matrix(i, l) * solution(l, j);
        solution(i, j) = unit ? value : value / matrix(i, i);
      }
  });
}

// ---- vectors

template <class T>
static int axpy(Handle* h, const char* name, int n, const T* alpha, const T* x, int ix, T* y, int iy) {
  Scalar<T> al(h, alpha);
  return submit(h, name, {x, y}, [=] {
    const T* p = start(x, n, ix);
    T* q = start(y, n, iy);
    for (I i = 0; i < n; i++) q[i * iy] += al() * p[i * ix];
  });
}
template <class S, class T> static int scal(Handle* h, const char* name, int n, const S* alpha, T* x, int ix) {
  Scalar<S> al(h, alpha);
  return submit(h, name, {x}, [=] {
    for (I i = 0; i < n; i++) x[i * ix] *= al();
  });
}
// The sum is computed in W.
template <class W, class T, class F>
static int dot(Handle* h, int n, const T* x, int ix, const T* y, int iy, T* result, F of_x) {
  return submit_result(h, "<dot>", {x, y, result}, [=] {
    const T *p = start(x, n, ix), *q = start(y, n, iy);
    W sum = W(0);
    for (I i = 0; i < n; i++) sum += (W)of_x(p[i * ix]) * (W)q[i * iy];
    *result = (T)sum;
  });
}

template <class T> static double size_of(T x) { return std::abs(std::real(x)) + std::abs(std::imag(x)); }
template <class T, class R> static int nrm2(Handle* h, int n, const T* x, int ix, R* result) {
  return submit_result(h, "<nrm2>", {x, result}, [=] {
    double sum = 0;
    for (I i = 0; i < n; i++) sum += std::norm(x[i * ix]);
    *result = (R)std::sqrt(sum);
  });
}
template <class T, class R> static int asum(Handle* h, int n, const T* x, int ix, R* result) {
  return submit_result(h, "<asum>", {x, result}, [=] {
    double sum = 0;
    for (I i = 0; i < n; i++) sum += size_of(x[i * ix]);
    *result = (R)sum;
  });
}
// The first index, from 1, of the largest (sign 1) or smallest (sign -1) absolute value; 0 if n is 0.
template <class T>
static int extreme(Handle* h, const char* name, double sign, int n, const T* x, int ix, int* result) {
  return submit_result(h, name, {x, result}, [=] {
    int best = 0;
    double most = -INFINITY;
    for (I i = 0; i < n; i++) {
      double size = sign * size_of(x[i * ix]);
      if (!(size > most)) continue;  // also skips NaN
      most = size;
      best = i + 1;
    }
    *result = best;
  });
}

// ---- the names

#define FOR_TYPE(L, T)                                                                                               \
  API int cublas##L##gemv_v2(Handle* h, int t, int m, int n, const T* alpha, const T* a, int lda, const T* x,        \
                             int ix, const T* beta, T* y, int iy) {                                                  \
    return gemv(h, "<gemv " #L ">", t, m, n, alpha, a, lda, x, ix, beta, y, iy);                                     \
  }                                                                                                                  \
  API int cublas##L##dgmm(Handle* h, int right, int m, int n, const T* a, int lda, const T* x, int ix, T* c,         \
                          int ldc) {                                                                                 \
    return dgmm(h, "<dgmm " #L ">", right, m, n, a, lda, x, ix, c, ldc);                                             \
  }                                                                                                                  \
  API int cublas##L##geam(Handle* h, int ta, int tb, int m, int n, const T* alpha, const T* a, int lda,              \
                          const T* beta, const T* b, int ldb, T* c, int ldc) {                                       \
    return geam(h, "<geam " #L ">", ta, tb, m, n, alpha, a, lda, beta, b, ldb, c, ldc);                              \
  }                                                                                                                  \
  API int cublas##L##syrk_v2(Handle* h, int upper, int t, int n, int k, const T* alpha, const T* a, int lda,         \
                             const T* beta, T* c, int ldc) {                                                         \
    return syrk(h, "<syrk " #L ">", upper, t, n, k, alpha, a, lda, beta, c, ldc);                                    \
  }                                                                                                                  \
  API int cublas##L##trsm_v2(Handle* h, int right, int upper, int t, int unit, int m, int n, const T* alpha,         \
                             const T* a, int lda, T* b, int ldb) {                                                   \
    return trsm(h, "<trsm " #L ">", right, upper, t, unit, m, n, alpha, a, lda, b, ldb);                             \
  }                                                                                                                  \
  API int cublas##L##axpy_v2(Handle* h, int n, const T* alpha, const T* x, int ix, T* y, int iy) {                   \
    return axpy(h, "<axpy " #L ">", n, alpha, x, ix, y, iy);                                                         \
  }                                                                                                                  \
  API int cublas##L##scal_v2(Handle* h, int n, const T* alpha, T* x, int ix) {                                       \
    return scal(h, "<scal " #L ">", n, alpha, x, ix);                                                                \
  }
FOR_TYPE(S, float)
FOR_TYPE(D, double)
FOR_TYPE(C, C)
FOR_TYPE(Z, Z)
API int cublasCsscal_v2(Handle* h, int n, const float* al, C* x, int ix) { return scal(h, "<scal>", n, al, x, ix); }
API int cublasZdscal_v2(Handle* h, int n, const double* al, Z* x, int ix) { return scal(h, "<scal>", n, al, x, ix); }

#define AS_IT_IS [](auto v) { return v; }
#define CONJUGATED_ [](auto v) { return conjugate(v); }
#define DOT(name, T, W, F)                                                                                           \
  API int name(Handle* h, int n, const T* x, int ix, const T* y, int iy, T* result) {                                \
    return dot<W>(h, n, x, ix, y, iy, result, F);                                                                    \
  }
DOT(cublasSdot_v2, float, double, AS_IT_IS)
DOT(cublasDdot_v2, double, double, AS_IT_IS)
DOT(cublasCdotu_v2, C, Z, AS_IT_IS)
DOT(cublasCdotc_v2, C, Z, CONJUGATED_)
DOT(cublasZdotu_v2, Z, Z, AS_IT_IS)
DOT(cublasZdotc_v2, Z, Z, CONJUGATED_)

#define GER(name, T, F)                                                                                              \
  API int name(Handle* h, int m, int n, const T* alpha, const T* x, int ix, const T* y, int iy, T* a, int lda) {     \
    return ger(h, m, n, alpha, x, ix, y, iy, a, lda, F);                                                             \
  }
GER(cublasSger_v2, float, AS_IT_IS)
GER(cublasDger_v2, double, AS_IT_IS)
GER(cublasCgeru_v2, C, AS_IT_IS)
GER(cublasCgerc_v2, C, CONJUGATED_)
GER(cublasZgeru_v2, Z, AS_IT_IS)
GER(cublasZgerc_v2, Z, CONJUGATED_)

#define NORMS(NRM2, ASUM, IMAX, IMIN, T, R)                                                                          \
  API int NRM2(Handle* h, int n, const T* x, int ix, R* result) { return nrm2(h, n, x, ix, result); }                \
  API int ASUM(Handle* h, int n, const T* x, int ix, R* result) { return asum(h, n, x, ix, result); }                \
  API int IMAX(Handle* h, int n, const T* x, int ix, int* at) { return extreme(h, "<iamax>", 1, n, x, ix, at); }     \
  API int IMIN(Handle* h, int n, const T* x, int ix, int* at) { return extreme(h, "<iamin>", -1, n, x, ix, at); }
NORMS(cublasSnrm2_v2, cublasSasum_v2, cublasIsamax_v2, cublasIsamin_v2, float, float)
NORMS(cublasDnrm2_v2, cublasDasum_v2, cublasIdamax_v2, cublasIdamin_v2, double, double)
NORMS(cublasScnrm2_v2, cublasScasum_v2, cublasIcamax_v2, cublasIcamin_v2, C, float)
NORMS(cublasDznrm2_v2, cublasDzasum_v2, cublasIzamax_v2, cublasIzamin_v2, Z, double)

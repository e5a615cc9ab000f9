// cuBLAS: matrix products, by the BLAS in NumPy's wheel, or by plain loops without it.  Half types are computed in
// float and rounded once.
#include "cublas.h"
#include <cstdlib>

// The BLAS functions for float, double and their complex types.
static void* gemm_[4];
API void hc_blas_use(void* s, void* d, void* c, void* z) {
  gemm_[0] = s;
  gemm_[1] = d;
  gemm_[2] = c;
  gemm_[3] = z;
}
template <class T> struct Number;
template <> struct Number<float> {
  enum { OF_GEMM = 0 };
};
template <> struct Number<double> {
  enum { OF_GEMM = 1 };
};
template <> struct Number<C> {
  enum { OF_GEMM = 2 };
};
template <> struct Number<Z> {
  enum { OF_GEMM = 3 };
};

// ---- c = alpha * op(a) @ op(b) + beta * c

template <class T>
static void loops(int ta, int tb, I m, I n, I k, T alpha, const T* a, I lda, const T* b, I ldb, T beta, T* c, I ldc) {
  for (I j = 0; j < n; j++)
    for (I i = 0; i < m; i++) {
      T sum = T(0);
      for (I l = 0; l < k; l++) sum += at(a, ta, i, l, lda) * at(b, tb, l, j, ldb);
      T& to = c[i + j * ldc];
      to = alpha * sum + (beta == T(0) ? T(0) : beta * to);  // if beta is 0, c may be uninitialized
    }
}
template <class T>
static void gemm(int ta, int tb, I m, I n, I k, T alpha, const T* a, I lda, const T* b, I ldb, T beta, T* c, I ldc) {
  using F = void (*)(const char*, const char*, const I*, const I*, const I*, const T*, const T*, const I*, const T*,
                     const I*, const T*, T*, const I*, size_t, size_t);
  if (m <= 0 || n <= 0) return;
  auto f = (F)gemm_[Number<T>::OF_GEMM];
  if (f) f(&"NTC"[ta], &"NTC"[tb], &m, &n, &k, &alpha, a, &lda, b, &ldb, &beta, c, &ldc, 1, 1);
  else loops(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

static int check(int ta, int tb, I m, I n, I k, I lda, I ldb, I ldc) {
  auto least = [](I rows) { return rows > 1 ? rows : 1; };
  bool sizes = m >= 0 && n >= 0 && k >= 0;
  bool strides = lda >= least(ta ? k : m) && ldb >= least(tb ? n : k) && ldc >= least(m);
  return sizes && strides ? OK : INVALID_VALUE;
}

// ---- one type

template <class T>
static int strided(Handle* h, const char* name, int ta, int tb, int m, int n, int k, const T* alpha, const T* a,
                   int lda, I sa, const T* b, int ldb, I sb, const T* beta, T* c, int ldc, I sc, int batch) {
  if (int e = check(ta, tb, m, n, k, lda, ldb, ldc)) return e;
  Scalar<T> al(h, alpha), be(h, beta);
  return submit(h, name, {a, b, c}, [=] {
    for (int i = 0; i < batch; i++)
      gemm<T>(ta, tb, m, n, k, al(), a + i * sa, lda, b + i * sb, ldb, be(), c + i * sc, ldc);
  });
}
template <class T>
static int batched(Handle* h, const char* name, int ta, int tb, int m, int n, int k, const T* alpha,
                   const T* const* a, int lda, const T* const* b, int ldb, const T* beta, T* const* c, int ldc,
                   int batch) {
  if (int e = check(ta, tb, m, n, k, lda, ldb, ldc)) return e;
  Scalar<T> al(h, alpha), be(h, beta);
  return submit(h, name, {a, b, c}, [=] {
    for (int i = 0; i < batch; i++) gemm<T>(ta, tb, m, n, k, al(), a[i], lda, b[i], ldb, be(), c[i], ldc);
  });
}

#define GEMM(L, T)                                                                                                  \
  API int cublas##L##gemm_v2(Handle* h, int ta, int tb, int m, int n, int k, const T* al, const T* a, int lda,      \
                             const T* b, int ldb, const T* be, T* c, int ldc) {                                     \
    return strided<T>(h, "<gemm " #L ">", ta, tb, m, n, k, al, a, lda, 0, b, ldb, 0, be, c, ldc, 0, 1);             \
  }                                                                                                                 \
  API int cublas##L##gemmStridedBatched(Handle* h, int ta, int tb, int m, int n, int k, const T* al, const T* a,    \
                                        int lda, long long sa, const T* b, int ldb, long long sb, const T* be,      \
                                        T* c, int ldc, long long sc, int batch) {                                   \
    return strided<T>(h, "<gemm strided " #L ">", ta, tb, m, n, k, al, a, lda, sa, b, ldb, sb, be, c, ldc, sc,      \
                      batch);                                                                                       \
  }                                                                                                                 \
  API int cublas##L##gemmBatched(Handle* h, int ta, int tb, int m, int n, int k, const T* al, const T* const* a,    \
                                 int lda, const T* const* b, int ldb, const T* be, T* const* c, int ldc,            \
                                 int batch) {                                                                       \
    return batched<T>(h, "<gemm batched " #L ">", ta, tb, m, n, k, al, a, lda, b, ldb, be, c, ldc, batch);          \
  }
GEMM(S, float)
GEMM(D, double)
GEMM(C, C)
GEMM(Z, Z)

// ---- mixed types

enum Type { R_32F = 0, R_64F = 1, R_16F = 2, R_8I = 3, C_32F = 4, C_64F = 5, R_32I = 10, R_16BF = 14 };  // cudaDataType
enum Compute { COMPUTE_16F = 64, COMPUTE_16F_PEDANTIC = 65, COMPUTE_32F = 68 };

static I width(int type) {
  switch (type) {
    case R_8I: return 1;
    case R_16F: case R_16BF: return 2;
    case R_32F: case R_32I: return 4;
    case R_64F: case C_32F: return 8;
    case C_64F: return 16;
  }
  abort();
}
static float load(const void* p, int type, I i) {
  switch (type) {
    case R_32F: return ((const float*)p)[i];
    case R_16F: return hc_half_to_float(((const uint16_t*)p)[i]);
    case R_16BF: return hc_bfloat_to_float(((const uint16_t*)p)[i]);
    case R_8I: return ((const int8_t*)p)[i];
  }
  abort();
}
static void store(void* p, int type, I i, float v) {
  switch (type) {
    case R_32F: ((float*)p)[i] = v; return;
    case R_16F: ((uint16_t*)p)[i] = hc_float_to_half(v); return;
    case R_16BF: ((uint16_t*)p)[i] = hc_float_to_bfloat(v); return;
  }
  abort();
}
static bool held_as_float(int type) { return type == R_32F || type == R_16F || type == R_16BF; }

struct Matrix {
  const void* data;
  int type;
  I ld, stride;
  const void* of(int i) const { return (const char*)data + i * stride * width(type); }
};

// A contiguous copy in float.
static std::vector<float> dense(const void* data, const Matrix& x, I rows, I columns) {
  std::vector<float> r(rows * columns);
  for (I j = 0; j < columns; j++)
    for (I i = 0; i < rows; i++) r[i + j * rows] = load(data, x.type, i + j * x.ld);
  return r;
}
static void in_float(int ta, int tb, I m, I n, I k, float alpha, const Matrix& a, const Matrix& b, float beta,
                     const Matrix& c, int which) {
  if (m <= 0 || n <= 0) return;
  I a_rows = ta ? k : m, a_columns = ta ? m : k;
  I b_rows = tb ? n : k, b_columns = tb ? k : n;
  auto x = dense(a.of(which), a, a_rows, a_columns);
  auto y = dense(b.of(which), b, b_rows, b_columns);
  std::vector<float> z(m * n);
  I ldx = a_rows ? a_rows : 1, ldy = b_rows ? b_rows : 1;
  gemm<float>(ta, tb, m, n, k, alpha, x.data(), ldx, y.data(), ldy, 0.0f, z.data(), m);
  void* to = (void*)c.of(which);
  for (I j = 0; j < n; j++)
    for (I i = 0; i < m; i++) {
      I place = i + j * c.ld;
      float before = beta == 0 ? 0 : beta * load(to, c.type, place);
      store(to, c.type, place, z[i + j * m] + before);
    }
}

static int of_int8(Handle* h, const char* name, int ta, int tb, int m, int n, int k, const void* alpha,
                   const Matrix& a, const Matrix& b, const void* beta, const Matrix& c, int batch) {
  Scalar<int> al(h, alpha), be(h, beta);
  return submit(h, name, {a.data, b.data, c.data}, [=] {
    for (int g = 0; g < batch; g++) {
      std::vector<int> x(a.ld * (ta ? m : k)), y(b.ld * (tb ? k : n));
      for (size_t i = 0; i < x.size(); i++) x[i] = ((const int8_t*)a.of(g))[i];
      for (size_t i = 0; i < y.size(); i++) y[i] = ((const int8_t*)b.of(g))[i];
      loops<int>(ta, tb, m, n, k, al(), x.data(), a.ld, y.data(), b.ld, be(), (int*)c.of(g), c.ld);
    }
  });
}

static int ex(Handle* h, const char* name, int ta, int tb, int m, int n, int k, const void* alpha, const Matrix& a,
              const Matrix& b, const void* beta, const Matrix& c, int batch, int compute) {
  if (int e = check(ta, tb, m, n, k, a.ld, b.ld, c.ld)) return e;
  if (a.type == b.type && b.type == c.type) {
    auto same = [&](auto zero) {
      using T = decltype(zero);
      return strided<T>(h, name, ta, tb, m, n, k, (const T*)alpha, (const T*)a.data, a.ld, a.stride, (const T*)b.data,
                        b.ld, b.stride, (const T*)beta, (T*)c.data, c.ld, c.stride, batch);
    };
    switch (a.type) {
      case R_32F: return same(float());
      case R_64F: return same(double());
      case C_32F: return same(C());
      case C_64F: return same(Z());
    }
  }
  if (a.type == R_8I && b.type == R_8I && c.type == R_32I)
    return of_int8(h, name, ta, tb, m, n, k, alpha, a, b, beta, c, batch);
  bool inputs = a.type == b.type && (held_as_float(a.type) || a.type == R_8I);
  if (!inputs || !held_as_float(c.type)) return NOT_SUPPORTED;
  auto products = [=](auto al, auto be, auto to_float) {
    return submit(h, name, {a.data, b.data, c.data}, [=] {
      for (int g = 0; g < batch; g++) in_float(ta, tb, m, n, k, to_float(al()), a, b, to_float(be()), c, g);
    });
  };
  if (compute == COMPUTE_16F || compute == COMPUTE_16F_PEDANTIC)
    return products(Scalar<uint16_t>(h, alpha), Scalar<uint16_t>(h, beta), hc_half_to_float);
  return products(Scalar<float>(h, alpha), Scalar<float>(h, beta), [](float v) { return v; });
}

API int cublasGemmEx(Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int a_type,
                     int lda, const void* b, int b_type, int ldb, const void* beta, void* c, int c_type, int ldc,
                     int compute, int) {
  return ex(h, "<gemm ex>", ta, tb, m, n, k, alpha, {a, a_type, lda, 0}, {b, b_type, ldb, 0}, beta,
            {c, c_type, ldc, 0}, 1, compute);
}
API int cublasSgemmEx(Handle* h, int ta, int tb, int m, int n, int k, const float* alpha, const void* a, int a_type,
                      int lda, const void* b, int b_type, int ldb, const float* beta, void* c, int c_type, int ldc) {
  return ex(h, "<gemm ex>", ta, tb, m, n, k, alpha, {a, a_type, lda, 0}, {b, b_type, ldb, 0}, beta,
            {c, c_type, ldc, 0}, 1, COMPUTE_32F);
}
API int cublasGemmStridedBatchedEx(Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a,
                                   int a_type, int lda, long long sa, const void* b, int b_type, int ldb,
                                   long long sb, const void* beta, void* c, int c_type, int ldc, long long sc,
                                   int batch, int compute, int) {
  return ex(h, "<gemm strided ex>", ta, tb, m, n, k, alpha, {a, a_type, lda, sa}, {b, b_type, ldb, sb}, beta,
            {c, c_type, ldc, sc}, batch, compute);
}

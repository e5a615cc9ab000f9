// Mathematical functions of CUDA's that the C++ library lacks, or has for double only.
#pragma once

static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
static inline double rsqrt(double a) { return 1.0 / ::sqrt(a); }
static inline float rsqrt(float a) { return rsqrtf(a); }
static inline float rcbrtf(float a) { return 1.0f / cbrtf(a); }
static inline double rcbrt(double a) { return 1.0 / ::cbrt(a); }
static inline float rcbrt(float a) { return rcbrtf(a); }
static inline float exp10(float a) { return ::exp10f(a); }
static inline double rhypot(double a, double b) { return 1.0 / ::hypot(a, b); }
static inline double norm3d(double a, double b, double c) { return ::sqrt(a * a + b * b + c * c); }
static inline float norm3df(float a, float b, float c) { return sqrtf(a * a + b * b + c * c); }

// ---- sine and cosine of pi times x, exact at multiples of a half

constexpr double HC_PI = 3.14159265358979323846;
static inline double hc_sinpi(double a) {
  a = ::fmod(a, 2.0);
  return a == 0 || ::fabs(a) == 1 ? ::copysign(0.0, a) : ::sin(a * HC_PI);
}
static inline double hc_cospi(double a) {
  a = ::fabs(::fmod(a, 2.0));
  return a == 0.5 || a == 1.5 ? 0.0 : ::cos(a * HC_PI);
}
#if !(defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 41))
static inline double sinpi(double a) { return hc_sinpi(a); }
static inline double cospi(double a) { return hc_cospi(a); }
static inline float sinpif(float a) { return (float)hc_sinpi(a); }
static inline float cospif(float a) { return (float)hc_cospi(a); }
#endif
static inline float sinpi(float a) { return (float)hc_sinpi(a); }
static inline float cospi(float a) { return (float)hc_cospi(a); }
static inline void sincospi(double a, double* s, double* c) {
  *s = hc_sinpi(a);
  *c = hc_cospi(a);
}
static inline void sincospif(float a, float* s, float* c) {
  *s = (float)hc_sinpi(a);
  *c = (float)hc_cospi(a);
}
static inline void sincos(float a, float* s, float* c) {
  *s = sinf(a);
  *c = cosf(a);
}

// ---- the normal distribution and the error function

template <int N> static inline double hc_polynomial(const double (&c)[N], double x) {  // the highest power first
  double r = c[0];
  for (int i = 1; i < N; i++) r = r * x + c[i];
  return r;
}

// Acklam's approximation, and two steps of Halley's method.
static inline double hc_normcdfinv(double p) {
  if (!(p >= 0 && p <= 1)) return NAN;
  if (p == 0) return -INFINITY;
  if (p == 1) return INFINITY;
  static const double middle_over[] = {-3.969683028665376e+01, 2.209460984245205e+02, -2.759285104469687e+02,
                                       1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
  static const double middle_under[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
                                        6.680131188771972e+01,  -1.328068155288572e+01, 1.0};
  static const double tail_over[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                                     -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
  static const double tail_under[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                                      3.754408661907416e+00, 1.0};
  constexpr double TAIL = 0.02425, ROOT_2_PI = 2.50662827463100050242;
  auto tail = [&](double q) { return hc_polynomial(tail_over, q) / hc_polynomial(tail_under, q); };
  double x;
  if (p < TAIL) {
    x = tail(::sqrt(-2 * ::log(p)));
  } else if (p <= 1 - TAIL) {
    double q = p - 0.5, r = q * q;
    x = hc_polynomial(middle_over, r) * q / hc_polynomial(middle_under, r);
  } else {
    x = -tail(::sqrt(-2 * ::log1p(-p)));
  }
  for (int i = 0; i < 2; i++) {
    double error = 0.5 * ::erfc(-x * M_SQRT1_2) - p;
    double u = error * ROOT_2_PI * ::exp(x * x / 2);
    x -= u / (1 + x * u / 2);
  }
  return x;
}

// By the one above, and two steps of Halley's method on the side where erf or erfc is accurate.
static inline double hc_erfinv(double y) {
  constexpr double HALF_ROOT_PI = 0.88622692545275801365;
  if (!(y >= -1 && y <= 1)) return NAN;
  if (y == 1 || y == -1) return y * INFINITY;
  if (::fabs(y) < 1e-8) return y * HALF_ROOT_PI;
  bool middle = ::fabs(y) < 0.5;
  double x = (middle  ? hc_normcdfinv(0.5 + 0.5 * y)
              : y < 0 ? hc_normcdfinv(0.5 * (1 + y))
                      : -hc_normcdfinv(0.5 * (1 - y))) * M_SQRT1_2;
  for (int i = 0; i < 2; i++) {
    double error = middle ? ::erf(x) - y : y > 0 ? (1 - y) - ::erfc(x) : ::erfc(-x) - (1 + y);
    double u = error * HALF_ROOT_PI * ::exp(x * x);
    x -= u / (1 + x * u);
  }
  return x;
}
static inline double hc_erfcinv(double y) { return -hc_normcdfinv(0.5 * y) * M_SQRT1_2; }

// Beyond 25 the asymptotic series, since exp(x * x) grows past double's range.
static inline double hc_erfcx(double x) {
  constexpr double ONE_OVER_ROOT_PI = 0.56418958354775628695;
  if (x < 25) return ::exp(x * x) * ::erfc(x);
  return ONE_OVER_ROOT_PI / x * (1 - 0.5 / (x * x) + 0.75 / (x * x * x * x));
}
static inline double hc_normcdf(double x) { return 0.5 * ::erfc(-x * M_SQRT1_2); }
// The standard library's throws where the result overflows.
static inline double hc_cyl_bessel_i(double order, double x) {
  return x < 700 ? std::cyl_bessel_i(order, x) : x == x ? INFINITY : x;
}
static inline double hc_cyl_bessel_i0(double x) { return hc_cyl_bessel_i(0.0, ::fabs(x)); }
static inline double hc_cyl_bessel_i1(double x) { return ::copysign(hc_cyl_bessel_i(1.0, ::fabs(x)), x); }

#define HC_FLOAT_TOO(name)                                        \
  static inline double name(double x) { return hc_##name(x); }    \
  static inline float name(float x) { return (float)hc_##name(x); } \
  static inline float name##f(float x) { return (float)hc_##name(x); }
HC_FLOAT_TOO(erfinv)
HC_FLOAT_TOO(erfcinv)
HC_FLOAT_TOO(erfcx)
HC_FLOAT_TOO(normcdf)
HC_FLOAT_TOO(normcdfinv)
HC_FLOAT_TOO(cyl_bessel_i0)
HC_FLOAT_TOO(cyl_bessel_i1)
#undef HC_FLOAT_TOO

static inline float j0(float x) { return j0f(x); }
static inline float j1(float x) { return j1f(x); }
static inline float jn(int n, float x) { return jnf(n, x); }
static inline float y0(float x) { return y0f(x); }
static inline float y1(float x) { return y1f(x); }
static inline float yn(int n, float x) { return ynf(n, x); }

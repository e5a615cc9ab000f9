// Minimum and maximum, arithmetic with a given rounding, conversions, and the fast functions, which are exact here.
#pragma once

#define HC_MINMAX(R, A, B)                                              \
  static inline R min(A a, B b) { return (R)a < (R)b ? (R)a : (R)b; }   \
  static inline R max(A a, B b) { return (R)a > (R)b ? (R)a : (R)b; }
HC_MINMAX(int, int, int)
HC_MINMAX(unsigned, unsigned, unsigned)
HC_MINMAX(unsigned, int, unsigned)
HC_MINMAX(unsigned, unsigned, int)
HC_MINMAX(long, long, long)
HC_MINMAX(unsigned long, unsigned long, unsigned long)
HC_MINMAX(unsigned long, long, unsigned long)
HC_MINMAX(unsigned long, unsigned long, long)
HC_MINMAX(long long, long long, long long)
HC_MINMAX(unsigned long long, unsigned long long, unsigned long long)
HC_MINMAX(unsigned long long, long long, unsigned long long)
HC_MINMAX(unsigned long long, unsigned long long, long long)
#undef HC_MINMAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return ::fmin(a, b); }
static inline double max(double a, double b) { return ::fmax(a, b); }
static inline double min(float a, double b) { return ::fmin((double)a, b); }
static inline double max(float a, double b) { return ::fmax((double)a, b); }
static inline double min(double a, float b) { return ::fmin(a, (double)b); }
static inline double max(double a, float b) { return ::fmax(a, (double)b); }

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __dsqrt_rn(double a) { return ::sqrt(a); }
static inline double __fma_rn(double a, double b, double c) { return ::fma(a, b, c); }

// glibc has functions of these names, so they are macros.
static inline float hc_expf(float a) { return expf(a); }
static inline float hc_exp10f(float a) { return ::exp10f(a); }
static inline float hc_logf(float a) { return logf(a); }
static inline float hc_log2f(float a) { return log2f(a); }
static inline float hc_powf(float a, float b) { return powf(a, b); }
static inline float hc_sinf(float a) { return sinf(a); }
static inline float hc_cosf(float a) { return cosf(a); }
#define __expf hc_expf
#define __exp10f hc_exp10f
#define __logf hc_logf
#define __log2f hc_log2f
#define __powf hc_powf
#define __sinf hc_sinf
#define __cosf hc_cosf
static inline float __fdividef(float a, float b) { return a / b; }
static inline float fdividef(float a, float b) { return a / b; }
static inline float __saturatef(float a) { return a < 0 ? 0 : a > 1 ? 1 : a == a ? a : 0; }

static inline int __float2int_rn(float a) { return (int)rintf(a); }
static inline long long __float2ll_rn(float a) { return (long long)rintf(a); }
static inline int __float2int_rz(float a) { return (int)a; }
static inline int __float2int_rd(float a) { return (int)floorf(a); }
static inline int __float2int_ru(float a) { return (int)ceilf(a); }
static inline unsigned __float2uint_rn(float a) { return (unsigned)rintf(a); }
static inline float __int2float_rn(int a) { return (float)a; }
static inline float __uint2float_rn(unsigned a) { return (float)a; }
static inline float __double2float_rn(double a) { return (float)a; }
static inline int __double2int_rn(double a) { return (int)rint(a); }
static inline long long __double2ll_rn(double a) { return (long long)rint(a); }

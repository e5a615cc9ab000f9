// Bits of numbers, products' upper halves, and loads past a cache.
#pragma once

template <class To, class From> static inline To hc_bits(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To r;
  memcpy(&r, &v, sizeof r);
  return r;
}
static inline int __float_as_int(float v) { return hc_bits<int>(v); }
static inline unsigned __float_as_uint(float v) { return hc_bits<unsigned>(v); }
static inline float __int_as_float(int v) { return hc_bits<float>(v); }
static inline float __uint_as_float(unsigned v) { return hc_bits<float>(v); }
static inline long long __double_as_longlong(double v) { return hc_bits<long long>(v); }
static inline double __longlong_as_double(long long v) { return hc_bits<double>(v); }
static inline int __double2hiint(double v) { return (int)(hc_bits<uint64_t>(v) >> 32); }
static inline int __double2loint(double v) { return (int)hc_bits<uint64_t>(v); }
static inline double __hiloint2double(int high, int low) {
  return hc_bits<double>((uint64_t)(unsigned)high << 32 | (unsigned)low);
}

static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (v >> i & 1) << (31 - i);
  return r;
}
static inline unsigned long long __brevll(unsigned long long v) {
  return (unsigned long long)__brev((unsigned)v) << 32 | __brev((unsigned)(v >> 32));
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  uint64_t v = (uint64_t)b << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) r |= (unsigned)(v >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
  return r;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned s) {
  s &= 31;
  return s ? high << s | low >> (32 - s) : high;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned s) {
  s &= 31;
  return s ? low >> s | high << (32 - s) : low;
}

static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline int __mulhi(int a, int b) { return (int)((int64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
static inline int __mul24(int a, int b) { return a * b; }

template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T __ldcs(const T* p) { return *p; }
template <class T> static inline T __ldcg(const T* p) { return *p; }
template <class T> static inline void __stcs(T* p, T v) { *p = v; }
static inline long long clock64() {
  static long long t = 0;
  return ++t;
}

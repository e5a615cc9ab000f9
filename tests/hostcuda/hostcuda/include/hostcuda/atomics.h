// Atomic functions.  Threads run one after another, so they are plain reads and writes.
#pragma once

template <class T, class F> static inline T hc_atomic(T* p, F f) {
  T old = *p;
  *p = f(old);
  return old;
}
#define HC_ATOMIC_EXCHANGE(T)                                       \
  static inline T atomicExch(T* p, T v) {                           \
    return hc_atomic(p, [=](T) { return v; });                      \
  }                                                                 \
  static inline T atomicCAS(T* p, T c, T v) {                       \
    return hc_atomic(p, [=](T o) { return o == c ? v : o; });       \
  }
#define HC_ATOMIC(name, T, expression)                              \
  static inline T name(T* p, T v) {                                 \
    return hc_atomic(p, [=](T o) { return (T)(expression); });      \
  }
#define HC_ATOMIC_INTEGER(T)                                        \
  HC_ATOMIC(atomicMax, T, v > o ? v : o)                            \
  HC_ATOMIC(atomicMin, T, v < o ? v : o)                            \
  HC_ATOMIC(atomicAnd, T, o & v)                                    \
  HC_ATOMIC(atomicOr, T, o | v)                                     \
  HC_ATOMIC(atomicXor, T, o ^ v)

HC_ATOMIC_EXCHANGE(int)
HC_ATOMIC_EXCHANGE(unsigned)
HC_ATOMIC_EXCHANGE(unsigned long long)
HC_ATOMIC_EXCHANGE(unsigned short)
HC_ATOMIC(atomicExch, float, v)
HC_ATOMIC_INTEGER(int)
HC_ATOMIC_INTEGER(unsigned)
HC_ATOMIC_INTEGER(unsigned long long)
HC_ATOMIC_INTEGER(long long)
HC_ATOMIC(atomicAdd, int, o + v)
HC_ATOMIC(atomicAdd, unsigned, o + v)
HC_ATOMIC(atomicAdd, unsigned long long, o + v)
HC_ATOMIC(atomicAdd, float, o + v)
HC_ATOMIC(atomicAdd, double, o + v)
HC_ATOMIC(atomicSub, int, o - v)
HC_ATOMIC(atomicSub, unsigned, o - v)
HC_ATOMIC(atomicInc, unsigned, o >= v ? 0 : o + 1)
HC_ATOMIC(atomicDec, unsigned, o == 0 || o > v ? v : o - 1)

// Vector types and dim3.
#pragma once

#define HC_VECTOR(name, T, A1, A2, A4)                                          \
  struct name##1 {                                                              \
    T x;                                                                        \
  };                                                                            \
  struct alignas(A2) name##2 {                                                  \
    T x, y;                                                                     \
  };                                                                            \
  struct name##3 {                                                              \
    T x, y, z;                                                                  \
  };                                                                            \
  struct alignas(A4) name##4 {                                                  \
    T x, y, z, w;                                                               \
  };                                                                            \
  static inline name##1 make_##name##1(T x) { return {x}; }                     \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }             \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }     \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
HC_VECTOR(char, signed char, 1, 2, 4)
HC_VECTOR(uchar, unsigned char, 1, 2, 4)
HC_VECTOR(short, short, 2, 4, 8)
HC_VECTOR(ushort, unsigned short, 2, 4, 8)
HC_VECTOR(int, int, 4, 8, 16)
HC_VECTOR(uint, unsigned, 4, 8, 16)
HC_VECTOR(longlong, long long, 8, 16, 16)
HC_VECTOR(ulonglong, unsigned long long, 8, 16, 16)
HC_VECTOR(float, float, 4, 8, 16)
HC_VECTOR(double, double, 8, 16, 16)
#undef HC_VECTOR

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

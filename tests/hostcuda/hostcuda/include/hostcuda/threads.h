// Places in the grid, barriers, and functions of a warp; native/fibers.cpp has the functions named hc_.
#pragma once

struct HcState {
  uint3 threadIdx, blockIdx, blockDim, gridDim;
  char* dynamic_shared;
};
extern "C" {
extern HcState hc_state;
void hc_sync_block();
void hc_sync_warp(unsigned mask);
int hc_lane();
void hc_put(const void* v, size_t n);
void hc_get(void* v, size_t n, int lane);
unsigned hc_warp_alive();
int hc_block_sum(int v);
}
#define threadIdx hc_state.threadIdx
#define blockIdx hc_state.blockIdx
#define blockDim hc_state.blockDim
#define gridDim hc_state.gridDim
#define warpSize 32

// The compiler may keep nothing of memory in registers across a barrier.
static inline void __syncthreads() {
  asm volatile("" ::: "memory");
  hc_sync_block();
  asm volatile("" ::: "memory");
}
static inline void __syncwarp(unsigned m = 0xffffffffu) {
  asm volatile("" ::: "memory");
  hc_sync_warp(m);
  asm volatile("" ::: "memory");
}
static inline int __syncthreads_count(int p) { return hc_block_sum(!!p); }
static inline int __syncthreads_or(int p) { return hc_block_sum(!!p) != 0; }
static inline int __syncthreads_and(int p) { return hc_block_sum(!p) == 0; }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
static inline void __nanosleep(unsigned) {}
static inline void __trap() { __builtin_trap(); }
static inline unsigned __activemask() { return hc_warp_alive(); }

// ---- shuffles: each lane puts its value down, and takes that of another after all have

template <class T> static inline T hc_shuffle(unsigned m, T v, int from) {
  static_assert(sizeof(T) <= 32);
  hc_put(&v, sizeof v);
  __syncwarp(m);
  T r;
  hc_get(&r, sizeof r, from);
  __syncwarp(m);
  return r;
}
template <class T> static inline T __shfl_sync(unsigned m, T v, int s, int width = 32) {
  int l = hc_lane();
  return hc_shuffle(m, v, (l & ~(width - 1)) + (s & (width - 1)));
}
template <class T> static inline T __shfl_xor_sync(unsigned m, T v, int x, int width = 32) {
  int l = hc_lane(), s = l ^ x;
  return hc_shuffle(m, v, (s & ~(width - 1)) > (l & ~(width - 1)) ? l : s);
}
template <class T> static inline T __shfl_down_sync(unsigned m, T v, unsigned d, int width = 32) {
  int l = hc_lane();
  return hc_shuffle(m, v, (int)((l & (width - 1)) + d) < width ? l + (int)d : l);
}
template <class T> static inline T __shfl_up_sync(unsigned m, T v, unsigned d, int width = 32) {
  int l = hc_lane();
  return hc_shuffle(m, v, (int)(l & (width - 1)) >= (int)d ? l - (int)d : l);
}

// ---- votes and reductions of a warp

template <class T, class F> static inline void hc_each_lane(unsigned m, T v, F f) {
  hc_put(&v, sizeof v);
  __syncwarp(m);
  for (int l = 0; l < 32; l++) {
    if (!((m & hc_warp_alive()) >> l & 1)) continue;
    T other;
    hc_get(&other, sizeof other, l);
    f(l, other);
  }
  __syncwarp(m);
}
static inline unsigned __ballot_sync(unsigned m, int p) {
  unsigned r = 0;
  hc_each_lane(m, (int)!!p, [&](int l, int o) { r |= (unsigned)o << l; });
  return r;
}
static inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }
static inline int __all_sync(unsigned m, int p) { return __ballot_sync(m, !p) == 0; }

template <class F> static inline unsigned hc_reduce_warp(unsigned m, unsigned v, F f) {
  unsigned r = 0;
  bool first = true;
  hc_each_lane(m, v, [&](int, unsigned o) {
    r = first ? o : f(r, o);
    first = false;
  });
  return r;
}
#define HC_REDUCE_SYNC(name, expression)                                              \
  static inline unsigned name(unsigned m, unsigned v) {                               \
    return hc_reduce_warp(m, v, [](unsigned r, unsigned o) { return expression; });   \
  }
HC_REDUCE_SYNC(__reduce_add_sync, r + o)
HC_REDUCE_SYNC(__reduce_and_sync, r & o)
HC_REDUCE_SYNC(__reduce_or_sync, r | o)
HC_REDUCE_SYNC(__reduce_max_sync, r > o ? r : o)
HC_REDUCE_SYNC(__reduce_min_sync, r < o ? r : o)
#undef HC_REDUCE_SYNC

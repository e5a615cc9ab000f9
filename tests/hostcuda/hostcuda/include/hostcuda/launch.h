// What libcuda finds of a kernel in its shared object, and how it calls it: native/runtime.h has the same structure.
#pragma once

struct HcKernel {
  void (*entry)(void**);
  int mode, n;
  const size_t *sizes, *alignments;
  char *shared_begin, *shared_end;
};
template <class... A> struct HcSignature {
  static constexpr int n = sizeof...(A);
  static constexpr size_t sizes[] = {sizeof(A)..., 0};
  static constexpr size_t alignments[] = {alignof(A)..., 1};
  template <void (*K)(A...), size_t... I> static void unpack(void** p, std::index_sequence<I...>) {
    K(*reinterpret_cast<std::remove_cv_t<A>*>(p[I])...);
  }
  template <void (*K)(A...)> static void call(void** p) { unpack<K>(p, std::index_sequence_for<A...>{}); }
};
template <class... A> HcSignature<A...> hc_signature(void (*)(A...));

// The linker gives a section's begin and end these names; they are null where there is no such section.
#define HC_BOUND(which) HC_JOIN(which, HC_SHARED)
#define HC_EXPORT(ID, MODE, ...)                                                                           \
  extern "C" char HC_BOUND(__start_)[] __attribute__((weak, visibility("hidden")));                        \
  extern "C" char HC_BOUND(__stop_)[] __attribute__((weak, visibility("hidden")));                         \
  extern "C" __attribute__((visibility("default"), externally_visible)) const HcKernel hc_kernel_##ID = {  \
      &decltype(hc_signature(__VA_ARGS__))::template call<__VA_ARGS__>,                                    \
      MODE,                                                                                                \
      decltype(hc_signature(__VA_ARGS__))::n,                                                              \
      decltype(hc_signature(__VA_ARGS__))::sizes,                                                          \
      decltype(hc_signature(__VA_ARGS__))::alignments,                                                     \
      HC_BOUND(__start_),                                                                                  \
      HC_BOUND(__stop_)};

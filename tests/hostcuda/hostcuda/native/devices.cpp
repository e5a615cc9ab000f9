// Devices, their properties, and contexts.  The properties are those of a Hopper GPU.
#include "runtime.h"
#include <cstdio>
#include <cstdlib>

constexpr const char* NAME = "hostcuda (no GPU)";
constexpr int CUDA_VERSION = 13020;
thread_local int current_ = 0;

// Counts the devices in CUDA_VISIBLE_DEVICES, up to the first that is not among HOSTCUDA_DEVICES.
static int visible_devices() {
  int existing = env("HOSTCUDA_DEVICES", 1);
  const char* names = getenv("CUDA_VISIBLE_DEVICES");
  if (!names) return existing;
  int visible = 0;
  for (;;) {
    char* end;
    long i = strtol(names, &end, 10);
    if (end == names || i < 0 || i >= existing || (*end && *end != ',')) return visible;
    visible++;
    if (!*end) return visible;
    names = end + 1;
  }
}
int devices() {
  static int n = visible_devices();
  return n;
}
static bool is_device(int d) { return d >= 0 && d < devices(); }

// ---- functions of the runtime

API int hc_rt_cudaGetDeviceCount(int* n) {
  *n = devices();
  return *n ? OK : NO_DEVICE;
}
API int hc_rt_cudaGetDevice(int* d) {
  NEEDS_DEVICE;
  *d = current_;
  return OK;
}
API int hc_rt_cudaSetDevice(int d) {
  NEEDS_DEVICE;
  if (!is_device(d)) return INVALID_DEVICE;
  current_ = d;
  return OK;
}
API int hc_rt_cudaDriverGetVersion(int* v) {
  *v = CUDA_VERSION;
  return OK;
}
API int hc_rt_cudaRuntimeGetVersion(int* v) {
  *v = CUDA_VERSION;
  return OK;
}
API int hc_rt_cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return OK;
}
API int hc_rt_cudaDeviceEnablePeerAccess(int, unsigned) { return NOT_SUPPORTED; }
API int hc_rt_cudaDeviceReset() { return OK; }
API int hc_rt_cudaDeviceGetPCIBusId(char* text, int n, int d) {
  snprintf(text, n, "0000:%02x:00.0", d);
  return OK;
}
API int hc_rt_cudaDeviceGetLimit(size_t* value, int) {
  *value = 1 << 20;
  return OK;
}
API int hc_rt_cudaDeviceSetLimit(int, size_t) { return OK; }

// By cudaDeviceAttr; all others are 0.
static const std::map<int, int>& attributes() {
  static const std::map<int, int> table = {
      {1, 1024},          // threads of a block
      {2, 1024},          // in x
      {3, 1024},          // in y
      {4, 64},            // in z
      {5, 2147483647},    // blocks of a grid in x
      {6, 65535},         // in y
      {7, 65535},         // in z
      {8, 49152},         // bytes of shared memory of a block
      {9, 65536},         // bytes of constant memory
      {10, 32},           // threads of a warp
      {11, 2147483647},   // largest pitch
      {12, 65536},        // registers of a block
      {13, 1785000},      // clock in kHz
      {14, 512},          // alignment of textures
      {15, 1},            // copies while kernels run
      {16, 132},          // multiprocessors
      {17, 0},            // no time limit for kernels
      {18, 0},            // not part of the host's chip
      {19, 1},            // maps memory of the host
      {31, 1},            // several kernels at once
      {32, 0},            // no error correction
      {36, 2619000},      // clock of the memory in kHz
      {37, 5120},         // bits of the memory's bus
      {38, 50 << 20},     // bytes of the L2 cache
      {39, 2048},         // threads of a multiprocessor
      {41, 1},            // one address space with the host
      {75, 9},            // compute capability, major
      {76, 0},            // and minor
      {81, 233472},       // bytes of shared memory of a multiprocessor
      {82, 65536},        // registers of a multiprocessor
      {83, 1},            // managed memory
      {89, 1},            // managed memory while kernels run
      {95, 1},            // cooperative launches
      {97, 232448},       // bytes of shared memory of a block on request
      {115, 1},           // memory pools
  };
  return table;
}
API int hc_rt_cudaDeviceGetAttribute(int* value, int attribute, int d) {
  NEEDS_DEVICE;
  if (!is_device(d)) return INVALID_DEVICE;
  auto it = attributes().find(attribute);
  *value = it == attributes().end() ? 0 : it->second;
  return OK;
}

// Fields of cudaDeviceProp, by their offsets in CUDA 13; the others are 0.
API int hc_rt_cudaGetDeviceProperties(char* p, int d) {
  NEEDS_DEVICE;
  if (!is_device(d)) return INVALID_DEVICE;
  memset(p, 0, 640);
  strcpy(p, NAME);
  auto bytes = [p](int offset, size_t value) { memcpy(p + offset, &value, sizeof value); };
  auto number = [p](int offset, int attribute) { memcpy(p + offset, &attributes().at(attribute), sizeof(int)); };
  bytes(288, device_memory());                                  // totalGlobalMem
  bytes(296, attributes().at(8));                               // sharedMemPerBlock
  number(304, 12);                                              // regsPerBlock
  number(308, 10);                                              // warpSize
  number(320, 1);                                               // maxThreadsPerBlock
  for (int i = 0; i < 3; i++) number(324 + 4 * i, 2 + i);       // maxThreadsDim
  for (int i = 0; i < 3; i++) number(336 + 4 * i, 5 + i);       // maxGridSize
  bytes(352, attributes().at(9));                               // totalConstMem
  number(360, 75);                                              // major
  number(364, 76);                                              // minor
  number(384, 16);                                              // multiProcessorCount
  return OK;
}

// ---- functions of the driver; a context is represented by its device number plus one

static void* context(int device) { return (void*)(intptr_t)(device + 1); }

API int cuInit(unsigned) {
  NEEDS_DEVICE;
  return OK;
}
API int cuDriverGetVersion(int* v) { return hc_rt_cudaDriverGetVersion(v); }
API int cuDeviceGetCount(int* n) { return hc_rt_cudaGetDeviceCount(n); }
API int cuDeviceGet(int* d, int i) {
  if (!is_device(i)) return INVALID_DEVICE;
  *d = i;
  return OK;
}
API int cuDeviceGetName(char* text, int n, int) {
  snprintf(text, n, "%s", NAME);
  return OK;
}
API int cuDeviceTotalMem_v2(size_t* bytes, int) {
  *bytes = device_memory();
  return OK;
}
API int cuDeviceGetAttribute(int* v, int a, int d) { return hc_rt_cudaDeviceGetAttribute(v, a, d); }
API int cuDeviceComputeCapability(int* major, int* minor, int) {
  *major = attributes().at(75);
  *minor = attributes().at(76);
  return OK;
}
API int cuDevicePrimaryCtxRetain(void** c, int d) {
  if (!is_device(d)) return INVALID_DEVICE;
  *c = context(d);
  return OK;
}
API int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API int cuCtxGetCurrent(void** c) {
  *c = context(current_);
  return OK;
}
API int cuCtxSetCurrent(void* c) {
  int d = (int)(intptr_t)c - 1;
  if (c && !is_device(d)) return INVALID_VALUE;
  if (c) current_ = d;
  return OK;
}
API int cuCtxCreate_v2(void** c, unsigned, int d) { return cuDevicePrimaryCtxRetain(c, d); }
API int cuCtxDestroy_v2(void*) { return OK; }
API int cuCtxGetDevice(int* d) {
  *d = current_;
  return OK;
}
API int cuStreamGetCtx(void* s, void** c) {
  *c = context(stream_of(s)->device);
  return OK;
}

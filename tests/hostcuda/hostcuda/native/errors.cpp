// Names and messages of errors, counts of operations, and environment variables.
#include "runtime.h"
#include <cstdio>
#include <cstdlib>

std::recursive_mutex lock_;

int env(const char* name, int otherwise) {
  const char* value = getenv(name);
  return value && *value ? atoi(value) : otherwise;
}

bool poisons() {
  static bool on = env("HOSTCUDA_POISON", 1);
  return on;
}

// ---- counts

static std::map<std::string, long> counts_;
static bool counting_ = false;

void count(const char* name) {
  if (counting_) counts_[name]++;
}
API void hc_count_reset(int on) {
  LOCKED;
  counts_.clear();
  counting_ = on;
}
API const char* hc_count_text() {
  static std::string text;
  LOCKED;
  text.clear();
  for (auto& c : counts_) text += c.first + "\t" + std::to_string(c.second) + "\n";
  return text.c_str();
}

// ---- errors

struct ErrorText {
  const char *name, *text;
};

static const std::map<int, ErrorText>& known() {
  static const std::map<int, ErrorText> table = {
      {OK, {"cudaSuccess", "no error"}},
      {INVALID_VALUE, {"cudaErrorInvalidValue", "invalid argument"}},
      {OUT_OF_MEMORY, {"cudaErrorMemoryAllocation", "out of memory"}},
      {NO_DEVICE, {"cudaErrorNoDevice", "no CUDA-capable device is detected"}},
      {INVALID_DEVICE, {"cudaErrorInvalidDevice", "invalid device ordinal"}},
      {INVALID_IMAGE, {"cudaErrorInvalidKernelImage", "device kernel image is invalid"}},
      {INVALID_HANDLE, {"cudaErrorInvalidResourceHandle", "invalid resource handle"}},
      {NOT_FOUND, {"cudaErrorSymbolNotFound", "named symbol not found"}},
      {NOT_READY, {"cudaErrorNotReady", "device not ready"}},
      {ILLEGAL_ADDRESS, {"cudaErrorIllegalAddress", "an illegal memory access was encountered"}},
      {LAUNCH_FAILED, {"cudaErrorLaunchFailure", "unspecified launch failure"}},
      {NOT_SUPPORTED, {"cudaErrorNotSupported", "operation not supported (by hostcuda)"}},
      {CAPTURE_UNSUPPORTED,
       {"cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"}},
      {CAPTURE_INVALIDATED,
       {"cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"}},
      {CAPTURE_UNMATCHED,
       {"cudaErrorStreamCaptureUnmatched", "capture was not ended in the same stream as it began"}},
      {CAPTURE_UNJOINED,
       {"cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"}},
      {CAPTURE_ISOLATION,
       {"cudaErrorStreamCaptureIsolation", "dependency created on uncaptured work in another stream"}},
      {CAPTURE_IMPLICIT,
       {"cudaErrorStreamCaptureImplicit",
        "operation would make the legacy stream depend on a capturing blocking stream"}},
      {CAPTURED_EVENT,
       {"cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream"}},
      {CAPTURE_WRONG_THREAD,
       {"cudaErrorStreamCaptureWrongThread",
        "attempt to terminate a thread-local capture sequence from another thread"}},
  };
  return table;
}
const char* error_name(int e) {
  auto it = known().find(e);
  return it == known().end() ? "cudaErrorUnknown" : it->second.name;
}
const char* error_text(int e) {
  auto it = known().find(e);
  return it == known().end() ? "unknown error" : it->second.text;
}

API const char* hc_rt_cudaGetErrorName(int e) { return error_name(e); }
API const char* hc_rt_cudaGetErrorString(int e) { return error_text(e); }
API int hc_rt_cudaGetLastError() { return OK; }
API int hc_rt_cudaPeekAtLastError() { return OK; }
API int hc_rt_cudaProfilerStart() { return OK; }
API int hc_rt_cudaProfilerStop() { return OK; }
API int cuGetErrorName(int e, const char** p) {
  *p = error_name(e);
  return OK;
}
API int cuGetErrorString(int e, const char** p) {
  *p = error_text(e);
  return OK;
}

// Makes instructions that patch.py wrote visible to the CPU.
API void hc_flush(char* begin, char* end) { __builtin___clear_cache(begin, end); }

// Every unsupported function of the runtime jumps to this one.
API int hc_rt_unsupported() {
  static int verbose = env("HOSTCUDA_VERBOSE", 0);
  if (verbose) fprintf(stderr, "hostcuda: an unsupported function of the CUDA runtime was called\n");
  return NOT_SUPPORTED;
}

// ---- NVRTC: CuPy calls only these functions, since compile.py replaces the compiler

API int nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 0;
  return OK;
}
API const char* nvrtcGetErrorString(int) { return "hostcuda has no NVRTC"; }

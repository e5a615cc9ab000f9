// Modules, kernels and launches.
#include "fibers.h"
#include <algorithm>
#include <cstdio>
#include <dlfcn.h>

// Limits of a launch, as in devices.cpp.
constexpr unsigned MOST_THREADS = 1024, MOST_THREADS_Z = 64, MOST_BLOCKS_YZ = 65535;
constexpr unsigned SHARED_OF_EVERY_BLOCK = 49152, MOST_SHARED = 232448;

static unsigned static_shared(const Function& f) {
  return f.kernel ? (unsigned)(f.kernel->shared_end - f.kernel->shared_begin) : 0;
}

// ---- parameters

static size_t aligned(size_t offset, size_t alignment) { return (offset + alignment - 1) / alignment * alignment; }

static void add_parameter(Function& f, size_t size, size_t alignment) {
  size_t offset = aligned(f.bytes, alignment);
  f.parameters.push_back({offset, size});
  f.bytes = offset + size;
}
std::shared_ptr<Arguments> arguments_of(const Function& f, void** values) {
  constexpr size_t ALIGNMENT = 16;  // of the largest parameter; malloc gives it to a vector of bytes
  auto a = std::make_shared<Arguments>();
  a->bytes.resize(aligned(f.bytes, ALIGNMENT) + ALIGNMENT);
  for (size_t i = 0; i < f.parameters.size(); i++) {
    char* at = a->bytes.data() + f.parameters[i].offset;
    memcpy(at, values[i], f.parameters[i].size);
    a->pointers.push_back(at);
  }
  a->pointers.push_back(nullptr);
  return a;
}

// One function per name and number of pointers; visible only in graphs.
Function* library_function(const char* name, size_t pointers) {
  static std::map<std::pair<std::string, size_t>, Function> made;
  Function& f = made[{name, pointers}];
  if (f.name.empty()) {
    f.name = name;
    f.kernel = nullptr;
    for (size_t i = 0; i < pointers; i++) add_parameter(f, sizeof(void*), alignof(void*));
  }
  return &f;
}

// ---- modules: an image is "hostcuda:", the prefix of its kernels' names, ":", and the path of a shared object

struct Module {
  void* handle;
  std::string prefix;
  int device;
  std::map<std::string, Function> functions;
};

API int cuModuleLoadData(void** m, const char* image) {
  NEEDS_DEVICE;
  constexpr size_t LENGTH = 9;
  if (strncmp(image, "hostcuda:", LENGTH)) return INVALID_IMAGE;
  const char* end = strchr(image + LENGTH, ':');
  if (!end) return INVALID_IMAGE;
  void* handle = dlopen(end + 1, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    fprintf(stderr, "hostcuda: %s\n", dlerror());
    return INVALID_IMAGE;
  }
  *m = new Module{handle, std::string(image + LENGTH, end), current_, {}};
  return OK;
}
API int cuModuleLoad(void**, const char*) { return INVALID_IMAGE; }
API int cuModuleUnload(void*) { return OK; }  // a graph may still use its kernels
API int cuModuleGetFunction(void** function, void* module, const char* name) {
  LOCKED;
  auto* m = (Module*)module;
  auto* kernel = (const HcKernel*)dlsym(m->handle, ("hc_kernel_" + m->prefix + name).c_str());
  if (!kernel) return NOT_FOUND;
  Function& f = m->functions[name];
  if (f.name.empty()) {
    f.name = name;
    f.kernel = kernel;
    f.device = m->device;
    for (int i = 0; i < kernel->n; i++) add_parameter(f, kernel->sizes[i], kernel->alignments[i]);
  }
  *function = &f;
  return OK;
}
API int cuModuleGetGlobal_v2(void** p, size_t* n, void* module, const char* name) {
  *p = dlsym(((Module*)module)->handle, name);
  if (!*p) return NOT_FOUND;
  if (n) *n = 0;
  return OK;
}
API int cuLinkCreate_v2() { return NOT_SUPPORTED; }
API int cuLinkAddData_v2() { return NOT_SUPPORTED; }
API int cuLinkAddFile_v2() { return NOT_SUPPORTED; }
API int cuLinkComplete() { return NOT_SUPPORTED; }
API int cuLinkDestroy() { return NOT_SUPPORTED; }

// ---- functions

enum Attribute {
  MAX_THREADS_PER_BLOCK,
  STATIC_SHARED_BYTES,
  CONST_BYTES,
  LOCAL_BYTES,
  REGISTERS,
  PTX_VERSION,
  BINARY_VERSION,
  CACHE_MODE,
  MAX_DYNAMIC_SHARED_BYTES,
};
static unsigned dynamic_shared_limit(const Function& f) {
  unsigned given = SHARED_OF_EVERY_BLOCK - std::min(SHARED_OF_EVERY_BLOCK, static_shared(f));
  return std::max(f.dynamic_shared_limit, given);
}
API int cuFuncGetAttribute(int* value, int attribute, void* function) {
  auto& f = *(Function*)function;
  switch (attribute) {
    case MAX_THREADS_PER_BLOCK: *value = MOST_THREADS; break;
    case STATIC_SHARED_BYTES: *value = static_shared(f); break;
    case REGISTERS: *value = 32; break;
    case PTX_VERSION: *value = 90; break;
    case BINARY_VERSION: *value = 90; break;
    case MAX_DYNAMIC_SHARED_BYTES: *value = dynamic_shared_limit(f); break;
    default: *value = 0;
  }
  return OK;
}
API int cuFuncSetAttribute(void* function, int attribute, int value) {
  auto& f = *(Function*)function;
  if (attribute != MAX_DYNAMIC_SHARED_BYTES) return OK;
  if (value < 0 || (unsigned)value + static_shared(f) > MOST_SHARED) return INVALID_VALUE;
  f.dynamic_shared_limit = value;
  return OK;
}
API int cuFuncGetName(const char** name, void* function) {
  *name = ((Function*)function)->name.c_str();
  return OK;
}
API int cuFuncGetParamInfo(void* function, size_t i, size_t* offset, size_t* size) {
  auto& parameters = ((Function*)function)->parameters;
  if (i >= parameters.size()) return INVALID_VALUE;
  *offset = parameters[i].offset;
  if (size) *size = parameters[i].size;
  return OK;
}
API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, void*, int, size_t) {
  *n = 4;
  return OK;
}
API int cuOccupancyMaxPotentialBlockSize(int* blocks, int* threads, void*, void*, size_t, int) {
  *blocks = 132;
  *threads = 256;
  return OK;
}

// ---- launches

static bool run_threads(const KernelCall& k) {
  auto* kernel = k.function->kernel;
  void** arguments = k.arguments->pointers.data();
  if (kernel->mode == FIBERS) return run_block(kernel->entry, arguments, k.block);
  for (unsigned z = 0; z < k.block.z; z++)
    for (unsigned y = 0; y < k.block.y; y++)
      for (unsigned x = 0; x < k.block.x; x++) {
        hc_state.threadIdx = {x, y, z};
        kernel->entry(arguments);
      }
  return true;
}
// Shared memory is uninitialized at the start of a block.
static void poison_shared(const HcKernel& kernel, unsigned dynamic) {
  if (!poisons()) return;
  if (kernel.shared_begin) memset(kernel.shared_begin, POISON, kernel.shared_end - kernel.shared_begin);
  memset(hc_state.dynamic_shared, POISON, dynamic);
}
static int run_blocks(const KernelCall& k) {
  hc_state.blockDim = k.block;
  hc_state.gridDim = k.grid;
  for (unsigned z = 0; z < k.grid.z; z++)
    for (unsigned y = 0; y < k.grid.y; y++)
      for (unsigned x = 0; x < k.grid.x; x++) {
        hc_state.blockIdx = {x, y, z};
        poison_shared(*k.function->kernel, k.shared);
        if (run_threads(k)) continue;
        fprintf(stderr, "hostcuda: %s: not all threads of block (%u, %u, %u) reach a barrier\n",
                k.function->name.c_str(), x, y, z);
        return LAUNCH_FAILED;
      }
  return OK;
}
int run_kernel(const KernelCall& k) {
  alignas(128) static char dynamic_shared[MOST_SHARED];
  HcState before = hc_state;  // a host function may launch kernels
  hc_state.dynamic_shared = dynamic_shared;
  int error = OK;
  if (k.function->kernel->mode == ONE_CALL) {
    hc_state = {{0, 0, 0}, {0, 0, 0}, {1, 1, 1}, {1, 1, 1}, dynamic_shared};
    k.function->kernel->entry(k.arguments->pointers.data());
  } else {
    error = run_blocks(k);
  }
  hc_state = before;
  return error;
}

static bool fits(const Function& f, Dim grid, Dim block, unsigned shared) {
  if (!grid.x || !grid.y || !grid.z || grid.x > 2147483647u) return false;
  if (grid.y > MOST_BLOCKS_YZ || grid.z > MOST_BLOCKS_YZ) return false;
  uint64_t threads = (uint64_t)block.x * block.y * block.z;
  if (!threads || threads > MOST_THREADS || block.z > MOST_THREADS_Z) return false;
  return shared <= dynamic_shared_limit(f);
}
// A device cannot access the memory of another.  A parameter that is a structure, such as an array with its shape,
// begins with its pointer; the rest may be uninitialized, for example an old address.
static bool can_access_all(const Function& f, const Arguments& a, int device) {
  for (size_t i = 0; i < f.parameters.size(); i++) {
    const void* p;
    if (f.parameters[i].size < sizeof p) continue;
    memcpy(&p, a.pointers[i], sizeof p);
    int owner = device_of(p);
    if (owner >= 0 && owner != device) return false;
  }
  return true;
}

API int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, void* stream, void** values, void** extra) {
  LOCKED;
  auto* f = (Function*)function;
  Dim grid{gx, gy, gz}, block{bx, by, bz};
  if (extra || !fits(*f, grid, block, shared)) return INVALID_VALUE;
  if (f->device != current_ || stream_of(stream)->device != current_) return INVALID_HANDLE;
  auto arguments = arguments_of(*f, values);
  if (devices() > 1 && !can_access_all(*f, *arguments, current_)) return ILLEGAL_ADDRESS;
  return submit(stream, {f->name.c_str(), KernelCall{f, grid, block, shared, arguments, nullptr}, {}});
}
API int cuLaunchCooperativeKernel() { return NOT_SUPPORTED; }

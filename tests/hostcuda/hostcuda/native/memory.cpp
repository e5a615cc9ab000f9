// Device memory, pinned host memory, copies and fills.
#include "runtime.h"
#include <algorithm>
#include <cstdlib>

struct Block {
  size_t size;
  int device;
};
struct Freed {
  void* at;
  size_t size;
};

constexpr size_t POISONED_NEW = 4 << 20;      // bytes of each new block, so that large ones stay cheap
constexpr size_t POISONED_FREED = 64 << 20;   // bytes of each freed block
constexpr size_t KEPT_FREED = 256 << 20;      // bytes of freed memory that the host gets back late
constexpr size_t ALIGNMENT = 512;

static std::map<uintptr_t, Block> device_, pinned_;
static std::map<int, size_t> used_;  // by device
static std::deque<Freed> freed_;
static size_t freed_bytes_ = 0;

size_t device_memory() {
  static size_t bytes = (size_t)env("HOSTCUDA_MEMORY_MIB", 16384) << 20;
  return bytes;
}

static const Block* block_of(const std::map<uintptr_t, Block>& blocks, const void* p) {
  auto it = blocks.upper_bound((uintptr_t)p);
  if (it == blocks.begin()) return nullptr;
  --it;
  bool inside = (uintptr_t)p < it->first + std::max<size_t>(it->second.size, 1);
  return inside ? &it->second : nullptr;
}
bool on_device(const void* p) { return block_of(device_, p); }
int device_of(const void* p) {
  const Block* b = block_of(device_, p);
  return b ? b->device : -1;
}
static bool is_pinned(const void* p) { return block_of(pinned_, p); }

// ---- allocation

static int allocate(void** p, size_t n) {
  *p = nullptr;
  if (used_[current_] + n > device_memory()) return OUT_OF_MEMORY;
  if (posix_memalign(p, ALIGNMENT, n + ALIGNMENT)) return OUT_OF_MEMORY;
  if (poisons()) memset(*p, POISON, std::min(n, POISONED_NEW));
  device_[(uintptr_t)*p] = {n, current_};
  used_[current_] += n;
  return OK;
}

// Freed memory is returned to the host late, so that a use after free reads poison.
static int release(void* p) {
  auto it = device_.find((uintptr_t)p);
  if (it == device_.end()) return INVALID_VALUE;
  Block b = it->second;
  device_.erase(it);
  used_[b.device] -= b.size;
  if (!poisons()) {
    free(p);
    return OK;
  }
  memset(p, POISON, std::min(b.size, POISONED_FREED));
  freed_.push_back({p, b.size});
  freed_bytes_ += b.size;
  while (freed_bytes_ > KEPT_FREED) {
    free(freed_.front().at);
    freed_bytes_ -= freed_.front().size;
    freed_.pop_front();
  }
  return OK;
}

// For memory that the caller's pool keeps.  Delayed work runs first, as it may use the memory.
API void hc_poison(void* p, size_t n) {
  LOCKED;
  run_everything();
  memset(p, POISON, n);
}

API int hc_rt_cudaMalloc(void** p, size_t n) {
  LOCKED;
  NEEDS_DEVICE;
  count("[malloc]");
  if (int e = unsafe_error()) return e;
  return allocate(p, n);
}
API int hc_rt_cudaMallocManaged(void** p, size_t n, unsigned) { return hc_rt_cudaMalloc(p, n); }
API int hc_rt_cudaFree(void* p) {
  LOCKED;
  NEEDS_DEVICE;
  if (!p) return OK;
  if (int e = unsafe_error()) return e;
  run_everything();
  return release(p);
}

// Allocations inside a capture are not supported.
API int hc_rt_cudaMallocAsync(void** p, size_t n, void* stream) {
  LOCKED;
  NEEDS_DEVICE;
  count("[malloc]");
  if (stream_of(stream)->capture) return NOT_SUPPORTED;
  return allocate(p, n);
}
API int hc_rt_cudaMallocFromPoolAsync(void** p, size_t n, void*, void* stream) {
  return hc_rt_cudaMallocAsync(p, n, stream);
}
API int hc_rt_cudaFreeAsync(void* p, void* stream) {
  LOCKED;
  if (stream_of(stream)->capture) return NOT_SUPPORTED;
  return submit(stream, {"[free]", HostCall{nullptr, nullptr, [p] { release(p); }}, {}});
}

API int hc_rt_cudaHostAlloc(void** p, size_t n, unsigned) {
  LOCKED;
  NEEDS_DEVICE;
  count("[host alloc]");
  if (int e = unsafe_error()) return e;
  *p = malloc(n ? n : 1);
  if (!*p) return OUT_OF_MEMORY;
  pinned_[(uintptr_t)*p] = {n, current_};
  return OK;
}
API int hc_rt_cudaMallocHost(void** p, size_t n) { return hc_rt_cudaHostAlloc(p, n, 0); }
API int hc_rt_cudaFreeHost(void* p) {
  LOCKED;
  run_everything();
  pinned_.erase((uintptr_t)p);
  free(p);
  return OK;
}
API int hc_rt_cudaHostRegister(void* p, size_t n, unsigned) {
  LOCKED;
  pinned_[(uintptr_t)p] = {n, current_};
  return OK;
}
API int hc_rt_cudaHostUnregister(void* p) {
  LOCKED;
  run_everything();
  pinned_.erase((uintptr_t)p);
  return OK;
}

API int hc_rt_cudaMemGetInfo(size_t* unused, size_t* all) {
  LOCKED;
  NEEDS_DEVICE;
  *all = device_memory();
  *unused = device_memory() - used_[current_];
  return OK;
}
API int hc_rt_cudaPointerGetAttributes(void* attributes, const void* p) {
  enum { UNREGISTERED, HOST, DEVICE };
  struct {
    int type, device;
    const void *on_device, *on_host;
  } answer{UNREGISTERED, current_, nullptr, p};
  LOCKED;
  if (const Block* b = block_of(device_, p)) answer = {DEVICE, b->device, p, nullptr};
  else if (const Block* b = block_of(pinned_, p)) answer = {HOST, b->device, p, p};
  memcpy(attributes, &answer, sizeof answer);
  return OK;
}

// ---- copies and fills

enum Kind { HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, BY_ADDRESS };

static int kind_of(const CopyCall& c) {
  if (c.kind != BY_ADDRESS) return c.kind;
  return on_device(c.from) ? (on_device(c.to) ? DEVICE_TO_DEVICE : DEVICE_TO_HOST)
                           : (on_device(c.to) ? HOST_TO_DEVICE : HOST_TO_HOST);
}
static const char* name_of(int kind) {
  static const char* names[] = {"[copy on host]", "[copy to device]", "[copy to host]", "[copy on device]"};
  return names[kind & 3];
}

// A copy from or to pageable host memory is complete when the call returns, as in CUDA.
static int submit_copy(void* stream, CopyCall c) {
  LOCKED;
  c.kind = kind_of(c);
  const char* name = name_of(c.kind);
  if (stream_of(stream)->capture) return submit(stream, {name, c, {}});
  if (c.kind == HOST_TO_DEVICE && !is_pinned(c.from)) {
    c.staged = std::make_shared<std::vector<char>>(c.width * c.height);
    for (size_t row = 0; row < c.height; row++)
      memcpy(c.staged->data() + row * c.width, (const char*)c.from + row * c.from_pitch, c.width);
    c.from = c.staged->data();
    c.from_pitch = c.width;
  }
  bool waits = c.kind == DEVICE_TO_HOST && !is_pinned(c.to);
  int e = submit(stream, {name, std::move(c), {}});
  return !e && waits ? hc_wait(stream) : e;
}
static CopyCall flat(void* to, const void* from, size_t n, int kind) { return {to, from, n, 1, n, n, kind, nullptr}; }

API int hc_rt_cudaMemcpyAsync(void* to, const void* from, size_t n, int kind, void* stream) {
  return submit_copy(stream, flat(to, from, n, kind));
}

// The host waits for copies from and to host memory, but not for copies on the device.
static int copy_and_wait(CopyCall c) {
  LOCKED;
  if (int e = unsafe_error()) return e;
  c.kind = kind_of(c);
  bool waits = c.kind != DEVICE_TO_DEVICE;
  if (int e = submit(nullptr, {name_of(c.kind), std::move(c), {}})) return e;
  return waits ? hc_wait(nullptr) : OK;
}
API int hc_rt_cudaMemcpy(void* to, const void* from, size_t n, int kind) {
  return copy_and_wait(flat(to, from, n, kind));
}
API int hc_rt_cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                size_t height, int kind, void* stream) {
  return submit_copy(stream, {to, from, width, height, to_pitch, from_pitch, kind, nullptr});
}
API int hc_rt_cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                           int kind) {
  return copy_and_wait({to, from, width, height, to_pitch, from_pitch, kind, nullptr});
}
API int hc_rt_cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t n, void* stream) {
  return hc_rt_cudaMemcpyAsync(to, from, n, DEVICE_TO_DEVICE, stream);
}
API int hc_rt_cudaMemcpyPeer(void* to, int, const void* from, int, size_t n) {
  return hc_rt_cudaMemcpy(to, from, n, DEVICE_TO_DEVICE);
}
API int hc_rt_cudaMemsetAsync(void* to, int value, size_t n, void* stream) {
  return submit(stream, {"[memset]", FillCall{to, value & 255, n, 1, n}, {}});
}
API int hc_rt_cudaMemset(void* to, int value, size_t n) { return hc_rt_cudaMemsetAsync(to, value, n, nullptr); }
API int hc_rt_cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, void* stream) {
  return submit(stream, {"[memset]", FillCall{to, value & 255, width, height, pitch}, {}});
}
API int hc_rt_cudaMemset2D(void* to, size_t pitch, int value, size_t width, size_t height) {
  return hc_rt_cudaMemset2DAsync(to, pitch, value, width, height, nullptr);
}
API int hc_rt_cudaMemAdvise() { return OK; }
API int hc_rt_cudaMemPrefetchAsync() { return OK; }

// ---- memory pools of the runtime: a single one without settings

API int hc_rt_cudaDeviceGetDefaultMemPool(void** pool, int) {
  *pool = (void*)1;
  return OK;
}
API int hc_rt_cudaDeviceGetMemPool(void** pool, int) {
  *pool = (void*)1;
  return OK;
}
API int hc_rt_cudaDeviceSetMemPool(int, void*) { return OK; }
API int hc_rt_cudaMemPoolTrimTo(void*, size_t) { return OK; }
API int hc_rt_cudaMemPoolSetAttribute(void*, int, void*) { return OK; }
API int hc_rt_cudaMemPoolGetAttribute(void*, int, void* value) {
  LOCKED;
  *(uint64_t*)value = used_[current_];
  return OK;
}

// Streams and events.
//
// In eager mode, work runs when it is submitted.  In lazy mode, it waits in the queue of its stream until something
// synchronizes with it, and then only its dependencies run: a missing wait gives wrong values.
#include "runtime.h"
#include <chrono>

struct Event {
  Point at{nullptr, 0};
  Capture* capture = nullptr;
  std::vector<int> tips;  // the captured nodes before it
  double ms = 0;
  bool recorded = false;
};

// A longer queue is run in part, to limit memory.
constexpr size_t LONGEST_QUEUE = 20000;

static std::vector<Stream*> streams_;  // never deleted, since events point to them
std::vector<Capture*> captures_;
bool lazy_ = env("HOSTCUDA_LAZY", 0);
int failed_ = 0;
static thread_local int capture_mode_ = 0;  // cudaStreamCaptureModeGlobal

int take_failed() {
  int e = failed_;
  failed_ = OK;
  return e;
}

// The default streams of a device.
struct Defaults {
  Stream legacy, per_thread;
};
static Defaults& defaults(int device) {
  static std::map<int, Defaults> each;
  Defaults& d = each[device];
  d.legacy.device = d.per_thread.device = device;
  return d;
}
static Stream* legacy(int device) { return &defaults(device).legacy; }
static Stream* per_thread(int device) { return &defaults(device).per_thread; }
bool is_legacy(Stream* s) { return s == legacy(s->device); }
Stream* stream_of(void* handle) {
  if (handle == nullptr || handle == (void*)1) return legacy(current_);
  if (handle == (void*)2) return per_thread(current_);
  return (Stream*)handle;
}

// ---- running queued work

static void run_until(Stream* s, uint64_t number) {
  while (!s->waiting.empty() && s->waiting.front().number <= number) {
    Item item = std::move(s->waiting.front());
    s->waiting.pop_front();
    for (auto& p : item.after) run_until(p.stream, p.number);
    run(item.node);
  }
  if (number < s->last) return;
  std::vector<Point> after;  // moved out first, since two streams may wait for each other
  after.swap(s->after);
  for (auto& p : after) run_until(p.stream, p.number);
}
void run_all(Stream* s) { run_until(s, s->last); }
void run_everything() {
  for (size_t i = 0; i < streams_.size(); i++) run_all(streams_[i]);
  for (int d = 0; d < devices(); d++) {
    run_all(per_thread(d));
    run_all(legacy(d));
  }
}
API void hc_lazy(int on) {
  LOCKED;
  run_everything();
  lazy_ = on;
}

// In dry mode work is counted and checked, but not executed.
static bool dry_ = false;
API void hc_dry(int on) {
  LOCKED;
  run_everything();
  dry_ = on;
}

// The legacy stream of a device and its blocking streams wait for each other.
static void add_implied_waits(Stream* s) {
  Stream* l = legacy(s->device);
  if (s == l) {
    for (auto* o : streams_)
      if (o->device == s->device && o->blocking && o->last) s->after.push_back({o, o->last});
    if (per_thread(s->device)->last) s->after.push_back({per_thread(s->device), per_thread(s->device)->last});
  } else if (s->blocking && l->last) {
    s->after.push_back({l, l->last});
  }
}

static void enqueue(Stream* s, Node node) {
  add_implied_waits(s);
  s->waiting.push_back({++s->last, std::move(node), std::move(s->after)});
  s->after.clear();
}

// ---- errors during captures

int implicit_error(Stream* s) {
  if (!is_legacy(s)) return OK;
  for (auto* c : captures_) {
    bool blocks = false;
    for (auto* o : c->streams) blocks |= o->blocking;
    if (blocks) {
      c->invalid = true;
      return CAPTURE_IMPLICIT;
    }
  }
  return OK;
}

int unsafe_error() {
  enum { GLOBAL, THREAD_LOCAL, RELAXED };
  if (capture_mode_ == RELAXED) return OK;
  for (auto* c : captures_) {
    if (c->mode == RELAXED) continue;
    bool ours = c->thread == std::this_thread::get_id();
    bool everyone = c->mode == GLOBAL && capture_mode_ == GLOBAL;
    if (ours || everyone) {
      c->invalid = true;
      return CAPTURE_UNSUPPORTED;
    }
  }
  return OK;
}
API int hc_rt_cudaThreadExchangeStreamCaptureMode(int* mode) {
  std::swap(*mode, capture_mode_);
  return OK;
}
API int cuThreadExchangeStreamCaptureMode(int* mode) { return hc_rt_cudaThreadExchangeStreamCaptureMode(mode); }

static int invalidate(Capture* c, int error) {
  c->invalid = true;
  return error;
}

// ---- submitting

int submit(void* handle, Node node) {
  LOCKED;
  NEEDS_DEVICE;
  count(node.name);
  Stream* s = stream_of(handle);
  if (Capture* c = s->capture) {
    if (c->invalid) return CAPTURE_INVALIDATED;
    node.after = std::move(s->tips);
    c->nodes.push_back(std::move(node));
    s->tips = {(int)c->nodes.size() - 1};
    return OK;
  }
  if (int e = implicit_error(s)) return e;
  if (dry_) return OK;
  if (!lazy_) {
    run(node);
    return take_failed();
  }
  enqueue(s, std::move(node));
  if (s->waiting.size() > LONGEST_QUEUE) run_until(s, s->waiting.front().number + LONGEST_QUEUE / 2);
  return OK;
}

int hc_submit(void* stream, const char* name, Op op, std::vector<const void*> pointers) {
  LOCKED;
  Function* f = library_function(name, pointers.size());
  std::vector<void*> values;
  for (auto& p : pointers) values.push_back(&p);
  KernelCall call{f, {1, 1, 1}, {1, 1, 1}, 0, arguments_of(*f, values.data()), std::move(op)};
  return submit(stream, {name, std::move(call), {}});
}
int hc_wait(void* stream) {
  LOCKED;
  count("[synchronize stream]");
  return synchronize(stream_of(stream));
}

// ---- streams

API int hc_rt_cudaStreamCreateWithFlags(void** s, unsigned flags) {
  LOCKED;
  NEEDS_DEVICE;
  auto* made = new Stream;
  made->device = current_;
  made->blocking = !(flags & 1);
  streams_.push_back(made);
  *s = made;
  return OK;
}
API int hc_rt_cudaStreamCreate(void** s) { return hc_rt_cudaStreamCreateWithFlags(s, 0); }
API int hc_rt_cudaStreamCreateWithPriority(void** s, unsigned flags, int) {
  return hc_rt_cudaStreamCreateWithFlags(s, flags);
}
API int hc_rt_cudaStreamDestroy(void*) { return OK; }  // its work still runs, as in CUDA
API int hc_rt_cudaStreamGetPriority(void*, int* priority) {
  *priority = 0;
  return OK;
}
API int hc_rt_cudaStreamGetFlags(void* s, unsigned* flags) {
  *flags = !stream_of(s)->blocking;
  return OK;
}
API int hc_rt_cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return OK;
}

int synchronize(Stream* s) {
  if (s->capture) return invalidate(s->capture, CAPTURE_UNSUPPORTED);
  if (int e = implicit_error(s)) return e;
  add_implied_waits(s);
  run_all(s);
  return take_failed();
}
API int hc_rt_cudaStreamSynchronize(void* handle) {
  NEEDS_DEVICE;
  return hc_wait(handle);
}
API int hc_rt_cudaStreamQuery(void* handle) {
  LOCKED;
  Stream* s = stream_of(handle);
  if (s->capture) return invalidate(s->capture, CAPTURE_UNSUPPORTED);
  run_all(s);  // a program may poll until it is complete
  return OK;
}
API int hc_rt_cudaDeviceSynchronize() {
  LOCKED;
  NEEDS_DEVICE;
  count("[synchronize device]");
  for (auto* c : captures_)
    if (c->origin->device == current_) return invalidate(c, CAPTURE_UNSUPPORTED);
  for (size_t i = 0; i < streams_.size(); i++)
    if (streams_[i]->device == current_) run_all(streams_[i]);
  run_all(per_thread(current_));
  run_all(legacy(current_));
  return take_failed();
}

// A wait for a captured event makes the stream join the capture.
static int wait_in_capture(Stream* s, Event* e) {
  if (e->capture->ended) return CAPTURED_EVENT;
  if (!s->capture) {
    s->capture = e->capture;
    s->tips.clear();
    s->capture->streams.push_back(s);
  } else if (s->capture != e->capture) {
    return CAPTURE_ISOLATION;
  }
  s->tips.insert(s->tips.end(), e->tips.begin(), e->tips.end());
  return OK;
}
API int hc_rt_cudaStreamWaitEvent(void* handle, void* event, unsigned) {
  LOCKED;
  count("[wait event]");
  Stream* s = stream_of(handle);
  auto* e = (Event*)event;
  if (e->capture) return wait_in_capture(s, e);
  if (!e->recorded) return OK;
  if (s->capture) return invalidate(s->capture, CAPTURE_ISOLATION);
  if (lazy_) s->after.push_back(e->at);
  return OK;
}

API int hc_rt_cudaLaunchHostFunc(void* s, void (*fn)(void*), void* data) {
  return submit(s, {"[host function]", HostCall{fn, data, nullptr}, {}});
}
API int hc_rt_cudaStreamAddCallback(void* s, void (*fn)(void*, int, void*), void* data, unsigned) {
  return submit(s, {"[callback]", HostCall{nullptr, nullptr, [=] { fn(s, 0, data); }}, {}});
}

// ---- events

static double now_ms() {
  auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(since).count();
}

API int hc_rt_cudaEventCreateWithFlags(void** e, unsigned) {
  NEEDS_DEVICE;
  *e = new Event;
  return OK;
}
API int hc_rt_cudaEventCreate(void** e) { return hc_rt_cudaEventCreateWithFlags(e, 0); }
API int hc_rt_cudaEventDestroy(void* e) {
  LOCKED;
  delete (Event*)e;
  return OK;
}
API int hc_rt_cudaEventRecord(void* event, void* handle) {
  LOCKED;
  count("[record event]");
  auto* e = (Event*)event;
  Stream* s = stream_of(handle);
  if (!s->capture)
    if (int error = implicit_error(s)) return error;
  e->capture = s->capture;
  e->recorded = true;
  e->ms = now_ms();
  if (s->capture) {
    e->tips = s->tips;
    return OK;
  }
  if (lazy_) enqueue(s, {"", HostCall{nullptr, nullptr, [] {}}, {}});
  e->at = {s, s->last};
  return OK;
}
API int hc_rt_cudaEventRecordWithFlags(void* e, void* s, unsigned) { return hc_rt_cudaEventRecord(e, s); }

static int complete(Event* e) {
  if (e->capture) return invalidate(e->capture, CAPTURED_EVENT);
  if (e->at.stream) run_until(e->at.stream, e->at.number);
  return OK;
}
API int hc_rt_cudaEventSynchronize(void* event) {
  LOCKED;
  count("[synchronize event]");
  if (int e = complete((Event*)event)) return e;
  return take_failed();
}
API int hc_rt_cudaEventQuery(void* event) {
  LOCKED;
  return complete((Event*)event);
}
API int hc_rt_cudaEventElapsedTime(float* ms, void* start, void* stop) {
  auto *a = (Event*)start, *b = (Event*)stop;
  if (!a->recorded || !b->recorded) return INVALID_HANDLE;
  *ms = (float)(b->ms - a->ms);
  return OK;
}

// Capture and graphs.  A graph is a list of nodes in the order in which they were captured.
#include "runtime.h"
#include <algorithm>

struct Graph {
  std::vector<Node> nodes;
};
struct Exec {
  std::shared_ptr<const std::vector<Node>> nodes;  // in the order in which they run
};

// ---- running a node

static void copy(const CopyCall& c) {
  for (size_t row = 0; row < c.height; row++)
    memmove((char*)c.to + row * c.to_pitch, (const char*)c.from + row * c.from_pitch, c.width);
}
static void fill(const FillCall& f) {
  for (size_t row = 0; row < f.height; row++) memset((char*)f.to + row * f.pitch, f.value, f.width);
}

void run(const Node& node) {
  if (auto* k = std::get_if<KernelCall>(&node.call)) {
    if (k->library) k->library();
    else if (int e = run_kernel(*k)) failed_ = e;
  } else if (auto* c = std::get_if<CopyCall>(&node.call)) {
    copy(*c);
  } else if (auto* f = std::get_if<FillCall>(&node.call)) {
    fill(*f);
  } else {
    auto& h = std::get<HostCall>(node.call);
    if (h.fn) h.fn(h.data);
    else h.op();
  }
}

// ---- capture

API int hc_rt_cudaStreamBeginCapture(void* handle, int mode) {
  LOCKED;
  NEEDS_DEVICE;
  Stream* s = stream_of(handle);
  if (is_legacy(s)) return CAPTURE_UNSUPPORTED;
  if (s->capture) return INVALID_VALUE;
  auto* c = new Capture;
  c->origin = s;
  c->mode = mode;
  c->thread = std::this_thread::get_id();
  c->streams.push_back(s);
  s->capture = c;
  s->tips.clear();
  captures_.push_back(c);
  return OK;
}

// Returns true if the last nodes of the origin depend, directly or indirectly, on every node.
static bool joined(const Capture& c) {
  std::vector<bool> reached(c.nodes.size());
  for (int i : c.origin->tips) reached[i] = true;
  for (int i = (int)c.nodes.size() - 1; i >= 0; i--) {
    if (!reached[i]) return false;  // no later node depends on it
    for (int before : c.nodes[i].after) reached[before] = true;
  }
  return true;
}

API int hc_rt_cudaStreamEndCapture(void* handle, void** graph) {
  LOCKED;
  Stream* s = stream_of(handle);
  Capture* c = s->capture;
  *graph = nullptr;
  if (!c) return INVALID_VALUE;
  if (c->origin != s) return CAPTURE_UNMATCHED;
  enum { RELAXED = 2 };
  if (c->mode != RELAXED && c->thread != std::this_thread::get_id()) return CAPTURE_WRONG_THREAD;
  int error = c->invalid ? CAPTURE_INVALIDATED : joined(*c) ? OK : CAPTURE_UNJOINED;
  for (auto* o : c->streams) {
    o->capture = nullptr;
    o->tips.clear();
  }
  std::erase(captures_, c);
  c->ended = true;  // not deleted, since events may point to it
  if (!error) *graph = new Graph{std::move(c->nodes)};
  c->nodes.clear();
  return error;
}
API int hc_rt_cudaStreamIsCapturing(void* handle, int* status) {
  LOCKED;
  enum { NONE, ACTIVE, INVALIDATED };
  Stream* s = stream_of(handle);
  if (int e = implicit_error(s)) return e;
  *status = !s->capture ? NONE : s->capture->invalid ? INVALIDATED : ACTIVE;
  return OK;
}

// ---- launching

// A valid order that differs from the order of capture where the dependencies allow it: backwards from the last node,
// and of several dependencies the latest captured first.  A missing dependency gives wrong values.
static std::vector<Node> late_order(const std::vector<Node>& nodes) {
  std::vector<Node> order;
  std::vector<bool> done(nodes.size());
  std::function<void(int)> visit = [&](int i) {
    if (done[i]) return;
    done[i] = true;
    auto before = nodes[i].after;
    std::sort(before.rbegin(), before.rend());
    for (int b : before) visit(b);
    order.push_back(nodes[i]);
  };
  for (int i = (int)nodes.size() - 1; i >= 0; i--) visit(i);
  return order;
}

API int hc_rt_cudaGraphInstantiate(void** exec, void* graph, unsigned long long) {
  LOCKED;
  auto* g = (Graph*)graph;
  bool forks = false;
  for (size_t i = 1; i < g->nodes.size(); i++) forks |= g->nodes[i].after != std::vector<int>{(int)i - 1};
  *exec = new Exec{std::make_shared<std::vector<Node>>(lazy_ && forks ? late_order(g->nodes) : g->nodes)};
  return OK;
}
API int hc_rt_cudaGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
  return hc_rt_cudaGraphInstantiate(exec, graph, flags);
}
API int hc_rt_cudaGraphLaunch(void* exec, void* stream) {
  auto all = [nodes = ((Exec*)exec)->nodes] {  // they outlive a graph that is destroyed before they run
    for (auto& node : *nodes) run(node);
  };
  return submit(stream, {"[graph]", HostCall{nullptr, nullptr, all}, {}});
}
API int hc_rt_cudaGraphUpload(void*, void*) { return OK; }
API int hc_rt_cudaGraphDestroy(void* g) {
  delete (Graph*)g;
  return OK;
}
API int hc_rt_cudaGraphExecDestroy(void* exec) {
  delete (Exec*)exec;
  return OK;
}
API int hc_rt_cudaGraphDebugDotPrint(void*, const char*, unsigned) { return OK; }

// ---- the contents of a graph, by functions of the driver; the structures are those of cuda.h

struct KernelNodeParams {  // CUDA_KERNEL_NODE_PARAMS_v2
  void* func;
  unsigned grid[3], block[3], shared_bytes;
  void **params, **extra;
  void *kern, *context;
};
struct MemsetNodeParams {  // CUDA_MEMSET_NODE_PARAMS
  const void* to;
  size_t pitch;
  unsigned value, element;
  size_t width, height;
};
struct CopySide {
  size_t x, y, z, level;
  int type;
  const void *host, *device, *array, *reserved;
  size_t pitch, height;
};
struct MemcpyNodeParams {  // CUDA_MEMCPY3D_v2
  CopySide from, to;
  size_t width, height, depth;
};
struct HostNodeParams {  // CUDA_HOST_NODE_PARAMS
  void (*fn)(void*);
  void* data;
};

// Fills at most *n entries; without `entries` it only sets *n to their number.
template <class F> static int list(void** entries, size_t* n, size_t total, F entry) {
  if (entries) {
    for (size_t i = 0; i < *n; i++) entries[i] = i < total ? entry(i) : nullptr;
    if (*n > total) *n = total;
  } else {
    *n = total;
  }
  return OK;
}
API int cuGraphGetNodes(void* graph, void** nodes, size_t* n) {
  auto& all = ((Graph*)graph)->nodes;
  return list(nodes, n, all.size(), [&](size_t i) { return (void*)&all[i]; });
}
API int hc_rt_cudaGraphGetNodes(void* graph, void** nodes, size_t* n) { return cuGraphGetNodes(graph, nodes, n); }
API int cuGraphGetEdges_v2(void* graph, void** from, void** to, void*, size_t* n) {
  auto& all = ((Graph*)graph)->nodes;
  std::vector<std::pair<void*, void*>> edges;
  for (auto& node : all)
    for (int before : node.after) edges.push_back({&all[before], &node});
  size_t capacity = *n;
  list(from, n, edges.size(), [&](size_t i) { return edges[i].first; });
  return list(to, &capacity, edges.size(), [&](size_t i) { return edges[i].second; });
}
API int cuGraphNodeGetType(void* node, int* type) {
  *type = (int)((Node*)node)->call.index();
  return OK;
}

API int cuGraphKernelNodeGetParams_v2(void* node, KernelNodeParams* p) {
  auto* k = std::get_if<KernelCall>(&((Node*)node)->call);
  if (!k) return INVALID_VALUE;
  *p = {k->function,
        {k->grid.x, k->grid.y, k->grid.z},
        {k->block.x, k->block.y, k->block.z},
        k->shared,
        k->arguments->pointers.data(),
        nullptr,
        nullptr,
        nullptr};
  return OK;
}
API int cuGraphMemsetNodeGetParams(void* node, MemsetNodeParams* p) {
  auto* f = std::get_if<FillCall>(&((Node*)node)->call);
  if (!f) return INVALID_VALUE;
  *p = {f->to, f->pitch, (unsigned)f->value, 1, f->width, f->height};
  return OK;
}
API int cuGraphMemcpyNodeGetParams(void* node, MemcpyNodeParams* p) {
  auto* c = std::get_if<CopyCall>(&((Node*)node)->call);
  if (!c) return INVALID_VALUE;
  auto side = [&](const void* memory, size_t pitch) {
    enum { HOST = 1, DEVICE = 2 };
    CopySide s{};
    s.type = on_device(memory) ? DEVICE : HOST;
    (s.type == DEVICE ? s.device : s.host) = memory;
    s.pitch = pitch;
    s.height = c->height;
    return s;
  };
  *p = {side(c->from, c->from_pitch), side(c->to, c->to_pitch), c->width, c->height, 1};
  return OK;
}
API int cuGraphHostNodeGetParams(void* node, HostNodeParams* p) {
  auto* h = std::get_if<HostCall>(&((Node*)node)->call);
  if (!h) return INVALID_VALUE;
  *p = {h->fn, h->data};
  return OK;
}

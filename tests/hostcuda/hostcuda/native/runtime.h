// Shared declarations of libcuda.
//
// The device is emulated in this process: device memory is host memory, a stream is a queue of work, a graph is a list
// of nodes, a thread block is a set of fibers.  Functions named hc_rt_cuda... replace those of the CUDA runtime that is
// linked statically into CuPy's modules (patch.py writes the jumps); the others have the driver's own names.
#pragma once
#include "hostcuda.h"
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>

enum Error {
  OK = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  CAPTURE_UNSUPPORTED = 900,
  CAPTURE_INVALIDATED = 901,
  CAPTURE_UNMATCHED = 903,
  CAPTURE_UNJOINED = 904,
  CAPTURE_ISOLATION = 905,
  CAPTURE_IMPLICIT = 906,
  CAPTURED_EVENT = 907,
  CAPTURE_WRONG_THREAD = 908,
};

// One global lock.  Device work runs while it is held, so two host threads take turns.
extern std::recursive_mutex lock_;
#define LOCKED std::lock_guard<std::recursive_mutex> guard_(lock_)

int env(const char* name, int otherwise);

// New and freed memory is filled with this byte; 0xfbfbfbfb is -2.6e36 in float32.
constexpr int POISON = 0xfb;
bool poisons();

void count(const char* name);  // counts an operation, if counting is on
const char* error_name(int e);
const char* error_text(int e);

// ---- devices.cpp

int devices();                    // the number of visible devices
extern thread_local int current_; // the current device of this host thread
#define NEEDS_DEVICE \
  if (!devices()) return NO_DEVICE

// ---- kernels.cpp and fibers.cpp

struct Dim {
  unsigned x, y, z;
};

enum Mode { ONE_THREAD_AFTER_ANOTHER, FIBERS, ONE_CALL };

// The descriptor of a compiled kernel, as in include/hostcuda/launch.h.
struct HcKernel {
  void (*entry)(void**);
  int mode;
  int n;
  const size_t* sizes;
  const size_t* alignments;
  char* shared_begin;  // its __shared__ variables; null if it has none
  char* shared_end;
};

struct Parameter {
  size_t offset, size;
};

struct Function {
  std::string name;
  const HcKernel* kernel;  // null for a library function, whose parameters are pointers
  std::vector<Parameter> parameters;
  size_t bytes = 0;  // of all parameters
  int device = 0;
  unsigned dynamic_shared_limit = 0;  // set by cuFuncSetAttribute
};

// The values of a launch's parameters in CUDA's layout, and a pointer to each.
struct Arguments {
  std::vector<char> bytes;
  std::vector<void*> pointers;
};

std::shared_ptr<Arguments> arguments_of(const Function& f, void** values);
Function* library_function(const char* name, size_t pointers);

extern int failed_;  // the error of work that ran, until a call returns it
int take_failed();

// ---- the work in streams and graphs

struct KernelCall {
  Function* function;
  Dim grid, block;
  unsigned shared;
  std::shared_ptr<Arguments> arguments;
  Op library;  // the function, for a library
};
struct CopyCall {
  void* to;
  const void* from;
  size_t width, height, to_pitch, from_pitch;
  int kind;
  std::shared_ptr<std::vector<char>> staged;  // owns `from` if it is a staged copy
};
struct FillCall {
  void* to;
  int value;
  size_t width, height, pitch;
};
struct HostCall {
  void (*fn)(void*);
  void* data;
  Op op;  // in place of fn, for work of the runtime itself
};

struct Node {
  const char* name;
  std::variant<KernelCall, CopyCall, FillCall, HostCall> call;  // in the order of CUgraphNodeType
  std::vector<int> after;                                       // the indices of the nodes that it depends on
};

void run(const Node& node);
int run_kernel(const KernelCall& call);
int submit(void* stream, Node node);

// ---- streams.cpp and graphs.cpp

struct Stream;

// The work of a stream up to a number.
struct Point {
  Stream* stream;
  uint64_t number;
};
struct Item {
  uint64_t number;
  Node node;
  std::vector<Point> after;
};

struct Capture {
  std::vector<Node> nodes;
  std::vector<Stream*> streams;
  Stream* origin;
  int mode;
  std::thread::id thread;
  bool invalid = false;
  bool ended = false;
};

struct Stream {
  int device = 0;
  bool blocking = true;
  std::deque<Item> waiting;
  uint64_t last = 0;
  std::vector<Point> after;  // dependencies of the next item, besides the item before it
  Capture* capture = nullptr;
  std::vector<int> tips;  // while it captures: the dependencies of its next node
};

extern std::vector<Capture*> captures_;  // the active ones
extern bool lazy_;

Stream* stream_of(void* handle);
bool is_legacy(Stream* s);
void run_all(Stream* s);
void run_everything();
int implicit_error(Stream* s);  // for an operation on the legacy stream while others capture
int unsafe_error();             // for a call that is not allowed during a capture
int synchronize(Stream* s);     // without counting it

// ---- memory.cpp

size_t device_memory();  // bytes of one device
bool on_device(const void* p);
int device_of(const void* p);  // -1 if it is not device memory

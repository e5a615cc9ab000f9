// The threads of a block as fibers, for kernels with cooperating threads.  Each fiber has a stack; a barrier switches
// to another fiber.
#include "fibers.h"
#include <sys/mman.h>

SHARED HcState hc_state;

// Saves the callee-saved registers, and continues where `to` was saved.
#if defined(__x86_64__)
extern "C" void hc_switch(void** save, void* to);
asm(R"(
.text
.globl hc_switch
.hidden hc_switch
.type hc_switch,@function
hc_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#elif defined(__aarch64__)
extern "C" void hc_switch(void** save, void* to);
asm(R"(
.text
.globl hc_switch
.hidden hc_switch
.type hc_switch,%function
hc_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)");
#else
#error "hostcuda: fibers are implemented for x86-64 and aarch64 only"
#endif

namespace {
constexpr int WARP = 32;
constexpr int MOST_THREADS = 1024;
constexpr size_t STACK = 128 << 10;
constexpr size_t LARGEST_SHUFFLED = 32;

enum State { RUNNABLE, AT_BLOCK, AT_WARP, DONE };
struct Fiber {
  void* sp;
  char* top;
  uint64_t generation;  // of the block's barrier where it waits
  unsigned mask;        // of the lanes that it waits for
  int state;
  Dim index;
};

Fiber all[MOST_THREADS];
int n, current, alive;
int arrived;          // at the block's barrier
uint64_t generation;  // how often all threads have passed the block's barrier
unsigned warp_alive[MOST_THREADS / WARP];
unsigned warp_arrived[MOST_THREADS / WARP];
void* outside;
bool stuck;
void (*entry)(void**);
void** params;
alignas(16) char exchange[MOST_THREADS][LARGEST_SHUFFLED];

bool runnable(int i) {
  return all[i].state == RUNNABLE || (all[i].state == AT_BLOCK && all[i].generation < generation);
}
void go(int to) {
  void** save = &all[current].sp;
  current = to;
  all[to].state = RUNNABLE;
  hc_state.threadIdx = all[to].index;
  if (save != &all[to].sp) hc_switch(save, all[to].sp);
}
void leave() {
  stuck = alive > 0;
  hc_switch(&all[current].sp, outside);
}
void next() {
  for (int i = current + 1; i < n; i++)
    if (runnable(i)) return go(i);
  for (int i = 0; i <= current; i++)
    if (runnable(i)) return go(i);
  leave();
}

void release_lanes(int warp, unsigned lanes) {
  warp_arrived[warp] &= ~lanes;
  for (int l = 0; l < WARP; l++)
    if (lanes >> l & 1) all[warp * WARP + l].state = RUNNABLE;
}
// Releases lanes that wait for a lane that has ended.
void release_waiting(int warp) {
  for (int lane = 0; lane < WARP; lane++) {
    if (!(warp_arrived[warp] >> lane & 1)) continue;
    unsigned need = all[warp * WARP + lane].mask & warp_alive[warp];
    if ((warp_arrived[warp] & need) == need) release_lanes(warp, need);
    return;
  }
}

void fiber_main() {
  for (;;) {
    entry(params);
    all[current].state = DONE;
    alive--;
    int warp = current / WARP;
    warp_alive[warp] &= ~(1u << current % WARP);
    if (alive && arrived == alive) {
      arrived = 0;
      generation++;
    }
    if (warp_arrived[warp]) release_waiting(warp);
    next();
  }
}

// Initializes the stack as hc_switch leaves it, with fiber_main as the return address.
void prepare(Fiber& f, int i) {
  if (!f.top) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char* stack = (char*)mmap(nullptr, STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
    f.top = stack + STACK - (i % 61) * 64;  // the stacks should not share cache sets
  }
#if defined(__x86_64__)
  void** p = (void**)f.top;
  *--p = nullptr;
  *--p = (void*)fiber_main;
  for (int k = 0; k < 6; k++) *--p = nullptr;
#else
  void** p = (void**)(f.top - 160);
  memset(p, 0, 160);
  p[11] = (void*)fiber_main;
#endif
  f.sp = p;
}
}  // namespace

bool run_block(void (*kernel)(void**), void** arguments, Dim block) {
  entry = kernel;
  params = arguments;
  n = alive = block.x * block.y * block.z;
  arrived = 0;
  memset(warp_arrived, 0, sizeof warp_arrived);
  for (int i = 0; i < n; i++) {
    prepare(all[i], i);
    all[i].state = RUNNABLE;
    all[i].index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    int left = n - i;
    if (i % WARP == 0) warp_alive[i / WARP] = left >= WARP ? 0xffffffffu : (1u << left) - 1;
  }
  current = 0;
  hc_state.threadIdx = all[0].index;
  hc_switch(&outside, all[0].sp);
  return !stuck;
}

// ---- functions that kernels call

API void hc_sync_block() {
  if (++arrived == alive) {
    arrived = 0;
    generation++;
    return;
  }
  all[current].state = AT_BLOCK;
  all[current].generation = generation;
  next();
}
API void hc_sync_warp(unsigned mask) {
  int warp = current / WARP;
  unsigned need = mask & warp_alive[warp];
  warp_arrived[warp] |= 1u << current % WARP;
  if ((warp_arrived[warp] & need) == need) return release_lanes(warp, need);
  all[current].state = AT_WARP;
  all[current].mask = mask;
  next();
}
API int hc_lane() { return current % WARP; }
API void hc_put(const void* value, size_t size) { memcpy(exchange[current], value, size); }
API void hc_get(void* value, size_t size, int lane) {
  memcpy(value, exchange[current / WARP * WARP + lane % WARP], size);
}
API unsigned hc_warp_alive() { return warp_alive[current / WARP]; }

// The sum over the block, for __syncthreads_count and similar functions.
API int hc_block_sum(int value) {
  static int sum;
  static uint64_t round;
  hc_sync_block();
  if (round != generation) {
    round = generation;
    sum = 0;
  }
  sum += value;
  hc_sync_block();
  return sum;
}

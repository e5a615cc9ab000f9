// The thread and block indices of kernels, and running a block of cooperating threads.
#pragma once
#include "runtime.h"

// The same structure is in include/hostcuda/threads.h.
struct HcState {
  Dim threadIdx, blockIdx, blockDim, gridDim;
  char* dynamic_shared;
};
extern "C" HcState hc_state;

// Returns true if every thread ended, false if some wait at a barrier that others never reach.
bool run_block(void (*kernel)(void**), void** arguments, Dim block);

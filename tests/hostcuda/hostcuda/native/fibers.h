// What a kernel sees of its place in the grid, and running a block whose threads work together.
#pragma once
#include "runtime.h"

// As include/device.h has it.
struct HcState {
  Dim threadIdx, blockIdx, blockDim, gridDim;
  char* dynamic_shared;
};
extern "C" HcState hc_state;

// Whether every thread ended: false where some wait at a barrier that the others never reach.
bool run_block(void (*kernel)(void**), void** arguments, Dim block);

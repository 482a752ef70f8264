// SeT attention on the CPU: what the dispatcher calls.
#pragma once

#include "../problem.h"

namespace setformer_mm {
namespace cpu {

// Threads: run() calls body(context, begin, end) on disjoint ranges that cover
// [0, count) and returns when all have returned.
struct Parallel {
  using Body = void (*)(void* context, int64_t begin, int64_t end);
  void (*run)(int64_t count, Body body, void* context);
  int64_t num_threads;
};

// Write every element of out and of problem.saved.
void forward(const Problem& problem, const Tokens& out, const Parallel& parallel);

// Write every element of grad_x and grad_maps, which are summed over the batch.
void backward(const Problem& problem, const Tokens& grad_out, const Tokens& grad_x,
              const Maps& grad_maps, const Parallel& parallel);

// What the kernels run with on this machine: "avx512", "avx2" or "baseline".
const char* instruction_set();

}  // namespace cpu
}  // namespace setformer_mm

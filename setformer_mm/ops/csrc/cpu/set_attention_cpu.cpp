// Chooses the kernels that this machine can run.
#include "set_attention_cpu.h"

#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace setformer_mm {
namespace cpu {
namespace {

bool runs_here(const Kernels& kernels) {
#if defined(__x86_64__)
  if (&kernels == &kAvx512Kernels)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("fma");
  if (&kernels == &kAvx2Kernels)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return &kernels == &kBaselineKernels;
}

const Kernels& choose() {
  // Widest first. The environment variable, for tests and bug reports, names the widest
  // that may be used; a name that is none of these is refused in extension.py.
  const Kernels* const all[] = {
#if defined(__x86_64__)
      &kAvx512Kernels, &kAvx2Kernels,
#endif
      &kBaselineKernels};
  const char* widest = std::getenv("SETFORMER_MM_CPU_KERNELS");
  bool allowed = widest == nullptr || *widest == '\0';
  for (const Kernels* kernels : all) {
    allowed = allowed || std::strcmp(widest, kernels->name) == 0;
    if (allowed && runs_here(*kernels)) return *kernels;
  }
  return kBaselineKernels;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace

void forward(const Problem& problem, const Tokens& out, const Parallel& parallel) {
  kernels().forward(problem, out, parallel);
}

void backward(const Problem& problem, const Tokens& grad_out, const Tokens& grad_x,
              const Maps& grad_maps, const Parallel& parallel) {
  kernels().backward(problem, grad_out, grad_x, grad_maps, parallel);
}

const char* instruction_set() { return kernels().name; }

}  // namespace cpu
}  // namespace setformer_mm

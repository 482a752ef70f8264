// One table of kernels for each instruction set; each comes from its own source file,
// compiled for that set.
#pragma once

#include "set_attention_cpu.h"

namespace setformer_mm {
namespace cpu {

struct Kernels {
  const char* name;
  void (*forward)(const Problem&, const Tokens& out, const Parallel&);
  void (*backward)(const Problem&, const Tokens& grad_out, const Tokens& grad_x,
                   const Maps& grad_maps, const Parallel&);
};

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels, kAvx512Kernels;
#endif

}  // namespace cpu
}  // namespace setformer_mm

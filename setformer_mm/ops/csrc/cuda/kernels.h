// What set_attention_cuda.cpp chooses between.
#pragma once

#include "set_attention_cuda.h"

namespace setformer_mm {
namespace cuda {

// See set_attention_cuda.h.
struct Kernels {
  size_t (*workspace)(const Problem& problem, bool is_backward);
  void (*forward)(const Problem& problem, const Tokens& out, void* workspace,
                  void* stream);
  void (*backward)(const Problem& problem, const Tokens& grad_out, const Tokens& grad_x,
                   const Maps& grad_maps, void* workspace, void* stream);
};

// For D and K up to the first and M up to the second number: what every stage of the
// family has, and any size; as exact as float is, and as 16-bit tokens warrant.
extern const Kernels kernels_32_16_exact, kernels_32_16_half;
extern const Kernels kernels_32_64_exact, kernels_32_64_half;
extern const Kernels kernels_64_128_exact, kernels_64_128_half;

}  // namespace cuda
}  // namespace setformer_mm

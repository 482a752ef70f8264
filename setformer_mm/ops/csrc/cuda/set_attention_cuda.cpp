// The kernels of the smallest sizes that hold a problem.
#include "set_attention_cuda.h"

#include <algorithm>
#include <stdexcept>

#include "kernels.h"

namespace setformer_mm {
namespace cuda {
namespace {

const Kernels& kernels_for(const Problem& problem) {
  const Sizes& sizes = problem.sizes;
  const int64_t width = std::max(sizes.dim, sizes.anchors);
  if (width > kMaxWidth || sizes.references > kMaxReferences ||
      problem.scalar == Scalar::kDouble || !scalings_fit_float(sizes, problem.fields))
    throw std::invalid_argument(
        "the CUDA kernels take D and K up to 64, M up to 128 and arithmetic in float");
  const bool is_exact = problem.scalar == Scalar::kFloat;
  if (width > 32 || sizes.references > 64)
    return is_exact ? kernels_64_128_exact : kernels_64_128_half;
  if (sizes.references > 16) return is_exact ? kernels_32_64_exact : kernels_32_64_half;
  return is_exact ? kernels_32_16_exact : kernels_32_16_half;
}

}  // namespace

size_t forward_workspace(const Problem& problem) {
  return kernels_for(problem).workspace(problem, false);
}

size_t backward_workspace(const Problem& problem) {
  return kernels_for(problem).workspace(problem, true);
}

void forward(const Problem& problem, const Tokens& out, void* workspace, void* stream) {
  kernels_for(problem).forward(problem, out, workspace, stream);
}

void backward(const Problem& problem, const Tokens& grad_out, const Tokens& grad_x,
              const Maps& grad_maps, void* workspace, void* stream) {
  kernels_for(problem).backward(problem, grad_out, grad_x, grad_maps, workspace,
                                stream);
}

}  // namespace cuda
}  // namespace setformer_mm

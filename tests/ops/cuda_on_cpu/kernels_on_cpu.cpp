// The CUDA kernels as a library of functions for ctypes. Each returns null, or
// what went wrong.
#include "platform.h"
// The platform comes first.
#include "launch.h"
#include "set_attention_cuda.cpp"

namespace setformer_mm {
namespace cuda {

// FAMILY_ALONE leaves out what the family does not need, to compile in less time.
template <typename C>
constexpr Kernels chosen_kernels_of() {
#ifdef FAMILY_ALONE
  if constexpr (C::kRefs > 16)
    return {};
  else
#endif
    return kernels_of<C>();
}

const Kernels kernels_32_16_exact = chosen_kernels_of<Config<32, 16, true>>();
const Kernels kernels_32_16_half = chosen_kernels_of<Config<32, 16, false>>();
const Kernels kernels_32_64_exact = chosen_kernels_of<Config<32, 64, true>>();
const Kernels kernels_32_64_half = chosen_kernels_of<Config<32, 64, false>>();
const Kernels kernels_64_128_exact = chosen_kernels_of<Config<64, 128, true>>();
const Kernels kernels_64_128_half = chosen_kernels_of<Config<64, 128, false>>();

}  // namespace cuda
}  // namespace setformer_mm

namespace {

template <typename Work>
const char* caught(const Work& work) {
  static std::string error;
  try {
    work();
  } catch (const std::exception& e) {
    error = e.what();
    return error.c_str();
  }
  return nullptr;
}

}  // namespace

using setformer_mm::Maps;
using setformer_mm::Problem;
using setformer_mm::Tokens;

extern "C" {

// The device to imitate, and the order in which its warps take turns.
void imitate(int64_t shared_bytes, bool has_clusters, unsigned seed) {
  cuda_on_cpu::state.shared_bytes = shared_bytes;
  cuda_on_cpu::state.has_clusters = has_clusters;
  cuda_on_cpu::state.random.seed(seed);
}

const char* workspace(const Problem* problem, bool is_backward, int64_t* bytes) {
  return caught([&] {
    *bytes = int64_t(is_backward ? setformer_mm::cuda::backward_workspace(*problem)
                                 : setformer_mm::cuda::forward_workspace(*problem));
  });
}

const char* forward(const Problem* problem, const Tokens* out, void* memory) {
  return caught([&] { setformer_mm::cuda::forward(*problem, *out, memory, nullptr); });
}

const char* backward(const Problem* problem, const Tokens* grad_out,
                     const Tokens* grad_x, const Maps* grad_maps, void* memory) {
  return caught([&] {
    setformer_mm::cuda::backward(*problem, *grad_out, *grad_x, *grad_maps, memory,
                                 nullptr);
  });
}

}  // extern "C"

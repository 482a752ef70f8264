// Kernels for D and K up to 32 and M up to 16 or 64.
#include "platform.cuh"
// The platform comes first.
#include "launch.h"

namespace setformer_mm {
namespace cuda {

const Kernels kernels_32_16_exact = kernels_of<Config<32, 16, true>>();
const Kernels kernels_32_16_half = kernels_of<Config<32, 16, false>>();
const Kernels kernels_32_64_exact = kernels_of<Config<32, 64, true>>();
const Kernels kernels_32_64_half = kernels_of<Config<32, 64, false>>();

}  // namespace cuda
}  // namespace setformer_mm

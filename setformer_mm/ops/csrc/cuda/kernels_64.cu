// Kernels for D and K up to 64 and M up to 128.
#include "platform.cuh"
// The platform comes first.
#include "launch.h"

namespace setformer_mm {
namespace cuda {

const Kernels kernels_64_128_exact = kernels_of<Config<64, 128, true>>();
const Kernels kernels_64_128_half = kernels_of<Config<64, 128, false>>();

}  // namespace cuda
}  // namespace setformer_mm

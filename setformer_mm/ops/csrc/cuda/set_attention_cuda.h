// SeT attention on CUDA devices: what the dispatcher calls.
#pragma once

#include <cstddef>

#include "../problem.h"

namespace setformer_mm {
namespace cuda {

// What the kernels take: padded to 32 or 64, D and K, and to 16, 64 or 128, M.
constexpr int64_t kMaxWidth = 64, kMaxReferences = 128;

// Bytes of device memory that a pass needs beside its tensors, on the current device.
size_t forward_workspace(const Problem& problem);
size_t backward_workspace(const Problem& problem);

// Launch on `stream`, a cudaStream_t of the current device, kernels that write every
// element of out and of problem.saved; nothing here waits for the device. Errors of a
// launch are thrown as std::runtime_error.
void forward(const Problem& problem, const Tokens& out, void* workspace, void* stream);

// The same for grad_x and grad_maps, which are summed over the batch.
void backward(const Problem& problem, const Tokens& grad_out, const Tokens& grad_x,
              const Maps& grad_maps, void* workspace, void* stream);

}  // namespace cuda
}  // namespace setformer_mm

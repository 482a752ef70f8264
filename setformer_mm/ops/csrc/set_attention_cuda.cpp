// The kernels of the operators for CUDA devices. Their schemas are those of
// set_attention.cpp, whose library is to be loaded first.

#include "cuda/set_attention_cuda.h"

#include <Python.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "operators.h"

namespace setformer_mm {
namespace {

// Those of CUDA devices, on the current stream of x's device. The workspace may be
// given back while they run: the allocator hands it out again on the same stream alone.
class CudaKernels {
 public:
  explicit CudaKernels(const Tensor& x) : x_(x), guard_(x.get_device_index()) {}

  void forward(const Problem& problem, const Tokens& out) const {
    const Tensor workspace = bytes(cuda::forward_workspace(problem));
    cuda::forward(problem, out, workspace.mutable_data_ptr(), stream());
  }

  void backward(const Problem& problem, const Tokens& grad_out, const Tokens& grad_x,
                const Maps& grad_maps) const {
    const Tensor workspace = bytes(cuda::backward_workspace(problem));
    cuda::backward(problem, grad_out, grad_x, grad_maps, workspace.mutable_data_ptr(),
                   stream());
  }

 private:
  Tensor bytes(size_t count) const {
    return torch::stable::new_empty(x_, {int64_t(count)}, ScalarType::Byte);
  }

  void* stream() const {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(x_.get_device_index(), &current));
    return current;
  }

  const Tensor& x_;
  torch::stable::accelerator::DeviceGuard guard_;
};

}  // namespace
}  // namespace setformer_mm

STABLE_TORCH_LIBRARY_IMPL(setformer_mm, CUDA, library) {
  library.impl("set_attention_forward",
               TORCH_BOX(&setformer_mm::forward<setformer_mm::CudaKernels>));
  library.impl("set_attention_backward",
               TORCH_BOX(&setformer_mm::backward<setformer_mm::CudaKernels>));
}

// Importing the module, which is empty, registers the kernels.
PyMODINIT_FUNC PyInit__C_cuda() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1};
  return PyModule_Create(&definition);
}

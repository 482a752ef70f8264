// The schemas of the operators, and their kernels for the CPU.

#include <Python.h>

#include "cpu/set_attention_cpu.h"
#include "operators.h"

namespace setformer_mm {
namespace {

// Those of the CPU, on torch's threads.
class CpuKernels {
 public:
  explicit CpuKernels(const Tensor&) {}

  void forward(const Problem& problem, const Tokens& out) const {
    cpu::forward(problem, out, parallel());
  }

  void backward(const Problem& problem, const Tokens& grad_out, const Tokens& grad_x,
                const Maps& grad_maps) const {
    cpu::backward(problem, grad_out, grad_x, grad_maps, parallel());
  }

 private:
  static cpu::Parallel parallel() {
    const auto run = [](int64_t count, cpu::Parallel::Body body, void* context) {
      torch::stable::parallel_for(
          0, count, /*grain_size=*/1,
          [&](int64_t begin, int64_t end) { body(context, begin, end); });
    };
    return {run, torch::stable::get_num_threads()};
  }
};

}  // namespace
}  // namespace setformer_mm

// Height and width are symbolic because torch.compile may leave the size of images
// open. The shapes of all tensors are in setformer_mm/ops/registration.py.
STABLE_TORCH_LIBRARY(setformer_mm, library) {
  library.def(
      "set_attention_forward(Tensor x, Tensor anchors, Tensor score_maps, "
      "Tensor value_map, Tensor? valid, SymInt height, SymInt width, "
      "int reference_height, int reference_width, float alpha, float epsilon, "
      "int num_iters, float tau) -> (Tensor out, Tensor scalings, Tensor aggregates)");
  library.def(
      "set_attention_backward(Tensor grad_out, Tensor x, Tensor anchors, "
      "Tensor score_maps, Tensor value_map, Tensor scalings, Tensor aggregates, "
      "Tensor? valid, SymInt height, SymInt width, int reference_height, int "
      "reference_width, "
      "float alpha, float epsilon, int num_iters, float tau) -> "
      "(Tensor grad_x, Tensor grad_anchors, Tensor grad_score_maps, "
      "Tensor grad_value_map)");
}

STABLE_TORCH_LIBRARY_IMPL(setformer_mm, CPU, library) {
  library.impl("set_attention_forward",
               TORCH_BOX(&setformer_mm::forward<setformer_mm::CpuKernels>));
  library.impl("set_attention_backward",
               TORCH_BOX(&setformer_mm::backward<setformer_mm::CpuKernels>));
}

// Importing the module registers the operators; its one content names the kernels that
// run.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1};
  PyObject* const module = PyModule_Create(&definition);
  if (module != nullptr) {
    PyModule_AddStringConstant(module, "instruction_set",
                               setformer_mm::cpu::instruction_set());
  }
  return module;
}

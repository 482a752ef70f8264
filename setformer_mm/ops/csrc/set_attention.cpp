// The operators on libtorch's stable ABI: their schemas, what they accept, and the way
// from tensors to the kernels. Nothing here belongs to one version of torch or Python.

#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "cpu/set_attention_cpu.h"

namespace setformer_mm {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

cpu::Scalar scalar_of(const Tensor& x) {
  const ScalarType type = x.scalar_type();
  if (type == ScalarType::Float) return cpu::Scalar::kFloat;
  if (type == ScalarType::Double) return cpu::Scalar::kDouble;
  if (type == ScalarType::BFloat16) return cpu::Scalar::kBFloat16;
  if (type == ScalarType::Half) return cpu::Scalar::kHalf;
  STD_TORCH_CHECK(false, "x must be float32, float64, bfloat16 or float16, got ",
                  toString(type));
}

void check(const char* name, const Tensor& tensor, const Shape& shape,
           ScalarType type) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU");
  STD_TORCH_CHECK(tensor.scalar_type() == type, name, " must be ", toString(type),
                  ", got ", toString(tensor.scalar_type()));
  const auto sizes = tensor.sizes();
  STD_TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end()),
                  name, " does not have the shape that goes with the other tensors");
}

Tensor packed(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// Kernels take tokens in any layout whose last dimension is contiguous.
Tensor packed_rows(const Tensor& t) {
  return t.size(3) == 1 || t.stride(3) == 1 ? t : torch::stable::contiguous(t);
}

Tensor empty(const Tensor& like, const Shape& shape) {
  return torch::stable::new_empty(like, shape);
}

cpu::Tokens tokens_of(const Tensor& t) {
  return {const_cast<void*>(t.const_data_ptr()), t.stride(0), t.stride(1), t.stride(2)};
}

double* doubles_of(const Tensor& t) {
  return const_cast<double*>(t.const_data_ptr<double>());
}

// What both operators are given, checked, and laid out as the kernels want it.
struct Inputs {
  Tensor x, anchors, score_map, value_map;
  cpu::Sizes sizes;
  cpu::Fields fields;
  bool wide;

  Inputs(const Tensor& any_x, const Tensor& any_anchors, const Tensor& any_score_map,
         const Tensor& any_value_map, const cpu::Fields& any_fields, bool any_wide)
      : fields(any_fields), wide(any_wide) {
    STD_TORCH_CHECK(any_x.dim() == 4, "x must be (B, N, h, D), got ", any_x.dim(),
                    " dimensions");
    STD_TORCH_CHECK(any_anchors.dim() == 3 && any_score_map.dim() == 3,
                    "anchors must be (h, K, D) and score_map (h, K, M)");
    const int64_t batch = any_x.size(0), tokens = any_x.size(1), heads = any_x.size(2),
                  dim = any_x.size(3), num_anchors = any_anchors.size(1),
                  references = any_score_map.size(2);
    sizes = {batch, tokens, heads, dim, num_anchors, references};
    STD_TORCH_CHECK(
        tokens > 0 && heads > 0 && dim > 0 && num_anchors > 0 && references > 0,
        "N, h, D, K and M must be at least 1; only the batch may be empty");
    check("x", any_x, {batch, tokens, heads, dim}, any_x.scalar_type());
    check("anchors", any_anchors, {heads, num_anchors, dim}, ScalarType::Double);
    check("score_map", any_score_map, {heads, num_anchors, references},
          ScalarType::Double);
    check("value_map", any_value_map, {heads, num_anchors, num_anchors},
          ScalarType::Double);
    check_fields();
    x = packed_rows(any_x);
    anchors = packed(any_anchors);
    score_map = packed(any_score_map);
    value_map = packed(any_value_map);
  }

  void check_fields() const {
    const auto [height, width, reference_height, reference_width, alpha, epsilon,
                num_iters, tau] = fields;
    const bool sequence =
        height == 0 && width == 0 && reference_height == 0 && reference_width == 0;
    const bool image = height > 0 && reference_height > 0 &&
                       height * width == sizes.tokens &&
                       reference_height * reference_width == sizes.references;
    STD_TORCH_CHECK(
        sequence || image,
        "height * width must be N and reference_height * reference_width M, "
        "or all of them 0");
    STD_TORCH_CHECK(alpha > 0 && epsilon > 0 && num_iters >= 0 && tau >= 0,
                    "alpha and epsilon must be positive, num_iters and tau at least 0");
  }

  Shape scalings_shape() const {
    return {sizes.batch, sizes.heads, fields.num_iters, sizes.references};
  }

  Shape aggregates_shape() const {
    return {sizes.batch, sizes.heads, sizes.references, sizes.anchors + 1};
  }

  cpu::Problem problem(const Tensor& scalings, const Tensor& aggregates) const {
    return {sizes,
            fields,
            scalar_of(x),
            wide,
            tokens_of(x),
            {doubles_of(anchors), doubles_of(score_map), doubles_of(value_map)},
            {doubles_of(scalings), doubles_of(aggregates)}};
  }
};

cpu::Parallel parallel() {
  const auto run = [](int64_t count, cpu::Parallel::Body body, void* context) {
    torch::stable::parallel_for(
        0, count, /*grain_size=*/1,
        [&](int64_t begin, int64_t end) { body(context, begin, end); });
  };
  return {run, torch::stable::get_num_threads()};
}

std::tuple<Tensor, Tensor, Tensor> forward_cpu(const Tensor& x, const Tensor& anchors,
                                               const Tensor& score_map,
                                               const Tensor& value_map, int64_t height,
                                               int64_t width, int64_t reference_height,
                                               int64_t reference_width, double alpha,
                                               double epsilon, int64_t num_iters,
                                               double tau, bool wide) {
  const cpu::Fields fields{height, width,   reference_height, reference_width,
                           alpha,  epsilon, num_iters,        tau};
  const Inputs inputs(x, anchors, score_map, value_map, fields, wide);
  const auto [batch, tokens, heads, dim, num_anchors, references] = inputs.sizes;
  const Tensor out = empty(x, {batch, tokens, heads, num_anchors});
  const Tensor scalings = empty(anchors, inputs.scalings_shape());
  const Tensor aggregates = empty(anchors, inputs.aggregates_shape());
  cpu::forward(inputs.problem(scalings, aggregates), tokens_of(out), parallel());
  return {out, scalings, aggregates};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_cpu(
    const Tensor& any_grad_out, const Tensor& x, const Tensor& anchors,
    const Tensor& score_map, const Tensor& value_map, const Tensor& scalings,
    const Tensor& aggregates, int64_t height, int64_t width, int64_t reference_height,
    int64_t reference_width, double alpha, double epsilon, int64_t num_iters,
    double tau, bool wide) {
  const cpu::Fields fields{height, width,   reference_height, reference_width,
                           alpha,  epsilon, num_iters,        tau};
  const Inputs inputs(x, anchors, score_map, value_map, fields, wide);
  const auto [batch, tokens, heads, dim, num_anchors, references] = inputs.sizes;
  check("grad_out", any_grad_out, {batch, tokens, heads, num_anchors}, x.scalar_type());
  check("scalings", scalings, inputs.scalings_shape(), ScalarType::Double);
  check("aggregates", aggregates, inputs.aggregates_shape(), ScalarType::Double);
  const Tensor grad_out = packed_rows(any_grad_out);
  const Tensor saved_scalings = packed(scalings);
  const Tensor saved_aggregates = packed(aggregates);
  const Tensor grad_x = empty(x, {batch, tokens, heads, dim});
  const Tensor grad_anchors = empty(anchors, {heads, num_anchors, dim});
  const Tensor grad_score_map = empty(anchors, {heads, num_anchors, references});
  const Tensor grad_value_map = empty(anchors, {heads, num_anchors, num_anchors});
  cpu::backward(inputs.problem(saved_scalings, saved_aggregates), tokens_of(grad_out),
                tokens_of(grad_x),
                {doubles_of(grad_anchors), doubles_of(grad_score_map),
                 doubles_of(grad_value_map)},
                parallel());
  return {grad_x, grad_anchors, grad_score_map, grad_value_map};
}

}  // namespace
}  // namespace setformer_mm

// Height and width are symbolic because torch.compile may leave the size of images
// open. The shapes of all tensors are in setformer_mm/ops/registration.py.
STABLE_TORCH_LIBRARY(setformer_mm, library) {
  library.def(
      "set_attention_forward(Tensor x, Tensor anchors, Tensor score_map, "
      "Tensor value_map, SymInt height, SymInt width, int reference_height, "
      "int reference_width, float alpha, float epsilon, int num_iters, float tau, "
      "bool wide) -> (Tensor out, Tensor scalings, Tensor aggregates)");
  library.def(
      "set_attention_backward(Tensor grad_out, Tensor x, Tensor anchors, "
      "Tensor score_map, Tensor value_map, Tensor scalings, Tensor aggregates, "
      "SymInt height, SymInt width, int reference_height, int reference_width, "
      "float alpha, float epsilon, int num_iters, float tau, bool wide) -> "
      "(Tensor grad_x, Tensor grad_anchors, Tensor grad_score_map, "
      "Tensor grad_value_map)");
}

STABLE_TORCH_LIBRARY_IMPL(setformer_mm, CPU, library) {
  library.impl("set_attention_forward", TORCH_BOX(&setformer_mm::forward_cpu));
  library.impl("set_attention_backward", TORCH_BOX(&setformer_mm::backward_cpu));
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

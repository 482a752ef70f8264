// The operators on libtorch's stable ABI, for any device: what they accept, and the way
// from tensors to kernels. Nothing here belongs to one version of torch or Python.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "problem.h"

namespace setformer_mm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

inline Scalar scalar_of(const Tensor& x) {
  const ScalarType type = x.scalar_type();
  if (type == ScalarType::Float) return Scalar::kFloat;
  if (type == ScalarType::Double) return Scalar::kDouble;
  if (type == ScalarType::BFloat16) return Scalar::kBFloat16;
  if (type == ScalarType::Half) return Scalar::kHalf;
  STD_TORCH_CHECK(false, "x must be float32, float64, bfloat16 or float16, got ",
                  toString(type));
}

inline Tensor packed(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// Kernels take tokens in any layout whose last dimension is contiguous.
inline Tensor packed_rows(const Tensor& t) {
  return t.size(3) == 1 || t.stride(3) == 1 ? t : torch::stable::contiguous(t);
}

inline Tensor empty(const Tensor& like, const Shape& shape) {
  return torch::stable::new_empty(like, shape);
}

inline Tokens tokens_of(const Tensor& t) {
  return {const_cast<void*>(t.const_data_ptr()), t.stride(0), t.stride(1), t.stride(2)};
}

// A tensor of which kernels write the valid tokens.
inline Tensor rows_like(const Tensor& like, const Shape& shape, bool all_valid) {
  const Tensor rows = empty(like, shape);
  return all_valid ? rows : torch::stable::fill_(rows, 0);
}

inline double* doubles_of(const Tensor& t) {
  return const_cast<double*>(t.const_data_ptr<double>());
}

// What both operators are given, checked, and laid out as the kernels want it.
struct Inputs {
  Tensor x, anchors, score_maps, value_map;
  std::optional<Tensor> valid;
  Sizes sizes;
  Fields fields;

  Inputs(const Tensor& any_x, const Tensor& any_anchors, const Tensor& any_score_maps,
         const Tensor& any_value_map, const std::optional<Tensor>& any_valid,
         const Fields& any_fields)
      : fields(any_fields) {
    STD_TORCH_CHECK(any_x.dim() == 4, "x must be (B, N, h, D), got ", any_x.dim(),
                    " dimensions");
    STD_TORCH_CHECK(any_anchors.dim() == 3 && any_score_maps.dim() == 3,
                    "anchors must be (h, K, D) and score_maps (h, K, 2 M)");
    const int64_t batch = any_x.size(0), tokens = any_x.size(1), heads = any_x.size(2),
                  dim = any_x.size(3), num_anchors = any_anchors.size(1),
                  references = any_score_maps.size(2) / 2;
    sizes = {batch, tokens, heads, dim, num_anchors, references};
    STD_TORCH_CHECK(
        tokens > 0 && heads > 0 && dim > 0 && num_anchors > 0 && references > 0,
        "N, h, D, K and M must be at least 1; only the batch may be empty");
    x = packed_rows(any_x);
    check("anchors", any_anchors, {heads, num_anchors, dim}, ScalarType::Double);
    check("score_maps", any_score_maps, {heads, num_anchors, 2 * references},
          ScalarType::Double);
    check("value_map", any_value_map, {heads, num_anchors, num_anchors},
          ScalarType::Double);
    if (any_valid.has_value()) {
      check("valid", *any_valid, {batch, 2}, ScalarType::Long);
      valid = packed(*any_valid);
    }
    check_fields();
    anchors = packed(any_anchors);
    score_maps = packed(any_score_maps);
    value_map = packed(any_value_map);
  }

  void check(const char* name, const Tensor& tensor, const Shape& shape,
             ScalarType type) const {
    STD_TORCH_CHECK(tensor.device() == x.device(), name, " must be on x's device");
    STD_TORCH_CHECK(tensor.scalar_type() == type, name, " must be ", toString(type),
                    ", got ", toString(tensor.scalar_type()));
    const auto sizes = tensor.sizes();
    STD_TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end()),
                    name, " does not have the shape that goes with the other tensors");
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
    return {sizes.batch, sizes.heads, fields.num_iters + 1, 2 * sizes.references};
  }

  Shape aggregates_shape() const {
    return {sizes.batch, sizes.heads, sizes.references, sizes.anchors + 1};
  }

  Problem problem(const Tensor& scalings, const Tensor& aggregates) const {
    return {sizes,
            fields,
            scalar_of(x),
            valid.has_value() ? valid->const_data_ptr<int64_t>() : nullptr,
            tokens_of(x),
            {doubles_of(anchors), doubles_of(score_maps), doubles_of(value_map)},
            {doubles_of(scalings), doubles_of(aggregates)}};
  }
};

// The operators by the kernels of one device: `Kernels` is constructed from x and has
// forward(problem, out) and backward(problem, grad_out, grad_x, grad_maps).
template <typename Kernels>
std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& x, const Tensor& anchors, const Tensor& score_maps,
    const Tensor& value_map, const std::optional<Tensor>& valid, int64_t height,
    int64_t width, int64_t reference_height, int64_t reference_width, double alpha,
    double epsilon, int64_t num_iters, double tau) {
  const Fields fields{height, width,   reference_height, reference_width,
                      alpha,  epsilon, num_iters,        tau};
  const Inputs inputs(x, anchors, score_maps, value_map, valid, fields);
  const auto [batch, tokens, heads, dim, num_anchors, references] = inputs.sizes;
  const bool all_valid = !valid.has_value();
  const Tensor out = rows_like(x, {batch, tokens, heads, num_anchors}, all_valid);
  const Tensor scalings = empty(anchors, inputs.scalings_shape());
  const Tensor aggregates = empty(anchors, inputs.aggregates_shape());
  Kernels(x).forward(inputs.problem(scalings, aggregates), tokens_of(out));
  return {out, scalings, aggregates};
}

template <typename Kernels>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& any_grad_out, const Tensor& x, const Tensor& anchors,
    const Tensor& score_maps, const Tensor& value_map, const Tensor& scalings,
    const Tensor& aggregates, const std::optional<Tensor>& valid, int64_t height,
    int64_t width, int64_t reference_height, int64_t reference_width, double alpha,
    double epsilon, int64_t num_iters, double tau) {
  const Fields fields{height, width,   reference_height, reference_width,
                      alpha,  epsilon, num_iters,        tau};
  const Inputs inputs(x, anchors, score_maps, value_map, valid, fields);
  const auto [batch, tokens, heads, dim, num_anchors, references] = inputs.sizes;
  inputs.check("grad_out", any_grad_out, {batch, tokens, heads, num_anchors},
               x.scalar_type());
  inputs.check("scalings", scalings, inputs.scalings_shape(), ScalarType::Double);
  inputs.check("aggregates", aggregates, inputs.aggregates_shape(), ScalarType::Double);
  const Tensor grad_out = packed_rows(any_grad_out);
  const Tensor saved_scalings = packed(scalings);
  const Tensor saved_aggregates = packed(aggregates);
  const bool all_valid = !valid.has_value();
  const Tensor grad_x = rows_like(x, {batch, tokens, heads, dim}, all_valid);
  const Tensor grad_anchors = empty(anchors, {heads, num_anchors, dim});
  const Tensor grad_score_maps = empty(anchors, {heads, num_anchors, 2 * references});
  const Tensor grad_value_map = empty(anchors, {heads, num_anchors, num_anchors});
  Kernels(x).backward(inputs.problem(saved_scalings, saved_aggregates),
                      tokens_of(grad_out), tokens_of(grad_x),
                      {doubles_of(grad_anchors), doubles_of(grad_score_maps),
                       doubles_of(grad_value_map)});
  return {grad_x, grad_anchors, grad_score_maps, grad_value_map};
}

}  // namespace setformer_mm

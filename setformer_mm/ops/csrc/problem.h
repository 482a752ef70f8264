// What the dispatcher hands to the kernels of any device. Free of torch, so that the
// same kernels serve every version of it.
#pragma once

#include <cmath>
#include <cstdint>

namespace setformer_mm {

// Element type of tokens, outputs and their gradients.
enum class Scalar { kFloat, kDouble, kBFloat16, kHalf };

// B images of N tokens, h heads of D channels, K anchors and M references a head, as
// many for the way in, from tokens to references, as for the way back.
struct Sizes {
  int64_t batch, tokens, heads, dim, anchors, references;
};

// Fields of the operator. A sequence has the shapes (0, 0); tau = 0 stands for no
// position weights.
struct Fields {
  int64_t height, width, reference_height, reference_width;
  double alpha, epsilon;
  int64_t num_iters;
  double tau;
};

// The rows and columns of an image's token grid that are valid, from the first on; a
// sequence is one column. Tokens are counted row by row over the valid ones alone: the
// kernels see nothing of the others, whose outputs and gradients are 0 beforehand.
struct Region {
  int64_t height, width;
};

// A (B, N, h, ...) tensor whose last dimension is contiguous; strides count elements.
struct Tokens {
  void* data;
  int64_t batch_stride, token_stride, head_stride;
};

// The folded parameters or their gradients, contiguous: (h, K, D), (h, K, 2 M), of
// which the first M columns are those of the way in, and (h, K, K).
struct Maps {
  double *anchors, *score_maps, *value_map;
};

// Sinkhorn's algorithm runs on exp((S_ij - r_i - c_j) / epsilon + kLift) with row
// maxima r_i = max_j S_ij, column maxima c_j = max_i (S_ij - r_i) and b = exp(c /
// epsilon) to begin with. Every row and every column has an entry that is exp(kLift),
// so no sum over one can vanish, for any epsilon. The lift makes use of the upper half
// of float's range: an entry underflows only beyond exp(-127) of these, which leaves
// room for position weights down to exp(-80).
constexpr double kLift = 40;

// What the forward pass leaves for the backward pass; contiguous, nothing of it grows
// with N.
struct Saved {
  double* scalings;    // (B, h, L + 1, 2 M): c, then b after each Sinkhorn iteration
  double* aggregates;  // (B, h, M, K + 1): A before value_map, over the largest token
                       // norm of the head; last column: column sums of the weights of
                       // the way in
};

// What both directions are given.
struct Problem {
  Sizes sizes;
  Fields fields;
  Scalar scalar;
  const int64_t* valid;  // (B, 2) on the device: see Region; null if all tokens are
  Tokens x;
  Maps maps;
  Saved saved;
};

// Whether b stays in the range that the lift leaves of float. After t iterations it
// lies between M^-t and N^t, and its entries within a factor of exp(2 / epsilon) of
// each other, because scores differ by no more than 2. One to four iterations fit, for
// any number of tokens up to 20,000; see also _scalings_fit_float32 in backends.py.
inline bool scalings_fit_float(const Sizes& sizes, const Fields& fields) {
  const double side =
      double(sizes.tokens < sizes.references ? sizes.references : sizes.tokens);
  return double(fields.num_iters) * std::log(side) <= kLift ||
         2 / fields.epsilon <= kLift;
}

}  // namespace setformer_mm

// What the dispatcher hands to the kernels of any device. Free of torch, so that the
// same kernels serve every version of it.
#pragma once

#include <cstdint>

namespace setformer_mm {

// Element type of tokens, outputs and their gradients.
enum class Scalar { kFloat, kDouble, kBFloat16, kHalf };

// B images of N tokens, h heads of D channels, K anchors and M references a head.
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

// A (B, N, h, ...) tensor whose last dimension is contiguous; strides count elements.
struct Tokens {
  void* data;
  int64_t batch_stride, token_stride, head_stride;
};

// The folded parameters or their gradients, contiguous: (h, K, D), (h, K, M) and
// (h, K, K).
struct Maps {
  double *anchors, *score_map, *value_map;
};

// What the forward pass leaves for the backward pass; contiguous, nothing of it grows
// with N.
struct Saved {
  double* scalings;    // (B, h, L, M): b after each Sinkhorn iteration
  double* aggregates;  // (B, h, M, K + 1): A before value_map, over the largest token
                       // norm of the head; last column: column sums of T * Pi
};

// What both directions are given. `wide` chooses arithmetic in double, not float.
struct Problem {
  Sizes sizes;
  Fields fields;
  Scalar scalar;
  bool wide;
  Tokens x;
  Maps maps;
  Saved saved;
};

}  // namespace setformer_mm

// What all kernels of one call are given: sizes, fields, and where things lie in the
// workspace. To be included after the platform.
#pragma once

template <typename T>
__host__ __device__ inline T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

// Four warps of 16 tokens each.
constexpr int kWarps = 4, kThreads = 32 * kWarps, kTile = 16 * kWarps;
// Blocks of a multiprocessor, at least: 256 registers for each thread.
constexpr int kMinBlocks = 2;

// The sets of references: those of the way in and those of the way back.
constexpr int kIn = 0, kBack = 1, kSets = 2;

// Partial sums are added up in groups of so many chunks, then the groups'.
constexpr int kGroup = 16, kMaxChunks = kGroup * kGroup;
constexpr int kMinChunk = 256;
// Blocks of a cluster, on every device that has clusters.
constexpr int kMaxCluster = 8;

// exp(kLift), which is the largest entry of E.
constexpr float kLifted = 2.3538527e17f;

// Sizes that kernels are compiled for, and how precise their products are. Arithmetic
// for float tokens is as exact as float is; for 16 bits, as their rounding warrants.
template <int width, int references, bool exact>
struct Config {
  static constexpr int kWidth = width;      // D and K, padded
  static constexpr int kRefs = references;  // M, padded
  static constexpr bool kExact = exact;     // tokens are float
  // Of rows in shared memory: 4 rows x 8 columns lie in different banks. Rows of both
  // sets lie side by side, and have room for one of tokens.
  static constexpr int kWidthStride = width + 8, kRefsStride = references + 8,
                       kSetsStride = kSets * references + 8;
  static_assert(kWidthStride <= kSetsStride);
  static constexpr int kTileSize = kTile * (kWidthStride + kSetsStride);
  // Parts of a product's operands: of what value_map, score_maps or the gradient of
  // their making amplify; and of what comes in 16 bits or is rounded to them at once.
  static constexpr int kFine = exact ? 3 : 2, kCoarse = exact ? 3 : 1;
  // Sums of all tokens, and products with value_map, which amplify errors.
  using Sum = std::conditional_t<exact, double, float>;
  // Most sums over tokens of a phase: for each reference of a set, or for each of both.
  static constexpr int kSums = references * (1 + width);
  // Gradients of score_maps and anchors.
  static constexpr int kMapSums = width * (kSets * references + width);
};

template <typename C>
__device__ __forceinline__ float exp_of(float v) {
  if constexpr (C::kExact)
    return expf(v);
  else
    return fast_exp(v);
}

// exp(v + kLift) for v <= 0.
template <typename C>
__device__ __forceinline__ float lifted_exp(float v) {
  if constexpr (C::kExact) {
    // In the sum, the smaller exponents would lose digits.
    const bool is_deep = v < -float(kLift);
    return expf(is_deep ? v + float(kLift) : v) * (is_deep ? 1.0f : kLifted);
  } else {
    return fast_exp(v + float(kLift));
  }
}

// How heads are cut into chunks of tokens, one a block.
struct Cut {
  int chunk_tokens, num_chunks;
  bool fused;  // all phases in one launch: the chunks of a head are a cluster, and
  int tiles;   // so many tiles keep features and E in shared memory; none otherwise
  int64_t shared_bytes;
};

struct Call {
  Problem problem;
  Tokens in, out;                           // grad_out (backward alone); out or grad_x
  bool x_aligned, in_aligned, out_aligned;  // rows may be read 16 bytes at once
  Cut cut;
  float alpha, inv_epsilon, inv_tau, norm_floor;
  float centre;  // F of orthogonal directions, exp(-alpha)

  // Of each head; operands are arranged as multiply() reads them.
  float *mean, *differences;          // of anchors: D; z less that: D x K
  float* differences_by_mean;         // products of these: K
  float *score_maps, *score_offsets;  // of each set: K x M; M
  float *anchors_n, *score_maps_t;    // K x D; of each set M x K, backward
  // Factors of Pi on an image, rows of M: one for each row, one for each column; of
  // each image if not all tokens are valid.
  float *row_factors, *col_factors;

  // Of each head of each image, a slot.
  unsigned* arrivals;  // blocks that have arrived, by group of chunks, then groups
  unsigned* unit;      // bits of the largest token norm; A is kept relative to it
  float* partials;     // sums of each chunk
  double* group_sums;  // of each group of chunks
  float* mixed;        // operand A value_map, M x K; its transpose in the backward pass
  // Backward: M / N b times the gradient of log b, rows of M of each set; the gradient
  // of A as operands, M x K and K x M; its products with A, and one over the column
  // sums of U: M; gradients of value_map, K x K; those of score_maps and anchors by
  // chunk.
  float *flows, *aggregate_grads, *aggregate_grads_t, *offsets, *by_column_sums;
  double* value_map_grads;
  float* map_grads;

  // Sizes fit an int each; products of theirs need not.
  __host__ __device__ int heads() const { return int(problem.sizes.heads); }
  __host__ __device__ int dim() const { return int(problem.sizes.dim); }
  __host__ __device__ int anchors() const { return int(problem.sizes.anchors); }
  __host__ __device__ int references() const { return int(problem.sizes.references); }
  __host__ __device__ int iters() const { return int(problem.fields.num_iters); }
  __host__ __device__ bool is_image() const {
    return inv_tau > 0 && problem.fields.height > 0;
  }
  __host__ __device__ int num_tables() const {
    return problem.valid == nullptr ? 1 : int(problem.sizes.batch);
  }
  __host__ __device__ int grid_width() const {
    return problem.fields.height > 0 ? int(problem.fields.width) : 1;
  }
  // What of an image is valid, in the bounds of its grid.
  __device__ __forceinline__ Region region_of(int64_t image) const {
    const int64_t width = grid_width(), height = problem.sizes.tokens / width;
    if (problem.valid == nullptr) return {height, width};
    const int64_t rows = problem.valid[2 * image], cols = problem.valid[2 * image + 1];
    return {max(int64_t(0), min(rows, height)), max(int64_t(0), min(cols, width))};
  }
  __host__ __device__ int num_groups() const {
    return ceil_div(cut.num_chunks, kGroup);
  }
};

// Hands out the workspace piece by piece; from null, it only measures.
class Arena {
 public:
  explicit Arena(void* begin) : begin_(static_cast<char*>(begin)) {}

  template <typename T>
  T* take(int64_t count) {
    T* const piece = reinterpret_cast<T*>(begin_ + used_);
    used_ += size_t(ceil_div<int64_t>(count * int64_t(sizeof(T)), 256) * 256);
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* begin_;
  size_t used_ = 0;
};

// What all heads and images of one call share: parameters converted and padded,
// position factors, and how tokens are cut. To be included inside the anonymous
// namespace of one instruction set.
#pragma once

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
template <typename T>
inline T max_of(T a, T b) {
  return a < b ? b : a;
}
template <typename T>
inline T min_of(T a, T b) {
  return b < a ? b : a;
}

// Uninitialised memory on a cache line's boundary.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(
            std::aligned_alloc(64, round_up(size * int64_t(sizeof(T)) + 1, 64)))) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  T* get() const { return data_; }

 private:
  T* data_;
};

// Objects of a type that can be neither copied nor moved.
template <typename T>
class Many {
 public:
  template <typename Argument>
  Many(int64_t size, const Argument& argument) : memory_(size), size_(0) {
    for (; size_ < size; ++size_) new (memory_.get() + size_) T(argument);
  }
  Many(const Many&) = delete;
  ~Many() {
    while (size_ > 0) memory_.get()[--size_].~T();
  }
  T* get() const { return memory_.get(); }

 private:
  Buffer<T> memory_;
  int64_t size_;
};

// Tokens whose sums are added up in one piece. The cut depends on N alone, so results
// do not depend on the number of threads.
constexpr int64_t kMinChunk = 512, kMaxChunks = 64;
// A head whose tiles fit this much memory keeps them (a core's share of the last-level
// cache); a larger one computes them again in each pass.
constexpr int64_t kResidentBytes = 16 << 20;

template <typename T>
struct Call {
  const Problem& problem;
  int64_t tokens, dim, anchors, references, iters;
  int64_t dim_pad, anchors_pad, references_pad;  // the last of each way
  int64_t terms_pad;  // of the L + 1 b and the L gammas of the backward pass
  int64_t chunk_tokens, num_chunks;
  T alpha, inv_epsilon, norm_floor;
  T orthogonal;  // k(x, z) of a token that is orthogonal to an anchor

  // Of all heads, padded with 0: anchors (h, K, D), their mean (h, D), what each
  // differs from it, transposed (h, D, K), and that times the mean (h, K).
  Buffer<T> anchors_n, mean, differences, differences_by_mean;
  // (h, K, 2 M), the way in before the way back, and its transpose; what all tokens
  // have in common of their scores, (h, 2 M).
  Buffer<T> score_maps, score_maps_t, score_offsets;
  // (h, K, K) and its transpose, in double because they amplify errors.
  Buffer<double> value_map, value_map_t;
  // Factors of Pi, (H_t, M) and (W_t, M), each followed by a row of ones.
  Buffer<T> row_factors, col_factors;

  Call(const Problem& p, const Parallel& parallel)
      : problem(p),
        tokens(p.sizes.tokens),
        dim(p.sizes.dim),
        anchors(p.sizes.anchors),
        references(p.sizes.references),
        iters(p.fields.num_iters),
        dim_pad(round_up(dim, kPad)),
        anchors_pad(round_up(anchors, kPad)),
        references_pad(round_up(references, kPad)),
        terms_pad(round_up(2 * iters + 1, kLanes<T>)),
        chunk_tokens(max_of(kMinChunk, round_up(ceil_div(tokens, kMaxChunks), kTile))),
        num_chunks(ceil_div(tokens, chunk_tokens)),
        alpha(T(p.fields.alpha)),
        inv_epsilon(T(1 / p.fields.epsilon)),
        // The smallest normal number of float16; see norm_floor in kernel.py.
        norm_floor(p.scalar == Scalar::kHalf ? T(0x1p-14) : T(1e-30)),
        orthogonal(T(std::exp(-p.fields.alpha))),
        anchors_n(p.sizes.heads * dim_pad * anchors_pad),
        mean(p.sizes.heads * dim_pad),
        differences(p.sizes.heads * dim_pad * anchors_pad),
        differences_by_mean(p.sizes.heads * anchors_pad),
        score_maps(p.sizes.heads * anchors_pad * 2 * references_pad),
        score_maps_t(p.sizes.heads * anchors_pad * 2 * references_pad),
        score_offsets(p.sizes.heads * 2 * references_pad),
        value_map(p.sizes.heads * anchors_pad * anchors_pad),
        value_map_t(p.sizes.heads * anchors_pad * anchors_pad),
        row_factors((p.fields.height + 1) * references_pad),
        col_factors((p.fields.width + 1) * references_pad) {
    run(parallel, p.sizes.heads, [&](int64_t begin, int64_t end) {
      for (int64_t head = begin; head < end; ++head) pad_head(head);
    });
    const Fields& f = p.fields;
    const int64_t ref_w = f.reference_width;
    fill_factors(
        f.height, f.reference_height, [&](int64_t j) { return j / ref_w; },
        row_factors.get());
    fill_factors(
        f.width, f.reference_width, [&](int64_t j) { return j % ref_w; },
        col_factors.get());
  }

  bool is_image() const { return problem.fields.tau > 0 && problem.fields.height > 0; }
  bool is_sequence() const { return problem.fields.tau > 0 && !is_image(); }

 private:
  void pad_head(int64_t head) {
    const Maps& maps = problem.maps;
    const double* z = maps.anchors + head * anchors * dim;
    const double* v = maps.value_map + head * anchors * anchors;
    pad(z, dim, 1, anchors, dim, dim_pad,
        anchors_n.get() + head * anchors_pad * dim_pad);
    split_anchors(z, head);
    const double* g = maps.score_maps + head * anchors * 2 * references;
    const int64_t both_pad = 2 * references_pad, at = head * anchors_pad * both_pad;
    for (int64_t way = 0; way < 2; ++way, g += references) {
      const int64_t first = way * references_pad;
      pad(g, 2 * references, 1, anchors, references, both_pad,
          score_maps.get() + at + first);
      pad(g, 1, 2 * references, references, anchors, anchors_pad,
          score_maps_t.get() + at + first * anchors_pad);
      offset_scores(g, score_offsets.get() + head * both_pad + first);
    }
    const int64_t square = head * anchors_pad * anchors_pad;
    pad(v, anchors, 1, anchors, anchors, anchors_pad, value_map.get() + square);
    pad(v, 1, anchors, anchors, anchors, anchors_pad, value_map_t.get() + square);
  }

  // Features are kept less `orthogonal`, which therefore reaches the scores here. What
  // is no reference never scores best.
  void offset_scores(const double* g, T* offsets) const {
    for (int64_t j = 0; j < references_pad; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < anchors && j < references; ++k)
        sum += g[k * 2 * references + j];
      offsets[j] = j < references ? T(double(orthogonal) * sum) : T(-1e30);
    }
  }

  void split_anchors(const double* z, int64_t head) {
    T* c = mean.get() + head * dim_pad;
    T* differences_of_head = differences.get() + head * dim_pad * anchors_pad;
    T* by_mean = differences_by_mean.get() + head * anchors_pad;
    for (int64_t i = 0; i < dim_pad * anchors_pad; ++i) differences_of_head[i] = 0;
    for (int64_t k = 0; k < anchors_pad; ++k) by_mean[k] = 0;
    for (int64_t d = 0; d < dim_pad; ++d) {
      double sum = 0;
      for (int64_t k = 0; k < anchors && d < dim; ++k) sum += z[k * dim + d];
      c[d] = T(sum / anchors);
    }
    for (int64_t k = 0; k < anchors; ++k) {
      double product = 0;
      for (int64_t d = 0; d < dim; ++d) {
        const double difference = z[k * dim + d] - double(c[d]);
        differences_of_head[d * anchors_pad + k] = T(difference);
        product += difference * double(c[d]);
      }
      by_mean[k] = T(product);
    }
  }

  // Writes `from`, (rows, cols) at the given strides, and zeros around it to `to`,
  // whose rows are to_stride apart.
  template <typename U>
  static void pad(const double* from, int64_t row_stride, int64_t col_stride,
                  int64_t rows, int64_t cols, int64_t to_stride, U* to) {
    const int64_t rows_pad = round_up(rows, kPad), cols_pad = round_up(cols, kPad);
    for (int64_t i = 0; i < rows_pad; ++i)
      for (int64_t j = 0; j < cols_pad; ++j)
        to[i * to_stride + j] =
            i < rows && j < cols ? U(from[i * row_stride + j * col_stride]) : U(0);
  }

  // Token i of n along an axis lies at (i + 1/2) / n, a reference likewise.
  template <typename Coordinate>
  void fill_factors(int64_t n, int64_t reference_n, Coordinate coordinate,
                    T* to) const {
    for (int64_t i = 0; i <= n; ++i) {
      for (int64_t j = 0; j < references_pad; ++j) {
        double exponent = 0;
        if (i < n && j < references && is_image()) {
          const double gap = ((i + 0.5) / n - (coordinate(j) + 0.5) / reference_n) /
                             problem.fields.tau;
          exponent = -gap * gap;
        }
        to[i * references_pad + j] = T(std::exp(exponent));
      }
    }
  }
};

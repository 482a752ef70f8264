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
// Position weights, which all heads share, are kept up to this size.
constexpr int64_t kPositionBytes = 1 << 20;

template <typename T>
struct Call {
  const Problem& problem;
  int64_t tokens, dim, anchors, references, iters;
  int64_t dim_pad, anchors_pad, references_pad;  // the last of each way
  int64_t terms, terms_pad;  // the L + 1 b and the L gammas of the backward pass
  int64_t chunk_tokens, num_chunks;
  T alpha, inv_epsilon, norm_floor;
  T log2_alpha, log2_inv_epsilon;  // these two for powers of two instead of e
  T orthogonal;  // k(x, z) of a token that is orthogonal to an anchor

  // Of all heads, padded with 0: anchors (h, K, D), their mean (h, D), what each
  // differs from it, transposed (h, D, K), and that times the mean (h, K).
  Buffer<T> anchors_n, mean, differences, differences_by_mean;
  // (h, K, 2 M), the way in before the way back; what all tokens have in common of
  // their scores, (h, 2 M).
  Buffer<T> score_maps, score_offsets;
  // (h, K, K) and its transpose, in double because they amplify errors.
  Buffer<double> value_map, value_map_t;
  // Factors of Pi, (M, H_t) and (M, W_t), of each image if not all tokens are valid; Pi
  // itself, tile by tile, unless it is not the same for all images or has too many
  // tokens to stay in the cache.
  int64_t tables;
  bool keeps_positions;
  Buffer<T> row_factors, col_factors, positions;

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
        terms(2 * iters + 1),
        terms_pad(round_up(terms, 8)),
        chunk_tokens(max_of(kMinChunk, round_up(ceil_div(tokens, kMaxChunks), kTile))),
        num_chunks(ceil_div(tokens, chunk_tokens)),
        alpha(T(p.fields.alpha)),
        inv_epsilon(T(1 / p.fields.epsilon)),
        // The smallest normal number of float16; see norm_floor in kernel.py.
        norm_floor(p.scalar == Scalar::kHalf ? T(0x1p-14) : T(1e-30)),
        log2_alpha(T(kLog2E * p.fields.alpha)),
        log2_inv_epsilon(T(kLog2E / p.fields.epsilon)),
        orthogonal(T(std::exp(-p.fields.alpha))),
        anchors_n(p.sizes.heads * dim_pad * anchors_pad),
        mean(p.sizes.heads * dim_pad),
        differences(p.sizes.heads * dim_pad * anchors_pad),
        differences_by_mean(p.sizes.heads * anchors_pad),
        score_maps(p.sizes.heads * anchors_pad * 2 * references_pad),
        score_offsets(p.sizes.heads * 2 * references_pad),
        value_map(p.sizes.heads * anchors_pad * anchors_pad),
        value_map_t(p.sizes.heads * anchors_pad * anchors_pad),
        tables(p.valid == nullptr ? 1 : p.sizes.batch),
        keeps_positions(p.valid == nullptr &&
                        tokens * references * int64_t(sizeof(T)) <= kPositionBytes),
        row_factors(tables * references * p.fields.height),
        col_factors(tables * references * p.fields.width),
        positions(keeps_positions ? references * round_up(tokens, kTile) : 0) {
    run(parallel, p.sizes.heads, [&](int64_t begin, int64_t end) {
      for (int64_t head = begin; head < end; ++head) pad_head(head);
    });
    for (int64_t table = 0; table < tables && is_image(); ++table) fill_table(table);
    if (keeps_positions)
      for (int64_t begin = 0; begin < tokens; begin += kTile)
        fill_positions(0, begin, positions.get() + begin * references);
  }

  int64_t grid_width() const {
    return problem.fields.height > 0 ? problem.fields.width : 1;
  }

  // What of an image is valid, in the bounds of its grid.
  Region region_of(int64_t image) const {
    const int64_t width = grid_width(), height = tokens / width;
    if (problem.valid == nullptr) return {height, width};
    const int64_t* valid = problem.valid + 2 * image;
    return {max_of<int64_t>(0, min_of(valid[0], height)),
            max_of<int64_t>(0, min_of(valid[1], width))};
  }

  // Pi (M, kTile) of the tile that begins with that token, wherever it lies.
  const T* positions_of(int64_t image, int64_t begin, T* scratch) const {
    if (keeps_positions) return positions.get() + begin * references;
    fill_positions(image, begin, scratch);
    return scratch;
  }

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
      offset_scores(g, score_offsets.get() + head * both_pad + first);
    }
    const int64_t square = head * anchors_pad * anchors_pad;
    pad(v, anchors, 1, anchors, anchors, anchors_pad, value_map.get() + square);
    pad(v, 1, anchors, anchors, anchors, anchors_pad, value_map_t.get() + square);
  }

  // Features are kept less `orthogonal`, which therefore reaches the scores here.
  void offset_scores(const double* g, T* offsets) const {
    for (int64_t j = 0; j < references; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < anchors; ++k) sum += g[k * 2 * references + j];
      offsets[j] = T(double(orthogonal) * sum);
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

  bool is_image() const { return problem.fields.tau > 0 && problem.fields.height > 0; }

  // Weights of the distances between a reference at (place + 1/2) / places along an
  // axis and tokens i at (i + 1/2) / n.
  void fill_factors(int64_t n, int64_t place, int64_t places, T* to) const {
    for (int64_t i = 0; i < n; ++i) {
      const double gap = ((i + 0.5) / n - (place + 0.5) / places) / problem.fields.tau;
      to[i] = T(std::exp(-gap * gap));
    }
  }

  void fill_table(int64_t table) {
    const Fields& f = problem.fields;
    const Region region = region_of(table);
    for (int64_t j = 0; j < references; ++j) {
      const int64_t at = table * references + j;
      fill_factors(region.height, j / f.reference_width, f.reference_height,
                   row_factors.get() + at * f.height);
      fill_factors(region.width, j % f.reference_width, f.reference_width,
                   col_factors.get() + at * f.width);
    }
  }

  void fill_positions(int64_t image, int64_t begin, T* to) const {
    if (is_image()) {
      fill_image_positions(image, begin, to);
      return;
    }
    for (int64_t i = 0; i < references * kTile; ++i) to[i] = 0;
    if (problem.fields.tau > 0) fill_sequence_exponents(image, begin, to);
    for (int64_t i = 0; i < references * kTile; i += kLanes<T>)
      store(to + i, exp2_vec<T>(load(to + i) * T(kLog2E)));
  }

  // Token i of n lies at (i + 1) / n, and a reference likewise.
  void fill_sequence_exponents(int64_t image, int64_t begin, T* to) const {
    const double inv_tau = 1 / problem.fields.tau;
    const int64_t length = region_of(image).height;
    for (int64_t j = 0; j < references; ++j)
      for (int64_t i = 0; i < min_of(kTile, length - begin); ++i) {
        const double gap = (double(begin + i + 1) / double(length) -
                            double(j + 1) / double(references)) *
                           inv_tau;
        to[j * kTile + i] = T(-gap * gap);
      }
  }

  // What lies beyond the last token is 0.
  void fill_image_positions(int64_t image, int64_t begin, T* to) const {
    const Region region = region_of(image);
    const int64_t table = tables == 1 ? 0 : image, width = region.width;
    const int64_t end = min_of(begin + kTile, region.height * width);
    for (int64_t j = 0; j < references; ++j) {
      const int64_t row = table * references + j;
      const T* const by_row = row_factors.get() + row * problem.fields.height;
      const T* const by_col = col_factors.get() + row * problem.fields.width;
      T* const weights = to + j * kTile - begin;
      for (int64_t i = begin; i < end;) {
        const T factor = by_row[i / width];
        const T* const factors = by_col - i / width * width;
        const int64_t end_of_row = min_of(end, (i / width + 1) * width);
        for (; i < end_of_row; ++i) weights[i] = factor * factors[i];
      }
      for (int64_t i = end; i < begin + kTile; ++i) weights[i] = 0;
    }
  }
};

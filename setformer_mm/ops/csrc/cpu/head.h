// One head of one image, tile by tile: what its passes in both directions share. To be
// included inside the anonymous namespace of one instruction set.
#pragma once

// What one thread needs for one tile. Rows are tokens; the columns of a buffer are
// channels (D), anchors (K) or references (M).
template <typename T>
struct Scratch {
  Buffer<T> x, direction_grads;                                            // D
  Buffer<T> features, values, out_grads, value_grads, exponent_grads;      // K
  Buffer<T> gibbs, weights, factors, weight_grads, response, score_grads;  // M
  Buffer<T> terms;
  T lengths[kTile], a[kTile], inv_row_sums[kTile], log_a_grads[kTile], left[kTile];

  explicit Scratch(const Call<T>& call)
      : x(kTile * call.dim_pad),
        direction_grads(kTile * call.dim_pad),
        features(kTile * call.anchors_pad),
        values(kTile * call.anchors_pad),
        out_grads(kTile * call.anchors_pad),
        value_grads(kTile * call.anchors_pad),
        exponent_grads(kTile * call.anchors_pad),
        gibbs(kTile * call.references_pad),
        weights(kTile * call.references_pad),
        factors(kTile * call.references_pad),
        weight_grads(kTile * call.references_pad),
        response(kTile * call.references_pad),
        score_grads(kTile * call.references_pad),
        terms(kTile * call.terms_pad) {}
};

// A pass visits the chunks of a head in any order, at once if there are threads for it,
// and each chunk tile by tile. What it sums up over tokens goes to the chunk's own
// partial sums, in double; a finish_ function then adds these up in order and does what
// is left on arrays of the size of the parameters.
//
// Names are those of docs/method.md: F = k(x, z) are the features, gibbs is exp((S - 1)
// / epsilon), a and b are the scalings of the plan T, and W = T * Pi are the weights.
template <typename T>
class Head {
 public:
  // Begins another head; the memory is used again.
  void start(int64_t image, int64_t head) {
    image_ = image;
    head_ = head;
    for (int64_t j = 0; j < M(); ++j) scalings_.get()[j] = j < call_.references ? 1 : 0;
  }

  // The first pass: the largest token norm and, if they are kept, the features.
  void embed(int64_t chunk, Scratch<T>& s) {
    double longest = 0;
    for_tiles(chunk, [&](Tile tile) {
      T* lengths = resident_ ? lengths_.get() + tile.begin : s.lengths;
      load_unit_tokens(tile, s.x.get(), lengths);
      if (resident_) {
        compute_features(tile, s.x.get(), features_.get() + tile.begin * K(),
                         gibbs_.get() + tile.begin * M());
      }
      for (int64_t i = 0; i < tile.count; ++i)
        longest =
            lengths[i] > longest || lengths[i] != lengths[i] ? lengths[i] : longest;
    });
    partial(chunk)[0] = longest;
  }

  void finish_embed() {
    unit_ = call_.norm_floor;
    for (int64_t chunk = 0; chunk < call_.num_chunks; ++chunk) {
      const T longest = T(partial(chunk)[0]);
      unit_ = longest > unit_ || longest != longest ? longest : unit_;
    }
  }

 protected:
  // Tokens [begin, begin + count) of the head, in `rows` rows of which those beyond
  // count take no part: their a and their weights are 0.
  struct Tile {
    int64_t begin, count, rows;
  };

  // Where a tile's features lie, F (rows, K), exp((S - 1) / epsilon) (rows, M), and l.
  struct View {
    const T *features, *gibbs, *lengths;
  };

  // gibbs_columns: arrays of the size of gibbs that are kept, and sums: doubles a chunk
  // adds up at most.
  Head(const Call<T>& call, int64_t gibbs_columns, int64_t sums)
      : call_(call),
        resident_(round_up(call.tokens, kTile) * int64_t(sizeof(T)) *
                      (call.anchors_pad + gibbs_columns * call.references_pad + 2) <=
                  kResidentBytes),
        features_(kept(K())),
        gibbs_(kept(M())),
        lengths_(kept(1)),
        scalings_((call.iters + 1) * M()),
        aggregates_(M() * K()),
        mixed_(M() * K()),
        sums_(sums),
        partials_(call.num_chunks * sums),
        totals_(sums) {}

  int64_t D() const { return call_.dim_pad; }
  int64_t K() const { return call_.anchors_pad; }
  int64_t M() const { return call_.references_pad; }
  // Elements of an array of so many columns that is kept for all tokens, if any is.
  int64_t kept(int64_t columns) const {
    return resident_ ? round_up(call_.tokens, kTile) * columns : 0;
  }
  // Where the head's part of what is saved begins, in heads.
  int64_t saved_slot() const { return image_ * call_.problem.sizes.heads + head_; }
  const T* differences() const { return call_.differences.get() + head_ * D() * K(); }
  const T* anchors_n() const { return call_.anchors_n.get() + head_ * D() * K(); }
  const T* score_map() const { return call_.score_map.get() + head_ * K() * M(); }
  const T* score_map_t() const { return call_.score_map_t.get() + head_ * K() * M(); }
  const double* value_map() const { return call_.value_map.get() + head_ * K() * K(); }
  const double* value_map_t() const {
    return call_.value_map_t.get() + head_ * K() * K();
  }
  // b after t iterations.
  T* scaling(int64_t t) const { return scalings_.get() + t * M(); }
  double* partial(int64_t chunk) const { return partials_.get() + chunk * sums_; }

  template <typename Visit>
  void for_tiles(int64_t chunk, Visit visit) const {
    const int64_t end = min_of((chunk + 1) * call_.chunk_tokens, call_.tokens);
    for (int64_t begin = chunk * call_.chunk_tokens; begin < end; begin += kTile) {
      const int64_t count = min_of(kTile, end - begin);
      visit(Tile{begin, count, round_up(count, 8)});
    }
  }

  Rows rows_of(const Tokens& tokens, Tile tile) const {
    return {tokens, call_.problem.scalar, image_, head_, tile.begin, tile.count};
  }

  double* zeroed_partial(int64_t chunk, int64_t size) const {
    double* sums = partial(chunk);
    for (int64_t i = 0; i < size; ++i) sums[i] = 0;
    return sums;
  }

  const double* add_up(int64_t size) const {
    if (call_.num_chunks == 1) return partial(0);
    double* totals = totals_.get();
    for (int64_t i = 0; i < size; ++i) totals[i] = partial(0)[i];
    for (int64_t chunk = 1; chunk < call_.num_chunks; ++chunk)
      for (int64_t i = 0; i < size; ++i) totals[i] += partial(chunk)[i];
    return totals;
  }

  // A value_map, from A.
  void mix() {
    gemm(round_up(call_.references, 8), K(), K(),
         Left<double>{aggregates_.get(), K(), 1}, value_map(), K(), 0.0,
         [&](int64_t j, int64_t c, Vec<double> v) {
           store_rounded(mixed_.get() + j * K() + c, v);
         });
    for (int64_t i = round_up(call_.references, 8) * K(); i < M() * K(); ++i)
      mixed_.get()[i] = 0;
  }

  static T dot(const T* a, const T* b, int64_t size) {
    Vec<T> sums{};
    for (int64_t j = 0; j < size; j += kLanes<T>) sums += load(a + j) * load(b + j);
    return sum_lanes<T>(sums);
  }

  static void scale_row(const T* from, T by, int64_t size, T* to) {
    for (int64_t j = 0; j < size; j += kLanes<T>) store(to + j, load(from + j) * by);
  }

  // sums_j += sum_i of left_i matrix_ij.
  void add_column_sums(Tile tile, const T* left, const T* matrix, double* sums) const {
    gemm(1, M(), tile.count, Left<T>{left, 0, 1}, matrix, M(), T(0),
         [&](int64_t, int64_t j, Vec<T> v) { add_to(sums + j, v); });
  }

  // Directions (rows, D) and lengths of tokens; 0 for those no longer than norm_floor.
  void load_unit_tokens(Tile tile, T* x, T* lengths) const {
    load_rows(rows_of(call_.problem.x, tile), call_.dim, D(), tile.rows, x);
    for (int64_t i = 0; i < tile.rows; ++i) {
      T* row = x + i * D();
      const T square = dot(row, row, D());
      T length = std::sqrt(square);
      if (!(square > T(1e-24) && square < T(1e24))) length = length_of_extreme(row);
      lengths[i] = length <= call_.norm_floor ? T(0) : length;
      const Vec<T> zero{};
      for (int64_t d = 0; d < D(); d += kLanes<T>)
        store(row + d, lengths[i] == 0 ? zero : load(row + d) / lengths[i]);
    }
  }

  // Squares of representable norms need not be representable.
  T length_of_extreme(const T* row) const {
    T peak = 0;
    for (int64_t d = 0; d < D(); ++d) {
      const T size = row[d] < 0 ? -row[d] : row[d];
      peak = size > peak || size != size ? size : peak;
    }
    if (peak == 0) return 0;
    T sum = 0;
    for (int64_t d = 0; d < D(); ++d) sum += (row[d] / peak) * (row[d] / peak);
    return peak * std::sqrt(sum);
  }

  // From directions u (rows, D), which become their differences w from the mean c of
  // the anchors. With anchors z = c + e the exponents of F are
  //   alpha (u z - 1) = alpha ((c c - 1 + w c) + c e + w e),
  // and the rounding errors that matter, those that are not the same for all anchors,
  // are of the size of w e: small where anchors lie close together and k(z, z)^-1
  // amplifies errors.
  void compute_features(Tile tile, T* x, T* features, T* gibbs) const {
    const T* c = call_.mean.get() + head_ * D();
    const T* by_mean = call_.differences_by_mean.get() + head_ * K();
    const T square = dot(c, c, D()) - 1;
    T common[kTile];
    for (int64_t i = 0; i < tile.rows; ++i) {
      T* row = x + i * D();
      for (int64_t d = 0; d < D(); d += kLanes<T>)
        store(row + d, load(row + d) - load(c + d));
      common[i] = square + dot(row, c, D());
    }
    gemm(tile.rows, K(), D(), Left<T>{x, D(), 1}, differences(), K(), T(0),
         [&](int64_t i, int64_t k, Vec<T> v) {
           const Vec<T> exponent = (v + load(by_mean + k) + common[i]) * call_.alpha;
           store(features + i * K() + k, exp_vec<T>(exponent));
         });
    // Sums start at -1 because the exponents are small where it matters.
    gemm(tile.rows, M(), K(), Left<T>{features, K(), 1}, score_map(), M(), T(-1),
         [&](int64_t i, int64_t j, Vec<T> v) {
           store(gibbs + i * M() + j, exp_vec<T>(v * call_.inv_epsilon));
         });
  }

  View look_at(Tile tile, Scratch<T>& s) const {
    if (resident_)
      return {features_.get() + tile.begin * K(), gibbs_.get() + tile.begin * M(),
              lengths_.get() + tile.begin};
    load_unit_tokens(tile, s.x.get(), s.lengths);
    compute_features(tile, s.x.get(), s.features.get(), s.gibbs.get());
    return {s.features.get(), s.gibbs.get(), s.lengths};
  }

  // a = (1 / N) / (gibbs b).
  void update_rows(Tile tile, View view, const T* b, T* a) const {
    for (int64_t i = 0; i < tile.rows; ++i)
      a[i] = T(call_.tokens) * dot(view.gibbs + i * M(), b, M());
    for (int64_t i = 0; i < tile.rows; ++i) a[i] = i < tile.count ? 1 / a[i] : 0;
  }

  // W up to the factor a of each row, gibbs b Pi, to `weights`, which may be where
  // gibbs lies; one over its row sums; and a to s.a.
  void weigh_rows(Tile tile, View view, T* weights, T* inv_row_sums,
                  Scratch<T>& s) const {
    const T* b = scaling(call_.iters);
    if (call_.is_sequence()) fill_sequence_factors(tile, s.factors.get());
    const int64_t width = max_of<int64_t>(call_.problem.fields.width, 1);
    for (int64_t i = 0; i < tile.rows; ++i) {
      const int64_t token = tile.begin + i;
      const T* rows = call_.row_factors.get();
      const T* cols = call_.col_factors.get();
      if (call_.is_image() && i < tile.count) {
        rows += token / width * M();
        cols += token % width * M();
      } else {
        rows = call_.is_sequence() ? s.factors.get() + i * M()
                                   : rows + call_.problem.fields.height * M();
        cols += call_.problem.fields.width * M();
      }
      Vec<T> plain{}, weighted{};
      for (int64_t j = 0; j < M(); j += kLanes<T>) {
        const Vec<T> scaled = load(view.gibbs + i * M() + j) * load(b + j);
        const Vec<T> weight = scaled * load(rows + j) * load(cols + j);
        plain += scaled;
        weighted += weight;
        store(weights + i * M() + j, weight);
      }
      s.a[i] = T(call_.tokens) * sum_lanes<T>(plain);
      inv_row_sums[i] = sum_lanes<T>(weighted);
    }
    for (int64_t i = 0; i < tile.rows; ++i) {
      s.a[i] = i < tile.count ? 1 / s.a[i] : 0;
      inv_row_sums[i] = i < tile.count ? 1 / inv_row_sums[i] : 0;
    }
  }

  // Pi of a tile of a sequence, whose position i of n is (i + 1) / n.
  void fill_sequence_factors(Tile tile, T* factors) const {
    const double inv_tau = 1 / call_.problem.fields.tau;
    for (int64_t i = 0; i < tile.rows; ++i) {
      const double position = double(tile.begin + i + 1) / double(call_.tokens);
      for (int64_t j = 0; j < M(); ++j) {
        const double gap =
            (position - double(j + 1) / double(call_.references)) * inv_tau;
        factors[i * M() + j] = T(-gap * gap);
      }
      for (int64_t j = 0; j < M(); j += kLanes<T>)
        store(factors + i * M() + j, exp_vec<T>(load(factors + i * M() + j)));
    }
  }

  const Call<T>& call_;
  const bool resident_;
  int64_t image_ = 0, head_ = 0;
  T unit_ = 1;  // the largest token norm; A is kept relative to it
  Buffer<T> features_, gibbs_, lengths_;
  Buffer<T> scalings_;
  Buffer<double> aggregates_;  // A, in double because value_map amplifies errors
  Buffer<T> mixed_;            // A value_map

 private:
  const int64_t sums_;
  Buffer<double> partials_, totals_;
};

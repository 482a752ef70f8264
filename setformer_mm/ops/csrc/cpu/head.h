// One head of one image, tile by tile: what its passes in both directions share. To be
// included inside the anonymous namespace of one instruction set.
#pragma once

// What one thread needs for one tile. Rows are tokens; the columns of a buffer are
// channels (D), anchors (K) or references (M).
template <typename T>
struct Scratch {
  Buffer<T> x, direction_grads;                          // D
  Buffer<T> features, out, value_grads, exponent_grads;  // K
  Buffer<T> weights, factors, response;                  // M
  Buffer<T> gibbs, weight_grads, score_grads;            // 2 M
  Buffer<T> terms;
  T lengths[kTile], a[2][kTile], left[kTile];

  explicit Scratch(const Call<T>& call)
      : x(kTile * call.dim_pad),
        direction_grads(kTile * call.dim_pad),
        features(kTile * call.anchors_pad),
        out(kTile * call.anchors_pad),
        value_grads(kTile * call.anchors_pad),
        exponent_grads(kTile * call.anchors_pad),
        weights(kTile * call.references_pad),
        factors(kTile * call.references_pad),
        response(kTile * call.references_pad),
        gibbs(kTile * 2 * call.references_pad),
        weight_grads(kTile * 2 * call.references_pad),
        score_grads(kTile * 2 * call.references_pad),
        terms(kTile * call.terms_pad) {}
};

// A pass visits the chunks of a head in any order, at once if there are threads for it,
// and each chunk tile by tile. What it sums up over tokens goes to the chunk's own
// partial sums, in double; a finish_ function then adds these up in order and does what
// is left on arrays of the size of the parameters.
//
// Names are those of docs/method.md: F = k(x, z) are the features, kept less what they
// are for a token that is orthogonal to all anchors; gibbs is the E of problem.h, of
// both ways side by side; a and b are the scalings of their plans.
template <typename T>
class Head {
 public:
  // Begins another head; the memory is used again.
  void start(int64_t image, int64_t head) {
    image_ = image;
    head_ = head;
  }

 protected:
  static constexpr int64_t kIn = 0, kBack = 1;  // the two ways

  // Tokens [begin, begin + count) of the head, in `rows` rows of which those beyond
  // count take no part: their a and their weights are 0.
  struct Tile {
    int64_t begin, count, rows;
  };

  // Where a tile's features lie, F (rows, K), exp((S - 1) / epsilon) (rows, M), and l.
  struct View {
    const T *features, *gibbs, *lengths;
  };

  // kept_columns: columns of T that are kept for all tokens if there is room, beside
  // features and lengths; sums: doubles a chunk adds up at most.
  Head(const Call<T>& call, int64_t kept_columns, int64_t sums)
      : call_(call),
        resident_(round_up(call.tokens, kTile) * int64_t(sizeof(T)) *
                      (call.anchors_pad + kept_columns + 1) <=
                  kResidentBytes),
        features_(kept(K())),
        gibbs_(kept(2 * M())),
        lengths_(kept(1)),
        shifts_(2 * M()),
        scalings_((call.iters + 1) * 2 * M()),
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
  const T* score_maps() const { return call_.score_maps.get() + head_ * K() * 2 * M(); }
  const T* score_maps_t() const {
    return call_.score_maps_t.get() + head_ * K() * 2 * M();
  }
  const double* value_map() const { return call_.value_map.get() + head_ * K() * K(); }
  const double* value_map_t() const {
    return call_.value_map_t.get() + head_ * K() * K();
  }
  // b of both ways after t iterations.
  T* scaling(int64_t t) const { return scalings_.get() + t * 2 * M(); }
  bool is_reference(int64_t j) const { return j % M() < call_.references; }
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

  double* add_up(int64_t size) const {
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
         Left<double>{aggregates_.get(), K(), 1}, value_map(), K(),
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

  // sums_j += sum_i of left_i matrix_ij, for M columns of rows of 2 M.
  void add_column_sums(Tile tile, const T* left, const T* matrix, double* sums) const {
    gemm(1, M(), tile.count, Left<T>{left, 0, 1}, matrix, 2 * M(),
         [&](int64_t, int64_t j, Vec<T> v) { add_to(sums + j, v); });
  }

  // sums_j += sum_i of matrix_ij, likewise.
  void add_column_sums(Tile tile, const T* matrix, double* sums) const {
    T ones[kTile];
    for (int64_t i = 0; i < tile.rows; ++i) ones[i] = 1;
    add_column_sums(tile, ones, matrix, sums);
  }

  // The longest of a tile's tokens, or what was the longest before. NaN stays.
  double longest_of(Tile tile, const T* lengths, double longest) const {
    for (int64_t i = 0; i < tile.count; ++i)
      longest = lengths[i] > longest || lengths[i] != lengths[i] ? lengths[i] : longest;
    return longest;
  }

  // From the longest of each chunk, the first of its sums.
  void set_unit() {
    unit_ = call_.norm_floor;
    for (int64_t chunk = 0; chunk < call_.num_chunks; ++chunk) {
      const T longest = T(*partial(chunk));
      unit_ = longest > unit_ || longest != longest ? longest : unit_;
    }
  }

  // Directions (rows, D) and lengths of tokens; 0 for those no longer than norm_floor.
  void load_unit_tokens(Tile tile, T* x, T* lengths) const {
    load_rows(rows_of(call_.problem.x, tile), call_.dim, D(), tile.rows, x);
    for (int64_t i = 0; i < tile.rows; ++i) {
      T* row = x + i * D();
      scale_row(row, measure(row, lengths + i), D(), row);
    }
  }

  // The length of a row, and the factor that leaves its direction. Squares of
  // representable numbers need not be representable: such a row is divided by its
  // largest component first.
  T measure(T* row, T* length) const {
    T square = dot(row, row, D()), divisor = 1;
    if (!(square > T(1e-24) && square < T(1e24))) {
      divisor = divide_by_peak(row);
      square = dot(row, row, D());
    }
    const T root = std::sqrt(square);
    *length = root * divisor;
    if (*length <= call_.norm_floor) *length = 0;
    return *length == 0 ? T(0) : 1 / root;
  }

  T divide_by_peak(T* row) const {
    T peak = 0;
    for (int64_t d = 0; d < D(); ++d) {
      const T size = row[d] < 0 ? -row[d] : row[d];
      peak = size > peak || size != size ? size : peak;
    }
    if (peak == 0) return 1;
    for (int64_t d = 0; d < D(); ++d) row[d] /= peak;
    return peak;
  }

  // Lengths and features of tokens; x is scratch. With anchors z = c + e around their
  // mean c, and w = u - c for the direction u, the exponents of F are
  //   alpha (u z - 1) = alpha ((u c - 1) + c e + w e),
  // and the rounding errors that matter, those that are not the same for all anchors,
  // are of the size of w e: small where anchors lie close together and k(z, z)^-1
  // amplifies errors.
  void compute_features(Tile tile, T* x, T* lengths, T* features) const {
    const T* c = call_.mean.get() + head_ * D();
    const T* by_mean = call_.differences_by_mean.get() + head_ * K();
    T common[kTile];
    load_rows(rows_of(call_.problem.x, tile), call_.dim, D(), tile.rows, x);
    for (int64_t i = 0; i < tile.rows; ++i) {
      T* row = x + i * D();
      const T inverse = measure(row, lengths + i);
      common[i] = dot(row, c, D()) * inverse - 1;
      for (int64_t d = 0; d < D(); d += kLanes<T>)
        store(row + d, load(row + d) * inverse - load(c + d));
    }
    gemm(tile.rows, K(), D(), Left<T>{x, D(), 1}, differences(), K(),
         [&](int64_t i, int64_t k, Vec<T> v) {
           const Vec<T> exponent = (v + load(by_mean + k) + common[i]) * call_.alpha;
           store(features + i * K() + k, exp_vec<T>(exponent) - call_.orthogonal);
         });
  }

  // Scores of both ways less the largest of their row. Rows that are no tokens get
  // none: theirs might exceed the column maxima.
  void compute_scores(Tile tile, const T* features, T* scores) const {
    const T* offsets = call_.score_offsets.get() + head_ * 2 * M();
    gemm_from(offsets, tile.rows, 2 * M(), K(), Left<T>{features, K(), 1}, score_maps(),
              2 * M(), [&](int64_t i, int64_t j, Vec<T> v) {
                store(scores + i * 2 * M() + j, v);
              });
    for (int64_t i = tile.count * 2 * M(); i < tile.rows * 2 * M(); ++i)
      scores[i] = T(-1e30);
    for (int64_t half = 0; half < 2 * tile.count; ++half) {
      T* row = scores + half * M();
      Vec<T> best = load(row);
      for (int64_t j = kLanes<T>; j < M(); j += kLanes<T>)
        best = max_vec<T>(best, load(row + j));
      const T largest = max_lanes<T>(best);
      for (int64_t j = 0; j < M(); j += kLanes<T>)
        store(row + j, load(row + j) - largest);
    }
  }

  // From these to E.
  void exponentiate(Tile tile, T* scores) const {
    for (int64_t i = 0; i < tile.rows; ++i)
      for (int64_t j = 0; j < 2 * M(); j += kLanes<T>) {
        T* at = scores + i * 2 * M() + j;
        const Vec<T> shifted = load(at) - load(shifts_.get() + j);
        store(at, exp_vec<T>(shifted * call_.inv_epsilon + T(kLift)));
      }
  }

  // b before the first iteration.
  void start_scaling() {
    for (int64_t j = 0; j < 2 * M(); ++j)
      scaling(0)[j] = is_reference(j)
                          ? T(std::exp(shifts_.get()[j] / call_.problem.fields.epsilon))
                          : T(0);
  }

  // Lengths, features and E of a tile.
  void compute(Tile tile, T* x, T* lengths, T* features, T* gibbs) const {
    compute_features(tile, x, lengths, features);
    compute_scores(tile, features, gibbs);
    exponentiate(tile, gibbs);
  }

  View look_at(Tile tile, Scratch<T>& s) const {
    if (!resident_) {
      compute(tile, s.x.get(), s.lengths, s.features.get(), s.gibbs.get());
      return {s.features.get(), s.gibbs.get(), s.lengths};
    }
    return {features_.get() + tile.begin * K(), gibbs_.get() + tile.begin * 2 * M(),
            lengths_.get() + tile.begin};
  }

  // a = (1 / N) / (E b), of the way whose columns of E and b these are.
  void update_rows(Tile tile, const T* gibbs, const T* b, T* a) const {
    for (int64_t i = 0; i < tile.rows; ++i)
      a[i] = T(call_.tokens) * dot(gibbs + i * 2 * M(), b, M());
    for (int64_t i = 0; i < tile.rows; ++i) a[i] = i < tile.count ? 1 / a[i] : 0;
  }

  // Calls visit(i, rows, cols) for each row of the tile with the two factors of its
  // position weights.
  template <typename Visit>
  void for_positions(Tile tile, Scratch<T>& s, Visit visit) const {
    if (call_.is_sequence()) fill_sequence_factors(tile, s.factors.get());
    const Fields& fields = call_.problem.fields;
    const T* const ones = call_.col_factors.get() + fields.width * M();
    int64_t row = 0, col = 0;
    if (call_.is_image()) {
      row = tile.begin / fields.width;
      col = tile.begin % fields.width;
    }
    for (int64_t i = 0; i < tile.rows; ++i) {
      if (call_.is_image() && i < tile.count) {
        visit(i, call_.row_factors.get() + row * M(),
              call_.col_factors.get() + col * M());
        if (++col == fields.width) {
          col = 0;
          ++row;
        }
      } else {
        visit(i, call_.is_sequence() ? s.factors.get() + i * M() : ones, ones);
      }
    }
  }

  // Weights of the way in, U = a E Pi, and their a.
  void weigh_in(Tile tile, View view, T* weights, Scratch<T>& s) const {
    update_rows(tile, view.gibbs, scaling(call_.iters), s.a[0]);
    for_positions(tile, s, [&](int64_t i, const T* rows, const T* cols) {
      const T* gibbs = view.gibbs + i * 2 * M();
      for (int64_t j = 0; j < M(); j += kLanes<T>)
        store(weights + i * M() + j,
              load(gibbs + j) * s.a[0][i] * load(rows + j) * load(cols + j));
    });
  }

  // Weights of the way back, P = E b Pi over its row sums.
  void weigh_back(Tile tile, View view, T* weights, Scratch<T>& s) const {
    const T* b = scaling(call_.iters) + M();
    for_positions(tile, s, [&](int64_t i, const T* rows, const T* cols) {
      const T* gibbs = view.gibbs + i * 2 * M() + M();
      Vec<T> sums{};
      for (int64_t j = 0; j < M(); j += kLanes<T>) {
        const Vec<T> weight =
            load(gibbs + j) * load(b + j) * load(rows + j) * load(cols + j);
        sums += weight;
        store(weights + i * M() + j, weight);
      }
      const T inverse = i < tile.count ? 1 / sum_lanes<T>(sums) : 0;
      scale_row(weights + i * M(), inverse, M(), weights + i * M());
    });
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
  Buffer<T> shifts_;  // c
  Buffer<T> scalings_;
  Buffer<double> aggregates_;  // A, in double because value_map amplifies errors
  Buffer<T> mixed_;            // A value_map

 private:
  const int64_t sums_;
  Buffer<double> partials_, totals_;
};

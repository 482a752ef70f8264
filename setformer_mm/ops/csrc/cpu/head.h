// One head of one image, tile by tile: what its passes in both directions share. To be
// included inside the anonymous namespace of one instruction set.
#pragma once

// What one thread needs for one tile. Of arrays named _t, and of all that has a row for
// each reference, the columns are tokens; of the others the rows are.
template <typename T>
struct Scratch {
  Buffer<T> x, x_t, direction_grads_t;                                // D
  Buffer<T> out, out_t, features_t, value_grads_t, exponent_grads_t;  // K
  Buffer<T> weights, weights_t, positions, response;                  // M
  Buffer<T> gibbs, weight_grads, score_grads, score_grads_t, terms;   // 2 M
  Buffer<T> best, shifts, factors;                                    // 2 M
  Buffer<double> sums;  // a vector's lanes for each of 2 M columns
  T lengths[kTile], inverses[kTile], common[kTile], a[2][kTile], left[kTile];

  explicit Scratch(const Call<T>& call)
      : x(kTile * call.dim_pad),
        x_t(kTile * call.dim_pad),
        direction_grads_t(kTile * call.dim_pad),
        out(kTile * call.anchors_pad),
        out_t(kTile * call.anchors_pad),
        features_t(kTile * call.anchors_pad),
        value_grads_t(kTile * call.anchors_pad),
        exponent_grads_t(kTile * call.anchors_pad),
        weights(kTile * call.references_pad),
        weights_t(kTile * call.references_pad),
        positions(kTile * call.references_pad),
        response(kTile * call.references_pad),
        gibbs(kTile * 2 * call.references_pad),
        weight_grads(kTile * 2 * call.references_pad),
        score_grads(kTile * 2 * call.references_pad),
        score_grads_t(kTile * 2 * call.references_pad),
        terms(kTile * call.terms_pad),
        best(kLanes<T> * 2 * call.references_pad),
        shifts(2 * call.references_pad),
        factors(2 * call.references_pad),
        sums(kLanes<T> * 2 * call.references_pad) {}
};

// A pass visits the chunks of a head in any order, at once if there are threads for it,
// and each chunk tile by tile. What it sums up over tokens goes to the chunk's own
// partial sums, in double; a finish_ function then adds these up in order and does what
// is left on arrays of the size of the parameters.
//
// Names are those of docs/method.md: F = k(x, z) are the features, kept less what they
// are for a token that is orthogonal to all anchors; gibbs is the E of problem.h, the
// way in's above the way back's; a and b are the scalings of their plans.
template <typename T>
class Head {
 public:
  // Begins another head; the memory is used again.
  void start(int64_t image, int64_t head) {
    image_ = image;
    head_ = head;
    region_ = call_.region_of(image);
    tokens_ = region_.height * region_.width;
  }

 protected:
  static constexpr int64_t kIn = 0, kBack = 1;  // the two ways

  struct Ways {
    int64_t begin, end;
  };
  static constexpr Ways kOnlyIn{kIn, kIn + 1}, kOnlyBack{kBack, kBack + 1};
  static constexpr Ways kBoth{kIn, kBack + 1};

  // Tokens [begin, begin + count) of the head, in `cols` columns, kTile apart, of which
  // those beyond count take no part: their a and their weights are 0. Sums over
  // references, of which there are few, thus add vectors and not a vector's lanes.
  struct Tile {
    int64_t begin, count, cols;
  };

  // Where a tile's F (K, cols), E (2 M, cols) and l lie.
  struct View {
    const T *features_t, *gibbs, *lengths;
  };

  // Whether features, lengths and so many columns of T are kept for all tokens.
  static bool fits(const Call<T>& call, int64_t kept_columns) {
    return round_up(call.tokens, kTile) * int64_t(sizeof(T)) *
               (call.anchors_pad + kept_columns + 1) <=
           kResidentBytes;
  }

  // kept_columns: columns of T that are kept for all tokens if there is room, beside
  // features and lengths; sums: doubles a chunk adds up at most.
  Head(const Call<T>& call, int64_t kept_columns, int64_t sums)
      : call_(call),
        resident_(fits(call, kept_columns)),
        features_t_(kept(K())),
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
  const double* value_map() const { return call_.value_map.get() + head_ * K() * K(); }
  const double* value_map_t() const {
    return call_.value_map_t.get() + head_ * K() * K();
  }
  // b of both ways after t iterations.
  T* scaling(int64_t t) const { return scalings_.get() + t * 2 * M(); }
  double* partial(int64_t chunk) const { return partials_.get() + chunk * sums_; }

  template <typename Visit>
  void for_tiles(int64_t chunk, Visit visit) const {
    const int64_t end = min_of((chunk + 1) * call_.chunk_tokens, tokens_);
    for (int64_t begin = chunk * call_.chunk_tokens; begin < end; begin += kTile) {
      const int64_t count = min_of(kTile, end - begin);
      visit(Tile{begin, count, round_up(count, kPad)});
    }
  }

  Rows rows_of(const Tokens& tokens, Tile tile) const {
    return {tokens,     call_.problem.scalar, image_,        head_,
            tile.begin, tile.count,           region_.width, call_.grid_width()};
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

  // 1 / sum; 0 for a sum over no tokens at all.
  static double inverse(double sum) { return sum == 0 ? 0 : 1 / sum; }

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

  // visit(t) for every vector of a tile's columns.
  template <typename Visit>
  static void for_vectors(Tile tile, Visit visit) {
    for (int64_t t = 0; t < tile.cols; t += kLanes<T>) visit(t);
  }

  // visit(j) for every reference of these ways.
  template <typename Visit>
  void for_references(Ways ways, Visit visit) const {
    for (int64_t way = ways.begin; way < ways.end; ++way)
      for (int64_t j = 0; j < call_.references; ++j) visit(way * M() + j);
  }

  static void zero_beyond(Tile tile, T* row) {
    for (int64_t i = tile.count; i < tile.cols; ++i) row[i] = 0;
  }

  // Multiplies each column of a matrix of so many rows by a factor of its own.
  static void scale_columns(Tile tile, const T* factors, int64_t rows, T* matrix) {
    for (int64_t j = 0; j < rows; ++j)
      for_vectors(tile, [&](int64_t t) {
        T* const at = matrix + j * kTile + t;
        store(at, load(at) * load(factors + t));
      });
  }

  // sum_j left_j matrix_j, rows kTile apart, for one vector of columns.
  Vec<T> weighted_sum(const T* left, const T* matrix) const {
    Vec<T> sum{};
    for (int64_t j = 0; j < call_.references; ++j)
      sum += left[j] * load(matrix + j * kTile);
    return sum;
  }

  // Sums over tokens for M rows, lane by lane until the chunk's end. An array of 2 M
  // of them begins with start_sums() and ends with finish_sums().
  void start_sums(double* sums) const {
    for (int64_t i = 0; i < 2 * M() * kLanes<T>; ++i) sums[i] = 0;
  }

  // sums_j += sum_i of left_i matrix_ji.
  void add_to_sums(Tile tile, const T* left, const T* matrix, double* sums) const {
    for (int64_t j = 0; j < call_.references; ++j) {
      Vec<T> sum{};
      for_vectors(tile, [&](int64_t t) {
        sum += load(left + t) * load(matrix + j * kTile + t);
      });
      add_to(sums + j * kLanes<T>, sum);
    }
  }

  // sums_j += sum_i of matrix_ji.
  void add_to_sums(Tile tile, const T* matrix, double* sums) const {
    for (int64_t j = 0; j < call_.references; ++j) {
      Vec<T> sum{};
      for_vectors(tile, [&](int64_t t) { sum += load(matrix + j * kTile + t); });
      add_to(sums + j * kLanes<T>, sum);
    }
  }

  void finish_sums(const double* sums, int64_t count, double* to) const {
    for (int64_t j = 0; j < count; ++j) {
      Vec<double> sum{};
      for (int64_t lane = 0; lane < kLanes<T>; lane += kLanes<double>)
        sum += load(sums + j * kLanes<T> + lane);
      to[j] = sum_lanes<double>(sum);
    }
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

  // Tokens (D, cols), their lengths, 0 for those no longer than norm_floor, and the
  // factors that leave their directions.
  void load_tokens(Tile tile, T* lengths, Scratch<T>& s) const {
    T* const x_t = s.x_t.get();
    load_rows(rows_of(call_.problem.x, tile), call_.dim, D(), tile.cols, s.x.get());
    transpose(s.x.get(), D(), tile.cols, D(), x_t, kTile);
    T squares[kTile], divisors[kTile];
    for_vectors(tile, [&](int64_t t) {
      Vec<T> sum{};
      for (int64_t d = 0; d < D(); ++d) {
        const Vec<T> component = load(x_t + d * kTile + t);
        sum += component * component;
      }
      store(squares + t, sum);
    });
    bool fit = true;
    for (int64_t i = 0; i < tile.cols; ++i) {
      divisors[i] = 1;
      fit &= squares[i] > T(1e-24) && squares[i] < T(1e24);
    }
    // Squares of representable numbers need not be representable.
    for (int64_t i = 0; i < tile.cols && !fit; ++i)
      if (!(squares[i] > T(1e-24) && squares[i] < T(1e24)))
        divisors[i] = divide_by_peak(x_t + i, squares + i);
    for (int64_t i = 0; i < tile.cols; ++i) {
      const T root = std::sqrt(squares[i]), length = root * divisors[i];
      lengths[i] = length <= call_.norm_floor ? T(0) : length;
      s.inverses[i] = length <= call_.norm_floor ? T(0) : 1 / root;
    }
  }

  // Divides a token by its largest component, which it returns.
  T divide_by_peak(T* token, T* square) const {
    T peak = 0;
    for (int64_t d = 0; d < D(); ++d) {
      const T at = token[d * kTile], size = at < 0 ? -at : at;
      peak = size > peak || size != size ? size : peak;
    }
    if (peak == 0) return 1;
    *square = 0;
    for (int64_t d = 0; d < D(); ++d) {
      T* const at = token + d * kTile;
      *at /= peak;
      *square += *at * *at;
    }
    return peak;
  }

  // Lengths and features of tokens. With anchors z = c + e around their mean c, and w =
  // u - c for the direction u, the exponents of F are
  //   alpha (u z - 1) = alpha ((u c - 1) + c e + w e),
  // and the rounding errors that matter, those that are not the same for all anchors,
  // are of the size of w e: small where anchors lie close together and k(z, z)^-1
  // amplifies errors.
  void compute_features(Tile tile, T* lengths, T* features_t, Scratch<T>& s) const {
    const T* c = call_.mean.get() + head_ * D();
    const T* by_mean = call_.differences_by_mean.get() + head_ * K();
    load_tokens(tile, lengths, s);
    for_vectors(tile, [&](int64_t t) {
      const Vec<T> inverse = load(s.inverses + t);
      Vec<T> along{};
      for (int64_t d = 0; d < D(); ++d) {
        T* const at = s.x_t.get() + d * kTile + t;
        const Vec<T> direction = load(at) * inverse;
        along += direction * c[d];
        store(at, direction - c[d]);
      }
      store(s.common + t, along - T(1));
    });
    gemm(K(), tile.cols, D(), Left<T>{differences(), 1, K()}, s.x_t.get(), kTile,
         [&](int64_t k, int64_t t, Vec<T> v) {
           const Vec<T> exponent = v + by_mean[k] + load(s.common + t);
           store(features_t + k * kTile + t,
                 exp2_vec<T>(exponent * call_.log2_alpha) - call_.orthogonal);
         });
  }

  // Scores less the largest of their token. Columns that are no tokens get none: theirs
  // might exceed the maxima over tokens.
  void compute_scores(Tile tile, Ways ways, const T* features_t, T* scores) const {
    const int64_t first = ways.begin * M();
    const T* offsets = call_.score_offsets.get() + head_ * 2 * M();
    gemm((ways.end - ways.begin) * M(), tile.cols, K(),
         Left<T>{score_maps() + first, 1, 2 * M()}, features_t, kTile,
         [&](int64_t j, int64_t t, Vec<T> v) {
           store(scores + (first + j) * kTile + t, v + offsets[first + j]);
         });
    for (int64_t way = ways.begin; way < ways.end; ++way)
      for_vectors(tile, [&](int64_t t) {
        T* const from = scores + way * M() * kTile + t;
        Vec<T> largest = load(from);
        for (int64_t j = 1; j < call_.references; ++j)
          largest = max_vec<T>(largest, load(from + j * kTile));
        for (int64_t j = 0; j < call_.references; ++j)
          store(from + j * kTile, load(from + j * kTile) - largest);
      });
    for (int64_t i = tile.count; i < tile.cols; ++i)
      for_references(ways, [&](int64_t j) { scores[j * kTile + i] = T(-1e30); });
  }

  // From these to E, given c or what it is so far.
  void exponentiate(Tile tile, Ways ways, const T* shifts, T* scores) const {
    for_references(ways, [&](int64_t j) {
      const T shift = shifts[j];
      for_vectors(tile, [&](int64_t t) {
        T* const at = scores + j * kTile + t;
        store(at, exp2_vec<T>((load(at) - shift) * call_.log2_inv_epsilon +
                              T(kLog2E * kLift)));
      });
    });
  }

  // exp(from / epsilon) of both ways' references: of c, b before the first iteration.
  void exponentiate_shifts(const T* from, T* to) const {
    for (int64_t j = 0; j < 2 * M(); j += kLanes<T>)
      store(to + j, exp2_vec<T>(load(from + j) * call_.log2_inv_epsilon));
  }

  // Lengths, features and E of a tile.
  void compute(Tile tile, Ways ways, T* lengths, T* features_t, T* gibbs,
               Scratch<T>& s) const {
    compute_features(tile, lengths, features_t, s);
    compute_scores(tile, ways, features_t, gibbs);
    exponentiate(tile, ways, shifts_.get(), gibbs);
  }

  // What is kept of a tile, or else what these ways need, computed again.
  View look_at(Tile tile, Ways ways, Scratch<T>& s) const {
    if (!resident_) {
      compute(tile, ways, s.lengths, s.features_t.get(), s.gibbs.get(), s);
      return {s.features_t.get(), s.gibbs.get(), s.lengths};
    }
    return {features_t_.get() + tile.begin * K(), gibbs_.get() + tile.begin * 2 * M(),
            lengths_.get() + tile.begin};
  }

  // a = (1 / N) / (E b), of the way whose rows of E and b these are.
  void update_rows(Tile tile, const T* gibbs, const T* b, T* a) const {
    for_vectors(tile, [&](int64_t t) {
      store(a + t, 1 / (weighted_sum(b, gibbs + t) * T(tokens_)));
    });
    zero_beyond(tile, a);
  }

  // Weights of the way in, U = a E Pi, and their a.
  void weigh_in(Tile tile, View view, T* weights, Scratch<T>& s) const {
    T* const a = s.a[kIn];
    update_rows(tile, view.gibbs, scaling(call_.iters), a);
    const T* positions = call_.positions_of(image_, tile.begin, s.positions.get());
    for (int64_t j = 0; j < call_.references; ++j)
      for_vectors(tile, [&](int64_t t) {
        const int64_t at = j * kTile + t;
        store(weights + at, load(view.gibbs + at) * load(a + t) * load(positions + at));
      });
  }

  // Weights of the way back, P = E b Pi over its sums over references.
  void weigh_back(Tile tile, View view, T* weights, Scratch<T>& s) const {
    const T* b = scaling(call_.iters) + M();
    const T* gibbs = view.gibbs + M() * kTile;
    const T* positions = call_.positions_of(image_, tile.begin, s.positions.get());
    T inverses[kTile];
    for_vectors(tile, [&](int64_t t) {
      Vec<T> sum{};
      for (int64_t j = 0; j < call_.references; ++j) {
        const int64_t at = j * kTile + t;
        const Vec<T> weight = load(gibbs + at) * b[j] * load(positions + at);
        sum += weight;
        store(weights + at, weight);
      }
      store(inverses + t, 1 / sum);
    });
    zero_beyond(tile, inverses);
    scale_columns(tile, inverses, call_.references, weights);
  }

  const Call<T>& call_;
  const bool resident_;
  int64_t image_ = 0, head_ = 0;
  Region region_{};
  int64_t tokens_ = 0;  // of the region
  T unit_ = 1;          // the largest token norm; A is kept relative to it
  Buffer<T> features_t_, gibbs_, lengths_;
  Buffer<T> shifts_;  // c
  Buffer<T> scalings_;
  Buffer<double> aggregates_;  // A, in double because value_map amplifies errors
  Buffer<T> mixed_;            // A value_map

 private:
  const int64_t sums_;
  Buffer<double> partials_, totals_;
};

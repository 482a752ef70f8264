// SeT attention of one head of one image: the passes over its tokens. To be included
// inside the anonymous namespace of one instruction set.
//
// A pass visits the chunks of a head in any order, at once if there are threads for it,
// and each chunk tile by tile; what it sums up over tokens goes to the chunk's own partial
// sums, in double. A finish_ function then adds these up in order and does what is left,
// on arrays of the size of the parameters. In the names of docs/method.md, with F =
// k(x, z), lengths l = |x| and W = T * Pi:
//
//   forward    embed      F and exp((S - 1) / epsilon) of all tiles, the largest l
//              iterate    one Sinkhorn iteration: a, then sums for b      (num_iters times)
//              aggregate  the last a; sums of W and of W^T l F
//              respond    o = rows of W over their sums, times A
//   backward   embed
//              project    gradients of A
//              weigh      gradients of log W; their sums are those of log b
//              unroll     through one Sinkhorn iteration               (num_iters - 1 times)
//              gather     through the rest; gradients of x and of the maps
//
// Gradients are carried with respect to logarithms of a, b and W: those are well scaled.
// They and A are kept relative to the largest token norm `unit` until they are written.
#pragma once

template <typename T>
class Head;

// What one thread needs for one tile.
template <typename T>
struct Scratch {
  Buffer<T> x, features, gibbs, values, weights, plan, scores, wide, grads, factors;
  T lengths[kTile], a[kTile], inv_row_sums[kTile], row_terms[kTile];

  explicit Scratch(const Call<T>& call)
      : x(kTile * call.dim_pad),
        features(kTile * call.anchors_pad),
        gibbs(kTile * call.references_pad),
        values(kTile * call.anchors_pad),
        weights(kTile * call.references_pad),
        plan(kTile * call.references_pad),
        scores(kTile * call.references_pad),
        wide(kTile * max_of(call.dim_pad,
                            max_of(call.anchors_pad, Head<T>::terms_pad(call)))),
        grads(kTile * call.anchors_pad),
        factors(call.is_sequence() ? kTile * call.references_pad : 0) {}
};

template <typename T>
class Head {
 public:
  Head(const Call<T>& call, bool backward)
      : call_(call),
        backward_(backward),
        resident_(resident_bytes(call, backward) <= kResidentBytes),
        features_(resident_ ? padded_tokens() * K() : 0),
        gibbs_(resident_ ? padded_tokens() * M() : 0),
        grads_(resident_ && backward ? padded_tokens() * M() : 0),
        lengths_(resident_ ? padded_tokens() : 0),
        inv_row_sums_(resident_ && !backward ? padded_tokens() : 0),
        partial_size_(partial_size(call, backward)),
        partials_(call.num_chunks * partial_size_),
        totals_(partial_size_),
        scalings_((call.iters + 1) * M()),
        gammas_((call.iters + 1) * M()),
        aggregates_(M() * K()),
        mixed_(M() * K()),
        wide_(2 * M() * K() + K() * K()),
        grad_aggregates_(M() * K()),
        grad_aggregates_t_(M() * K()),
        inv_column_sums_(M()),
        offsets_(M()),
        terms_(backward ? M() * terms_pad(call) : 0),
        terms_t_(backward ? terms_pad(call) * M() : 0) {}

  // Begins another head; the memory is used again.
  void start(int64_t image, int64_t head) {
    image_ = image;
    head_ = head;
    for (int64_t j = 0; j < M(); ++j) scalings_.get()[j] = j < call_.references ? 1 : 0;
  }

  // Columns of the small products with all scalings at once: L + 1 b and L gammas.
  static int64_t terms_pad(const Call<T>& call) {
    return round_up(2 * call.iters + 1, kPad);
  }

  // ---------------------------------------------------------------- embed, both ways

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
        longest = lengths[i] > longest || lengths[i] != lengths[i] ? lengths[i] : longest;
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

  // ------------------------------------------------------------------------- forward

  void iterate(int64_t t, int64_t chunk, Scratch<T>& s) {
    double* column_sums = zeroed_partial(chunk, M());
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, s);
      update_rows(tile, view, scaling(t), s.a);
      add_column_sums(tile, s.a, view.gibbs, column_sums);
    });
  }

  void finish_iterate(int64_t t) {
    const double* column_sums = add_up(M());
    for (int64_t j = 0; j < M(); ++j)
      scaling(t + 1)[j] =
          j < call_.references ? T(1 / (call_.references * column_sums[j])) : T(0);
  }

  void aggregate(int64_t chunk, Scratch<T>& s) {
    double* column_sums = zeroed_partial(chunk, M() + M() * K());
    double* sums = column_sums + M();
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, s);
      // gibbs is not needed any more: W takes its place.
      T* weights = resident_ ? gibbs_.get() + tile.begin * M() : s.weights.get();
      weigh_rows(tile, view, weights,
                 resident_ ? inv_row_sums_.get() + tile.begin : s.inv_row_sums, s);
      for (int64_t i = 0; i < tile.rows; ++i)
        scale_row(view.features + i * K(), s.a[i] * (view.lengths[i] / unit_), K(),
                  s.values.get() + i * K());
      add_column_sums(tile, s.a, weights, column_sums);
      gemm(M(), K(), tile.rows, Left<T>{weights, 1, M()}, s.values.get(), K(), T(0),
           [&](int64_t j, int64_t k, Vec<T> v) { add_to(sums + j * K() + k, v); });
    });
  }

  void finish_aggregate() {
    const double* column_sums = add_up(M() + M() * K());
    const double* sums = column_sums + M();
    const int64_t m = call_.references, k = call_.anchors, slot = slot_index();
    double* saved = call_.problem.saved.aggregates + slot * m * (k + 1);
    double* a = wide_.get();
    for (int64_t j = 0; j < M(); ++j) {
      const double inverse = j < m ? 1 / column_sums[j] : 0;
      for (int64_t c = 0; c < K(); ++c) a[j * K() + c] = sums[j * K() + c] * inverse;
      if (j >= m) continue;
      for (int64_t c = 0; c < k; ++c) saved[j * (k + 1) + c] = a[j * K() + c];
      saved[j * (k + 1) + k] = column_sums[j];
    }
    double* b = call_.problem.saved.scalings + slot * call_.iters * m;
    for (int64_t t = 0; t < call_.iters; ++t)
      for (int64_t j = 0; j < m; ++j) b[t * m + j] = scaling(t + 1)[j];
    mix();
  }

  void respond(const Tokens& out, int64_t chunk, Scratch<T>& s) {
    for_tiles(chunk, [&](Tile tile) {
      const T* weights = s.weights.get();
      const T* inv_row_sums = s.inv_row_sums;
      if (resident_) {
        weights = gibbs_.get() + tile.begin * M();
        inv_row_sums = inv_row_sums_.get() + tile.begin;
      } else {
        weigh_rows(tile, look_at(tile, s), s.weights.get(), s.inv_row_sums, s);
      }
      gemm(tile.rows, K(), M(), Left<T>{weights, M(), 1}, mixed_.get(), K(), T(0),
           [&](int64_t i, int64_t k, Vec<T> v) {
             store(s.values.get() + i * K() + k, v * inv_row_sums[i] * unit_);
           });
      store_rows(s.values.get(), call_.anchors, K(), rows_of(out, tile));
    });
  }

  // ------------------------------------------------------------------------ backward

  // Takes up what the forward pass left.
  void restore() {
    const int64_t m = call_.references, k = call_.anchors, slot = slot_index();
    const double* b = call_.problem.saved.scalings + slot * call_.iters * m;
    for (int64_t t = 0; t < call_.iters; ++t)
      for (int64_t j = 0; j < M(); ++j)
        scaling(t + 1)[j] = j < m ? T(b[t * m + j]) : T(0);
    const double* saved = call_.problem.saved.aggregates + slot * m * (k + 1);
    for (int64_t j = 0; j < M(); ++j) {
      for (int64_t c = 0; c < K(); ++c)
        wide_.get()[j * K() + c] = j < m && c < k ? saved[j * (k + 1) + c] : 0;
      inv_column_sums_.get()[j] = j < m ? T(1 / saved[j * (k + 1) + k]) : T(0);
    }
    mix();
  }

  void project(const Tokens& grad_out, int64_t chunk, Scratch<T>& s) {
    double* sums = zeroed_partial(chunk, M() * K());
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, s);
      weigh_rows(tile, view, s.weights.get(), s.inv_row_sums, s);
      T* grads = s.grads.get();
      load_rows(rows_of(grad_out, tile), call_.anchors, K(), tile.rows, grads);
      for (int64_t i = 0; i < tile.rows; ++i)
        scale_row(grads + i * K(), s.inv_row_sums[i], K(), grads + i * K());
      gemm(M(), K(), tile.rows, Left<T>{s.weights.get(), 1, M()}, grads, K(), T(0),
           [&](int64_t j, int64_t k, Vec<T> v) { add_to(sums + j * K() + k, v); });
    });
  }

  // From the gradients of A value_map to those of A and of value_map.
  void finish_project(double* grad_value_map) {
    const double* mixed_grads = add_up(M() * K());
    const double* a = wide_.get();
    double* grads = wide_.get() + M() * K();
    gemm(M(), K(), K(), Left<double>{mixed_grads, K(), 1}, value_map_t(), K(), 0.0,
         [&](int64_t j, int64_t c, Vec<double> v) { store(grads + j * K() + c, v); });
    double* products = wide_.get() + 2 * M() * K();
    gemm(K(), K(), call_.references, Left<double>{a, 1, K()}, mixed_grads, K(), 0.0,
         [&](int64_t i, int64_t c, Vec<double> v) { store(products + i * K() + c, v); });
    copy_unpadded(products, call_.anchors, call_.anchors, K(), grad_value_map);
    for (int64_t j = 0; j < M(); ++j) {
      double offset = 0;
      for (int64_t c = 0; c < K(); ++c) {
        const double g = grads[j * K() + c];
        offset += g * a[j * K() + c];
        grad_aggregates_.get()[j * K() + c] = T(g);
        grad_aggregates_t_.get()[c * M() + j] = T(g);
        aggregates_.get()[c * M() + j] = mixed_.get()[j * K() + c];
      }
      offsets_.get()[j] = T(offset);
    }
  }

  void weigh(const Tokens& grad_out, int64_t chunk, Scratch<T>& s) {
    double* by_b = zeroed_partial(chunk, 2 * M());
    double* by_a = by_b + M();
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, s);
      T* grads = resident_ ? grads_.get() + tile.begin * M() : s.plan.get();
      compute_weight_grads(grad_out, tile, view, grads, s);
      T ones[kTile], scaled[kTile];
      for (int64_t i = 0; i < tile.rows; ++i) {
        ones[i] = 1;
        scaled[i] = s.row_terms[i] * s.a[i];
      }
      add_column_sums(tile, ones, grads, by_b);
      add_column_sums(tile, scaled, view.gibbs, by_a);
    });
  }

  void finish_weigh() {
    const double* by_b = add_up(2 * M());
    const double* by_a = by_b + M();
    const int64_t last = call_.iters;
    if (last == 0) return;
    for (int64_t j = 0; j < M(); ++j) {
      const double b = scaling(last)[j];
      set_gamma(last, j, by_b[j] - call_.tokens * b * by_a[j]);
    }
  }

  // Through the update of b[t], and of the a before it, to b[t - 1]; t > 1.
  void unroll(int64_t t, int64_t chunk, Scratch<T>& s) {
    double* by_a = zeroed_partial(chunk, M());
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, s);
      update_rows(tile, view, scaling(t - 1), s.a);
      for (int64_t i = 0; i < tile.rows; ++i)
        s.row_terms[i] = -s.a[i] * s.a[i] * dot(view.gibbs + i * M(), gamma(t), M());
      add_column_sums(tile, s.row_terms, view.gibbs, by_a);
    });
  }

  void finish_unroll(int64_t t) {
    const double* by_a = add_up(M());
    for (int64_t j = 0; j < M(); ++j)
      set_gamma(t - 1, j, -double(call_.tokens) * scaling(t - 1)[j] * by_a[j]);
  }

  // Lays out all b and gammas side by side, for products with every one of them at once.
  void collect_terms() {
    const int64_t width = terms_pad(call_), iters = call_.iters;
    for (int64_t c = 0; c < width; ++c) {
      for (int64_t j = 0; j < M(); ++j) {
        const T value = c <= iters       ? scaling(c)[j]
                        : c <= 2 * iters ? gamma(c - iters)[j]
                                         : T(0);
        terms_.get()[j * width + c] = value;
        terms_t_.get()[c * M() + j] = value;
      }
    }
  }

  void gather(const Tokens& grad_out, const Tokens& grad_x, int64_t chunk,
              Scratch<T>& s) {
    double* grad_score_map = zeroed_partial(chunk, K() * M() + K() * D());
    double* grad_anchors = grad_score_map + K() * M();
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, s);
      T* grads = resident_ ? grads_.get() + tile.begin * M() : s.plan.get();
      if (resident_)
        weigh_rows(tile, view, s.weights.get(), s.inv_row_sums, s);
      else
        compute_weight_grads(grad_out, tile, view, grads, s);
      compute_score_grads(tile, view, grads, s);  // into s.scores
      const T* score_grads = s.scores.get();
      gemm(K(), M(), tile.rows, Left<T>{view.features, 1, K()}, score_grads, M(), T(0),
           [&](int64_t k, int64_t j, Vec<T> v) { add_to(grad_score_map + k * M() + j, v); });

      // Columns of W over their sums, in place of W: l F reached A through them.
      T* columns = s.weights.get();
      for (int64_t i = 0; i < tile.rows; ++i)
        for (int64_t j = 0; j < M(); j += kLanes<T>)
          store(columns + i * M() + j, load(columns + i * M() + j) * s.a[i] *
                                           load(inv_column_sums_.get() + j));
      T* value_grads = s.values.get();
      gemm(tile.rows, K(), M(), Left<T>{columns, M(), 1}, grad_aggregates_.get(), K(),
           T(0), [&](int64_t i, int64_t k, Vec<T> v) { store(value_grads + i * K() + k, v); });

      // Gradients of the kernel's exponents alpha (u z - 1), relative to unit.
      T* exponent_grads = s.grads.get();
      gemm(tile.rows, K(), M(), Left<T>{score_grads, M(), 1}, score_map_t(), K(), T(0),
           [&](int64_t i, int64_t k, Vec<T> v) {
             const int64_t at = i * K() + k;
             v += load(value_grads + at) * (view.lengths[i] / unit_);
             store(exponent_grads + at, v * load(view.features + at) * call_.alpha);
           });
      T* x = s.x.get();
      T lengths[kTile];
      load_unit_tokens(tile, x, lengths);
      gemm(K(), D(), tile.rows, Left<T>{exponent_grads, 1, K()}, x, D(), T(0),
           [&](int64_t k, int64_t d, Vec<T> v) { add_to(grad_anchors + k * D() + d, v); });
      T* direction_grads = s.wide.get();
      gemm(tile.rows, D(), K(), Left<T>{exponent_grads, K(), 1}, anchors_n(), D(), T(0),
           [&](int64_t i, int64_t d, Vec<T> v) { store(direction_grads + i * D() + d, v); });
      for (int64_t i = 0; i < tile.rows; ++i) {
        T* u = x + i * D();
        const T* du = direction_grads + i * D();
        const T along = dot(u, du, D());
        const T length_grad = dot(view.features + i * K(), value_grads + i * K(), K());
        const T ratio = lengths[i] == 0 ? T(0) : unit_ / lengths[i];
        for (int64_t d = 0; d < D(); d += kLanes<T>) {
          const Vec<T> direction = load(u + d);
          store(u + d,
                (load(du + d) - direction * along) * ratio + direction * length_grad);
        }
      }
      store_rows(x, call_.dim, D(), rows_of(grad_x, tile));
    });
  }

  void finish_gather(double* grad_score_map, double* grad_anchors) {
    const double* sums = add_up(K() * M() + K() * D());
    copy_unpadded(sums, call_.anchors, call_.references, M(), grad_score_map);
    copy_unpadded(sums + K() * M(), call_.anchors, call_.dim, D(), grad_anchors);
  }

 private:
  // Tokens [begin, begin + count) of the head, in `rows` rows of which those beyond count
  // take no part: their a and their weights are 0.
  struct Tile {
    int64_t begin, count, rows;
  };

  // Where a tile's features lie, F (rows, K), exp((S - 1) / epsilon) (rows, M), and l.
  struct View {
    const T *features, *gibbs, *lengths;
  };

  int64_t D() const { return call_.dim_pad; }
  int64_t K() const { return call_.anchors_pad; }
  int64_t M() const { return call_.references_pad; }
  int64_t padded_tokens() const { return round_up(call_.tokens, kTile); }
  int64_t slot_index() const { return image_ * call_.problem.sizes.heads + head_; }
  const T* anchors_t() const { return call_.anchors_t.get() + head_ * D() * K(); }
  const T* anchors_n() const { return call_.anchors_n.get() + head_ * D() * K(); }
  const T* score_map() const { return call_.score_map.get() + head_ * K() * M(); }
  const T* score_map_t() const { return call_.score_map_t.get() + head_ * K() * M(); }
  const double* value_map() const { return call_.value_map.get() + head_ * K() * K(); }
  const double* value_map_t() const {
    return call_.value_map_t.get() + head_ * K() * K();
  }
  // b after t iterations, and M b times the gradient of log b.
  T* scaling(int64_t t) const { return scalings_.get() + t * M(); }
  T* gamma(int64_t t) const { return gammas_.get() + t * M(); }
  double* partial(int64_t chunk) const { return partials_.get() + chunk * partial_size_; }

  static int64_t resident_bytes(const Call<T>& call, bool backward) {
    const int64_t columns =
        call.anchors_pad + (backward ? 2 : 1) * call.references_pad + 2;
    return round_up(call.tokens, kTile) * columns * int64_t(sizeof(T));
  }

  static int64_t partial_size(const Call<T>& call, bool backward) {
    const int64_t k = call.anchors_pad, m = call.references_pad;
    return backward ? max_of(k * m + k * call.dim_pad, 2 * m) : m + m * k;
  }

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
    double* totals = totals_.get();
    for (int64_t i = 0; i < size; ++i) totals[i] = partial(0)[i];
    for (int64_t chunk = 1; chunk < call_.num_chunks; ++chunk)
      for (int64_t i = 0; i < size; ++i) totals[i] += partial(chunk)[i];
    return totals;
  }

  // A value_map, from A in wide_.
  void mix() {
    gemm(M(), K(), K(), Left<double>{wide_.get(), K(), 1}, value_map(), K(), 0.0,
         [&](int64_t j, int64_t c, Vec<double> v) {
           for (int lane = 0; lane < kLanes<double>; ++lane)
             mixed_.get()[j * K() + c + lane] = T(v[lane]);
         });
  }

  void set_gamma(int64_t t, int64_t j, double log_scaling_grad) {
    gamma(t)[j] = T(log_scaling_grad * call_.references * scaling(t)[j]);
  }

  // out (rows, cols) of an array padded to `padded` columns, times unit.
  void copy_unpadded(const double* from, int64_t rows, int64_t cols, int64_t padded,
                     double* out) const {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j)
        out[i * cols + j] = from[i * padded + j] * double(unit_);
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

  void compute_features(Tile tile, const T* x, T* features, T* gibbs) const {
    // Sums start at -1 because both exponents are small where it matters.
    gemm(tile.rows, K(), D(), Left<T>{x, D(), 1}, anchors_t(), K(), T(-1),
         [&](int64_t i, int64_t k, Vec<T> v) {
           store(features + i * K() + k, exp_vec<T>(v * call_.alpha));
         });
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

  // W up to the factor a of each row, gibbs b Pi, to `weights`, which may be where gibbs
  // lies; one over its row sums; and a to s.a.
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
        const double gap = (position - double(j + 1) / double(call_.references)) * inv_tau;
        factors[i * M() + j] = T(-gap * gap);
      }
      for (int64_t j = 0; j < M(); j += kLanes<T>)
        store(factors + i * M() + j, exp_vec<T>(load(factors + i * M() + j)));
    }
  }

  // Gradients of log W to `grads`, their row sums, which are those of the last log a, to
  // s.row_terms; leaves what weigh_rows leaves. Uses s.scores.
  void compute_weight_grads(const Tokens& grad_out, Tile tile, View view, T* grads,
                            Scratch<T>& s) const {
    weigh_rows(tile, view, s.weights.get(), s.inv_row_sums, s);
    T* out_grads = s.grads.get();
    load_rows(rows_of(grad_out, tile), call_.anchors, K(), tile.rows, out_grads);
    T* by_row = s.scores.get();
    gemm(tile.rows, M(), K(), Left<T>{out_grads, K(), 1}, aggregates_.get(), M(), T(0),
         [&](int64_t i, int64_t j, Vec<T> v) { store(by_row + i * M() + j, v); });
    T* values = s.values.get();
    for (int64_t i = 0; i < tile.rows; ++i)
      scale_row(view.features + i * K(), view.lengths[i] / unit_, K(), values + i * K());
    gemm(tile.rows, M(), K(), Left<T>{values, K(), 1}, grad_aggregates_t_.get(), M(), T(0),
         [&](int64_t i, int64_t j, Vec<T> v) {
           v -= load(offsets_.get() + j);
           store(grads + i * M() + j, v * load(inv_column_sums_.get() + j));
         });
    for (int64_t i = 0; i < tile.rows; ++i) {
      const T* weights = s.weights.get() + i * M();
      const T mean = dot(weights, by_row + i * M(), M()) * s.inv_row_sums[i];
      Vec<T> sums{};
      for (int64_t j = 0; j < M(); j += kLanes<T>) {
        const Vec<T> weight = load(weights + j);
        const Vec<T> through_rows =
            weight * s.inv_row_sums[i] * (load(by_row + i * M() + j) - mean);
        const Vec<T> through_columns = weight * s.a[i] * load(grads + i * M() + j);
        sums += through_columns;
        store(grads + i * M() + j, through_rows + through_columns);
      }
      s.row_terms[i] = sum_lanes<T>(sums);
    }
  }

  // Gradients of the scores to s.scores: those of log W, less what the Sinkhorn iterations
  // take away, which is gibbs times a matrix of rank 2 L + 1.
  void compute_score_grads(Tile tile, View view, const T* grads, Scratch<T>& s) const {
    const int64_t width = terms_pad(call_), iters = call_.iters;
    T* terms = s.wide.get();
    gemm(tile.rows, width, M(), Left<T>{view.gibbs, M(), 1}, terms_.get(), width, T(0),
         [&](int64_t i, int64_t c, Vec<T> v) { store(terms + i * width + c, v); });
    for (int64_t i = 0; i < tile.rows; ++i) {
      T* row = terms + i * width;
      const bool is_token = i < tile.count;
      for (int64_t t = 0; t <= iters; ++t) {
        const T a = is_token ? 1 / (T(call_.tokens) * row[t]) : T(0);
        T log_a_grad;
        if (t < iters) {
          log_a_grad = -a * row[iters + 1 + t];
          row[iters + 1 + t] = a;
        } else {
          Vec<T> sums{};
          for (int64_t j = 0; j < M(); j += kLanes<T>) sums += load(grads + i * M() + j);
          log_a_grad = sum_lanes<T>(sums);
        }
        row[t] = T(call_.tokens) * a * log_a_grad;
      }
    }
    gemm(tile.rows, M(), width, Left<T>{terms, width, 1}, terms_t_.get(), M(), T(0),
         [&](int64_t i, int64_t j, Vec<T> v) {
           const int64_t at = i * M() + j;
           const Vec<T> log_gibbs_grad = load(grads + at) - v * load(view.gibbs + at);
           store(s.scores.get() + at, log_gibbs_grad * call_.inv_epsilon);
         });
  }

  const Call<T>& call_;
  const bool backward_, resident_;
  int64_t image_ = 0, head_ = 0;
  T unit_ = 1;
  Buffer<T> features_, gibbs_, grads_, lengths_, inv_row_sums_;
  const int64_t partial_size_;
  Buffer<double> partials_, totals_;
  Buffer<T> scalings_, gammas_, aggregates_, mixed_;
  Buffer<double> wide_;
  Buffer<T> grad_aggregates_, grad_aggregates_t_, inv_column_sums_, offsets_;
  Buffer<T> terms_, terms_t_;
};

// Several heads in one piece of memory.
template <typename T>
class Heads {
 public:
  Heads(const Call<T>& call, bool backward, int64_t size)
      : heads_(size), size_(0) {
    for (; size_ < size; ++size_) new (heads_.get() + size_) Head<T>(call, backward);
  }
  ~Heads() {
    while (size_ > 0) heads_.get()[--size_].~Head<T>();
  }
  Head<T>* get() const { return heads_.get(); }

 private:
  Buffer<Head<T>> heads_;
  int64_t size_;
};

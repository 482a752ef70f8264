// The backward pass over one head. To be included inside the anonymous namespace of one
// instruction set.
//
//   embed      see Head
//   project    gradients of A
//   weigh      gradients of log W; their sums are those of log b
//   unroll     through one Sinkhorn iteration               (num_iters - 1 times)
//   gather     through the rest; gradients of x and of the maps
//
// Gradients are carried with respect to logarithms of a, b and W, where they are well
// scaled, and relative to unit_ until they are written.
#pragma once

template <typename T>
class BackwardHead : public Head<T> {
  using Base = Head<T>;
  using Base::aggregates_, Base::mixed_;
  using Base::call_, Base::resident_, Base::unit_;
  using Base::D, Base::K, Base::M, Base::kept, Base::saved_slot, Base::scaling;
  using Base::for_tiles, Base::rows_of, Base::look_at, Base::mix;
  using Base::load_unit_tokens, Base::anchors_n, Base::score_map_t, Base::value_map_t;
  using Base::update_rows, Base::weigh_rows, Base::dot, Base::scale_row;
  using Base::zeroed_partial, Base::add_up, Base::add_column_sums;
  using typename Base::Tile;
  using typename Base::View;

 public:
  explicit BackwardHead(const Call<T>& call)
      : Head<T>(call, 2,
                call.references_pad * max_of<int64_t>(2, call.anchors_pad) +
                    call.anchors_pad * call.dim_pad),
        weight_grads_(kept(M())),
        gammas_((call.iters + 1) * M()),
        aggregate_grads_(M() * K()),
        value_map_grads_(K() * K()),
        mixed_t_(K() * M()),
        rounded_grads_(M() * K()),
        rounded_grads_t_(K() * M()),
        inv_column_sums_(M()),
        offsets_(M()),
        terms_(M() * call.terms_pad),
        terms_t_(call.terms_pad * M()) {}

  // Takes up what the forward pass left.
  void restore() {
    const int64_t m = call_.references, k = call_.anchors, slot = saved_slot();
    const double* b = call_.problem.saved.scalings + slot * call_.iters * m;
    for (int64_t t = 0; t < call_.iters; ++t)
      for (int64_t j = 0; j < M(); ++j)
        scaling(t + 1)[j] = j < m ? T(b[t * m + j]) : T(0);
    const double* saved = call_.problem.saved.aggregates + slot * m * (k + 1);
    for (int64_t j = 0; j < M(); ++j) {
      for (int64_t c = 0; c < K(); ++c)
        aggregates_.get()[j * K() + c] = j < m && c < k ? saved[j * (k + 1) + c] : 0;
      inv_column_sums_.get()[j] = j < m ? T(1 / saved[j * (k + 1) + k]) : T(0);
    }
    mix();
  }

  void project(const Tokens& grad_out, int64_t chunk, Scratch<T>& s) {
    double* sums = zeroed_partial(chunk, M() * K());
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, s);
      weigh_rows(tile, view, s.weights.get(), s.inv_row_sums, s);
      T* grads = s.out_grads.get();
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
    const double* a = aggregates_.get();
    double* grads = aggregate_grads_.get();
    gemm(M(), K(), K(), Left<double>{mixed_grads, K(), 1}, value_map_t(), K(), 0.0,
         [&](int64_t j, int64_t c, Vec<double> v) { store(grads + j * K() + c, v); });
    double* products = value_map_grads_.get();
    gemm(
        K(), K(), call_.references, Left<double>{a, 1, K()}, mixed_grads, K(), 0.0,
        [&](int64_t i, int64_t c, Vec<double> v) { store(products + i * K() + c, v); });
    copy_unpadded(products, call_.anchors, call_.anchors, K(), grad_value_map);
    for (int64_t j = 0; j < M(); ++j) {
      double offset = 0;
      for (int64_t c = 0; c < K(); ++c) {
        const double g = grads[j * K() + c];
        offset += g * a[j * K() + c];
        rounded_grads_.get()[j * K() + c] = T(g);
        rounded_grads_t_.get()[c * M() + j] = T(g);
        mixed_t_.get()[c * M() + j] = mixed_.get()[j * K() + c];
      }
      offsets_.get()[j] = T(offset);
    }
  }

  void weigh(const Tokens& grad_out, int64_t chunk, Scratch<T>& s) {
    double* by_b = zeroed_partial(chunk, 2 * M());
    double* by_a = by_b + M();
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, s);
      T* grads = weight_grads_of(tile, s);
      compute_weight_grads(grad_out, tile, view, grads, s);
      for (int64_t i = 0; i < tile.rows; ++i) s.left[i] = 1;
      add_column_sums(tile, s.left, grads, by_b);
      for (int64_t i = 0; i < tile.rows; ++i) s.left[i] = s.log_a_grads[i] * s.a[i];
      add_column_sums(tile, s.left, view.gibbs, by_a);
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
        s.left[i] = -s.a[i] * s.a[i] * dot(view.gibbs + i * M(), gamma(t), M());
      add_column_sums(tile, s.left, view.gibbs, by_a);
    });
  }

  void finish_unroll(int64_t t) {
    const double* by_a = add_up(M());
    for (int64_t j = 0; j < M(); ++j)
      set_gamma(t - 1, j, -double(call_.tokens) * scaling(t - 1)[j] * by_a[j]);
  }

  // Lays out all b and gammas side by side, for products with every one of them at
  // once.
  void collect_terms() {
    const int64_t width = call_.terms_pad, iters = call_.iters;
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
      T* grads = weight_grads_of(tile, s);
      if (resident_)
        weigh_rows(tile, view, s.weights.get(), s.inv_row_sums, s);
      else
        compute_weight_grads(grad_out, tile, view, grads, s);
      compute_score_grads(tile, view, grads, s);  // into s.score_grads
      const T* score_grads = s.score_grads.get();
      gemm(K(), M(), tile.rows, Left<T>{view.features, 1, K()}, score_grads, M(), T(0),
           [&](int64_t k, int64_t j, Vec<T> v) {
             add_to(grad_score_map + k * M() + j, v);
           });

      // Columns of W over their sums, in place of W: l F reached A through them.
      T* columns = s.weights.get();
      for (int64_t i = 0; i < tile.rows; ++i)
        for (int64_t j = 0; j < M(); j += kLanes<T>)
          store(columns + i * M() + j, load(columns + i * M() + j) * s.a[i] *
                                           load(inv_column_sums_.get() + j));
      T* value_grads = s.value_grads.get();
      gemm(tile.rows, K(), M(), Left<T>{columns, M(), 1}, rounded_grads_.get(), K(),
           T(0), [&](int64_t i, int64_t k, Vec<T> v) {
             store(value_grads + i * K() + k, v);
           });

      // Gradients of the kernel's exponents alpha (u z - 1), relative to unit.
      T* exponent_grads = s.exponent_grads.get();
      gemm(tile.rows, K(), M(), Left<T>{score_grads, M(), 1}, score_map_t(), K(), T(0),
           [&](int64_t i, int64_t k, Vec<T> v) {
             const int64_t at = i * K() + k;
             v += load(value_grads + at) * (view.lengths[i] / unit_);
             store(exponent_grads + at, v * load(view.features + at) * call_.alpha);
           });
      T* x = s.x.get();
      load_unit_tokens(tile, x, s.lengths);
      gemm(K(), D(), tile.rows, Left<T>{exponent_grads, 1, K()}, x, D(), T(0),
           [&](int64_t k, int64_t d, Vec<T> v) {
             add_to(grad_anchors + k * D() + d, v);
           });
      T* direction_grads = s.direction_grads.get();
      gemm(tile.rows, D(), K(), Left<T>{exponent_grads, K(), 1}, anchors_n(), D(), T(0),
           [&](int64_t i, int64_t d, Vec<T> v) {
             store(direction_grads + i * D() + d, v);
           });
      for (int64_t i = 0; i < tile.rows; ++i) {
        T* u = x + i * D();
        const T* du = direction_grads + i * D();
        const T along = dot(u, du, D());
        const T length_grad = dot(view.features + i * K(), value_grads + i * K(), K());
        const T ratio = s.lengths[i] == 0 ? T(0) : unit_ / s.lengths[i];
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
  // Where the gradients of log W lie: kept from weigh to gather, or of this tile alone.
  T* weight_grads_of(Tile tile, Scratch<T>& s) const {
    return resident_ ? weight_grads_.get() + tile.begin * M() : s.weight_grads.get();
  }

  // M b times the gradient of log b.
  T* gamma(int64_t t) const { return gammas_.get() + t * M(); }

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

  // Gradients of log W to `grads`, their row sums, which are those of the last log a,
  // to s.log_a_grads; leaves what weigh_rows leaves.
  void compute_weight_grads(const Tokens& grad_out, Tile tile, View view, T* grads,
                            Scratch<T>& s) const {
    weigh_rows(tile, view, s.weights.get(), s.inv_row_sums, s);
    T* out_grads = s.out_grads.get();
    load_rows(rows_of(grad_out, tile), call_.anchors, K(), tile.rows, out_grads);
    T* response = s.response.get();
    gemm(tile.rows, M(), K(), Left<T>{out_grads, K(), 1}, mixed_t_.get(), M(), T(0),
         [&](int64_t i, int64_t j, Vec<T> v) { store(response + i * M() + j, v); });
    T* values = s.values.get();
    for (int64_t i = 0; i < tile.rows; ++i)
      scale_row(view.features + i * K(), view.lengths[i] / unit_, K(),
                values + i * K());
    gemm(tile.rows, M(), K(), Left<T>{values, K(), 1}, rounded_grads_t_.get(), M(),
         T(0), [&](int64_t i, int64_t j, Vec<T> v) {
           v -= load(offsets_.get() + j);
           store(grads + i * M() + j, v * load(inv_column_sums_.get() + j));
         });
    for (int64_t i = 0; i < tile.rows; ++i) {
      const T* weights = s.weights.get() + i * M();
      const T mean = dot(weights, response + i * M(), M()) * s.inv_row_sums[i];
      Vec<T> sums{};
      for (int64_t j = 0; j < M(); j += kLanes<T>) {
        const Vec<T> weight = load(weights + j);
        const Vec<T> through_rows =
            weight * s.inv_row_sums[i] * (load(response + i * M() + j) - mean);
        const Vec<T> through_columns = weight * s.a[i] * load(grads + i * M() + j);
        sums += through_columns;
        store(grads + i * M() + j, through_rows + through_columns);
      }
      s.log_a_grads[i] = sum_lanes<T>(sums);
    }
  }

  // Gradients of the scores to s.score_grads: those of log W, less what the Sinkhorn
  // iterations take away, which is gibbs times a matrix of rank 2 L + 1.
  void compute_score_grads(Tile tile, View view, const T* grads, Scratch<T>& s) const {
    const int64_t width = call_.terms_pad, iters = call_.iters;
    T* terms = s.terms.get();
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
          for (int64_t j = 0; j < M(); j += kLanes<T>)
            sums += load(grads + i * M() + j);
          log_a_grad = sum_lanes<T>(sums);
        }
        row[t] = T(call_.tokens) * a * log_a_grad;
      }
    }
    gemm(tile.rows, M(), width, Left<T>{terms, width, 1}, terms_t_.get(), M(), T(0),
         [&](int64_t i, int64_t j, Vec<T> v) {
           const int64_t at = i * M() + j;
           const Vec<T> log_gibbs_grad = load(grads + at) - v * load(view.gibbs + at);
           store(s.score_grads.get() + at, log_gibbs_grad * call_.inv_epsilon);
         });
  }

  Buffer<T> weight_grads_;
  Buffer<T> gammas_;
  // Gradients of A, (M, K), and of value_map, in double.
  Buffer<double> aggregate_grads_, value_map_grads_;
  // The transpose of mixed_; the gradient of A in T, and its transpose.
  Buffer<T> mixed_t_, rounded_grads_, rounded_grads_t_;
  // One over the column sums of W; what the gradients of its columns are less of.
  Buffer<T> inv_column_sums_, offsets_;
  // All b and gammas as columns, and as rows.
  Buffer<T> terms_, terms_t_;
};

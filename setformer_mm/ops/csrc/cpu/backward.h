// The backward pass over one head. To be included inside the anonymous namespace of one
// instruction set.
//
//   embed      features, E; the largest token norm
//   project    gradients of A value_map; those of log P, which sum up to those of the
//              way back's log b
//   balance    gradients of log U, and what is left of sums that are 0
//   weigh      from them those of log b of the way in; the way back through its last
//              Sinkhorn iteration
//   unroll     num_iters - 1 times: both ways through one more, the way back one ahead
//   gather     through the rest; gradients of x and of the maps
//
// Gradients are carried with respect to logarithms of a, b and the weights, where they
// are well scaled, and relative to unit_ until they are written.
#pragma once

template <typename T>
class BackwardHead : public Head<T> {
  using Base = Head<T>;
  using Base::anchors_n, Base::score_maps_t, Base::value_map_t;
  using Base::call_, Base::resident_, Base::unit_, Base::shifts_;
  using Base::compute, Base::load_unit_tokens, Base::longest_of, Base::set_unit;
  using Base::D, Base::K, Base::M, Base::kept, Base::saved_slot, Base::scaling;
  using Base::features_, Base::gibbs_, Base::lengths_, Base::aggregates_, Base::mixed_;
  using Base::for_tiles, Base::rows_of, Base::look_at, Base::mix, Base::is_reference;
  using Base::kIn, Base::kBack;
  using Base::start_scaling, Base::update_rows;
  using Base::weigh_in, Base::weigh_back, Base::dot;
  using Base::zeroed_partial, Base::partial, Base::add_up, Base::add_column_sums;
  using typename Base::Tile;
  using typename Base::View;

 public:
  explicit BackwardHead(const Call<T>& call)
      : Head<T>(call, 4 * call.references_pad,
                max_of(call.references_pad * (1 + call.anchors_pad),
                       2 * call.references_pad * (1 + call.anchors_pad) +
                           call.anchors_pad * call.dim_pad)),
        weight_grads_(kept(2 * M())),
        gammas_((call.iters + 1) * 2 * M()),
        aggregate_grads_(M() * K()),
        value_map_grads_(K() * K()),
        mixed_t_(K() * M()),
        rounded_grads_(M() * K()),
        rounded_grads_t_(K() * M()),
        inv_column_sums_(M()),
        offsets_(M()),
        residues_(M()),
        terms_(2 * M() * call.terms_pad),
        terms_t_(2 * M() * call.terms_pad) {}

  // Takes up what the forward pass left.
  void restore() {
    const int64_t m = call_.references, k = call_.anchors, slot = saved_slot();
    const double* scalings =
        call_.problem.saved.scalings + slot * (call_.iters + 1) * 2 * m;
    for (int64_t t = 0; t <= call_.iters; ++t)
      for (int64_t j = 0; j < 2 * M(); ++j)
        (t == 0 ? shifts_.get() : scaling(t))[j] =
            is_reference(j) ? T(scalings[(2 * t + j / M()) * m + j % M()]) : T(0);
    start_scaling();
    const double* saved = call_.problem.saved.aggregates + slot * m * (k + 1);
    for (int64_t j = 0; j < M(); ++j) {
      for (int64_t c = 0; c < K(); ++c)
        aggregates_.get()[j * K() + c] = j < m && c < k ? saved[j * (k + 1) + c] : 0;
      inv_column_sums_.get()[j] = j < m ? T(1 / saved[j * (k + 1) + k]) : T(0);
    }
    mix();
    for (int64_t j = 0; j < M(); ++j)
      for (int64_t c = 0; c < K(); ++c)
        mixed_t_.get()[c * M() + j] = mixed_.get()[j * K() + c];
  }

  void embed(int64_t chunk, Scratch<T>& s) {
    double longest = 0;
    for_tiles(chunk, [&](Tile tile) {
      T* lengths = resident_ ? lengths_.get() + tile.begin : s.lengths;
      if (resident_)
        compute(tile, s.x.get(), lengths, features_.get() + tile.begin * K(),
                gibbs_.get() + tile.begin * 2 * M());
      else
        load_unit_tokens(tile, s.x.get(), lengths);
      longest = longest_of(tile, lengths, longest);
    });
    *partial(chunk) = longest;
  }

  void finish_embed() { set_unit(); }

  void project(const Tokens& grad_out, int64_t chunk, Scratch<T>& s) {
    double* sums = zeroed_partial(chunk, M() * K() + M());
    double* by_b = sums + M() * K();
    for_tiles(chunk, [&](Tile tile) {
      T* out_grads = s.out.get();
      load_rows(rows_of(grad_out, tile), call_.anchors, K(), tile.rows, out_grads);
      T* grads = weight_grads_of(tile, s) + M();
      compute_return_grads(tile, look_at(tile, s), out_grads, grads, s);
      gemm(M(), K(), tile.rows, Left<T>{s.weights.get(), 1, M()}, out_grads, K(),
           [&](int64_t j, int64_t k, Vec<T> v) { add_to(sums + j * K() + k, v); });
      add_column_sums(tile, grads, by_b);
    });
  }

  // From the gradients of A value_map to those of A and of value_map.
  void finish_project(double* grad_value_map) {
    const double* mixed_grads = add_up(M() * K() + M());
    const double* by_b = mixed_grads + M() * K();
    const double* a = aggregates_.get();
    double* grads = aggregate_grads_.get();
    gemm(M(), K(), K(), Left<double>{mixed_grads, K(), 1}, value_map_t(), K(),
         [&](int64_t j, int64_t c, Vec<double> v) { store(grads + j * K() + c, v); });
    double* products = value_map_grads_.get();
    gemm(
        K(), K(), call_.references, Left<double>{a, 1, K()}, mixed_grads, K(),
        [&](int64_t i, int64_t c, Vec<double> v) { store(products + i * K() + c, v); });
    copy_unpadded(products, call_.anchors, call_.anchors, K(), grad_value_map);
    for (int64_t j = 0; j < M(); ++j) {
      double offset = 0;
      for (int64_t c = 0; c < K(); ++c) {
        const double g = grads[j * K() + c];
        offset += g * a[j * K() + c];
        rounded_grads_.get()[j * K() + c] = T(g);
        rounded_grads_t_.get()[c * M() + j] = T(g);
      }
      offsets_.get()[j] = T(offset);
      set_gamma(kBack, call_.iters, j, by_b[j]);
    }
  }

  // Gradients of log U, whose columns cancel but for rounding errors, and their sums.
  void balance(int64_t chunk, Scratch<T>& s) {
    double* sums = zeroed_partial(chunk, M());
    for_tiles(chunk, [&](Tile tile) {
      T* grads = weight_grads_of(tile, s);
      compute_in_grads(tile, look_at(tile, s), grads, s);
      add_column_sums(tile, grads, sums);
    });
  }

  void finish_balance() {
    const double* sums = add_up(M());
    for (int64_t j = 0; j < M(); ++j)
      residues_.get()[j] = T(sums[j]) * inv_column_sums_.get()[j];
  }

  void weigh(int64_t chunk, Scratch<T>& s) {
    const int64_t last = call_.iters;
    double* by_a = zeroed_partial(chunk, 2 * M());
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, s);
      T* grads = weight_grads_of(tile, s);
      if (resident_)
        weigh_in(tile, view, s.weights.get(), s);
      else
        compute_in_grads(tile, view, grads, s);
      balance_in_grads(tile, grads, s);
      for (int64_t i = 0; i < tile.rows; ++i) s.left[i] = -s.left[i] * s.a[kIn][i];
      add_column_sums(tile, s.left, view.gibbs, by_a);
      if (last > 1) add_iteration(kBack, last, tile, view, by_a, s);
    });
  }

  void finish_weigh() {
    const double* by_a = add_up(2 * M());
    set_gammas(kIn, call_.iters, by_a);
    if (call_.iters > 1) set_gammas(kBack, call_.iters - 1, by_a);
  }

  // The way in through the update of b[t], and of the a before it, to b[t - 1]; t > 1.
  void unroll(int64_t t, int64_t chunk, Scratch<T>& s) {
    double* by_a = zeroed_partial(chunk, 2 * M());
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, s);
      add_iteration(kIn, t, tile, view, by_a, s);
      if (t > 2) add_iteration(kBack, t - 1, tile, view, by_a, s);
    });
  }

  void finish_unroll(int64_t t) {
    const double* by_a = add_up(2 * M());
    set_gammas(kIn, t - 1, by_a);
    if (t > 2) set_gammas(kBack, t - 2, by_a);
  }

  // Lays out all b and gammas of each way side by side, for products with every one of
  // them at once.
  void collect_terms() {
    const int64_t width = call_.terms_pad, iters = call_.iters;
    for (int64_t j = 0; j < 2 * M(); ++j)
      for (int64_t c = 0; c < width; ++c) {
        const T value = c <= iters       ? scaling(c)[j]
                        : c <= 2 * iters ? gamma(c - iters)[j]
                                         : T(0);
        terms_.get()[j * width + c] = value;
        terms_t_.get()[(j / M() * width + c) * M() + j % M()] = value;
      }
  }

  void gather(const Tokens& grad_out, const Tokens& grad_x, int64_t chunk,
              Scratch<T>& s) {
    double* grad_score_maps = zeroed_partial(chunk, 2 * M() * (1 + K()) + K() * D());
    double* score_grad_sums = grad_score_maps + K() * 2 * M();
    double* grad_anchors = score_grad_sums + 2 * M();
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, s);
      T* grads = weight_grads_of(tile, s);
      if (resident_) {
        weigh_in(tile, view, s.weights.get(), s);
      } else {
        T* out_grads = s.out.get();
        load_rows(rows_of(grad_out, tile), call_.anchors, K(), tile.rows, out_grads);
        compute_return_grads(tile, view, out_grads, grads + M(), s);
        compute_in_grads(tile, view, grads, s);
        balance_in_grads(tile, grads, s);
      }
      T* score_grads = s.score_grads.get();
      for (int64_t way = 0; way < 2; ++way)
        compute_score_grads(way, tile, view, grads + way * M(), score_grads + way * M(),
                            s);
      gemm(K(), 2 * M(), tile.rows, Left<T>{view.features, 1, K()}, score_grads,
           2 * M(), [&](int64_t k, int64_t j, Vec<T> v) {
             add_to(grad_score_maps + k * 2 * M() + j, v);
           });
      for (int64_t way = 0; way < 2; ++way)
        add_column_sums(tile, score_grads + way * M(), score_grad_sums + way * M());

      // Q = U over its column sums, through which values reached A.
      T* columns = s.weights.get();
      for (int64_t i = 0; i < tile.rows; ++i)
        for (int64_t j = 0; j < M(); j += kLanes<T>)
          store(columns + i * M() + j,
                load(columns + i * M() + j) * load(inv_column_sums_.get() + j));
      T* value_grads = s.value_grads.get();
      gemm(
          tile.rows, K(), M(), Left<T>{columns, M(), 1}, rounded_grads_.get(), K(),
          [&](int64_t i, int64_t k, Vec<T> v) { store(value_grads + i * K() + k, v); });

      // Gradients of the kernel's exponents alpha (u z - 1), relative to unit.
      T* exponent_grads = s.exponent_grads.get();
      gemm(tile.rows, K(), 2 * M(), Left<T>{score_grads, 2 * M(), 1}, score_maps_t(),
           K(), [&](int64_t i, int64_t k, Vec<T> v) {
             const int64_t at = i * K() + k;
             v += load(value_grads + at) * (view.lengths[i] / unit_);
             const Vec<T> kernel = load(view.features + at) + call_.orthogonal;
             store(exponent_grads + at, v * kernel * call_.alpha);
           });
      T* x = s.x.get();
      load_unit_tokens(tile, x, s.lengths);
      gemm(K(), D(), tile.rows, Left<T>{exponent_grads, 1, K()}, x, D(),
           [&](int64_t k, int64_t d, Vec<T> v) {
             add_to(grad_anchors + k * D() + d, v);
           });
      T* direction_grads = s.direction_grads.get();
      gemm(tile.rows, D(), K(), Left<T>{exponent_grads, K(), 1}, anchors_n(), D(),
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

  void finish_gather(double* grad_score_maps, double* grad_anchors) {
    double* const sums = add_up(2 * M() * (1 + K()) + K() * D());
    const double* score_grad_sums = sums + K() * 2 * M();
    const int64_t k = call_.anchors, m = call_.references;
    for (int64_t i = 0; i < K(); ++i)
      for (int64_t j = 0; j < 2 * M(); ++j)
        sums[i * 2 * M() + j] += double(call_.orthogonal) * score_grad_sums[j];
    for (int64_t i = 0; i < k; ++i)
      for (int64_t way = 0; way < 2; ++way)
        copy_unpadded(sums + (2 * i + way) * M(), 1, m, M(),
                      grad_score_maps + (2 * i + way) * m);
    copy_unpadded(score_grad_sums + 2 * M(), k, call_.dim, D(), grad_anchors);
  }

 private:
  // Where the gradients of log U and log P lie side by side: kept until gather, or of
  // this tile alone.
  T* weight_grads_of(Tile tile, Scratch<T>& s) const {
    return resident_ ? weight_grads_.get() + tile.begin * 2 * M()
                     : s.weight_grads.get();
  }

  // M b times the gradient of log b, of both ways.
  T* gamma(int64_t t) const { return gammas_.get() + t * 2 * M(); }

  void set_gamma(int64_t way, int64_t t, int64_t j, double log_scaling_grad) {
    const int64_t at = way * M() + j;
    gamma(t)[at] = T(log_scaling_grad * call_.references * scaling(t)[at]);
  }

  // The same from sums over tokens of E N a and the gradients of log a after b[t].
  void set_gammas(int64_t way, int64_t t, const double* by_a) {
    for (int64_t j = 0; j < M(); ++j) {
      const int64_t at = way * M() + j;
      set_gamma(way, t, j, double(call_.tokens) * scaling(t)[at] * by_a[at]);
    }
  }

  // out (rows, cols) of an array padded to `padded` columns, times unit.
  void copy_unpadded(const double* from, int64_t rows, int64_t cols, int64_t padded,
                     double* out) const {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j)
        out[i * cols + j] = from[i * padded + j] * double(unit_);
  }

  // Gradients of log P to `grads`; leaves P in s.weights.
  void compute_return_grads(Tile tile, View view, const T* out_grads, T* grads,
                            Scratch<T>& s) const {
    T* weights = s.weights.get();
    weigh_back(tile, view, weights, s);
    T* response = s.response.get();
    gemm(tile.rows, M(), K(), Left<T>{out_grads, K(), 1}, mixed_t_.get(), M(),
         [&](int64_t i, int64_t j, Vec<T> v) { store(response + i * M() + j, v); });
    for (int64_t i = 0; i < tile.rows; ++i) {
      const T mean = dot(weights + i * M(), response + i * M(), M());
      for (int64_t j = 0; j < M(); j += kLanes<T>)
        store(grads + i * 2 * M() + j,
              load(weights + i * M() + j) * (load(response + i * M() + j) - mean));
    }
  }

  // Gradients of log U to `grads`; leaves U in s.weights and a in s.a.
  void compute_in_grads(Tile tile, View view, T* grads, Scratch<T>& s) const {
    T* weights = s.weights.get();
    weigh_in(tile, view, weights, s);
    T* response = s.response.get();
    gemm(tile.rows, M(), K(), Left<T>{view.features, K(), 1}, rounded_grads_t_.get(),
         M(),
         [&](int64_t i, int64_t j, Vec<T> v) { store(response + i * M() + j, v); });
    for (int64_t i = 0; i < tile.rows; ++i) {
      const T length = view.lengths[i] / unit_;
      for (int64_t j = 0; j < M(); j += kLanes<T>) {
        const Vec<T> share =
            load(weights + i * M() + j) * load(inv_column_sums_.get() + j);
        store(grads + i * 2 * M() + j, share * (load(response + i * M() + j) * length -
                                                load(offsets_.get() + j)));
      }
    }
  }

  // Takes off what rounding errors have left of their column sums, which epsilon and
  // k(z, z)^-1 would amplify; row sums, the gradients of the last log a, to s.left.
  void balance_in_grads(Tile tile, T* grads, Scratch<T>& s) const {
    for (int64_t i = 0; i < tile.rows; ++i) {
      Vec<T> sums{};
      for (int64_t j = 0; j < M(); j += kLanes<T>) {
        T* at = grads + i * 2 * M() + j;
        const Vec<T> grad =
            load(at) - load(s.weights.get() + i * M() + j) * load(residues_.get() + j);
        sums += grad;
        store(at, grad);
      }
      s.left[i] = sum_lanes<T>(sums);
    }
  }

  // Adds what b[t - 1] gets through the a after it and b[t].
  void add_iteration(int64_t way, int64_t t, Tile tile, View view, double* by_a,
                     Scratch<T>& s) const {
    const int64_t first = way * M();
    const T* gibbs = view.gibbs + first;
    T* a = s.a[way];
    update_rows(tile, gibbs, scaling(t - 1) + first, a);
    for (int64_t i = 0; i < tile.rows; ++i)
      s.left[i] = a[i] * (a[i] * dot(gibbs + i * 2 * M(), gamma(t) + first, M()));
    add_column_sums(tile, s.left, gibbs, by_a + first);
  }

  // Gradients of one way's scores: those of its weights, less what the Sinkhorn
  // iterations take away, which is E times a matrix of rank 2 L + 1.
  void compute_score_grads(int64_t way, Tile tile, View view, const T* grads,
                           T* score_grads, Scratch<T>& s) const {
    const int64_t width = call_.terms_pad, iters = call_.iters, first = way * M();
    const T* gibbs = view.gibbs + first;
    T* terms = s.terms.get();
    gemm(tile.rows, width, M(), Left<T>{gibbs, 2 * M(), 1},
         terms_.get() + first * width, width,
         [&](int64_t i, int64_t c, Vec<T> v) { store(terms + i * width + c, v); });
    for (int64_t i = 0; i < tile.rows; ++i) {
      T* row = terms + i * width;
      for (int64_t t = 0; t <= iters; ++t) {
        const T a = i < tile.count ? 1 / (T(call_.tokens) * row[t]) : T(0);
        T log_a_grad = 0;
        if (t < iters) {
          log_a_grad = -a * row[iters + 1 + t];
          row[iters + 1 + t] = a;
        } else if (way == kIn) {
          Vec<T> sums{};
          for (int64_t j = 0; j < M(); j += kLanes<T>)
            sums += load(grads + i * 2 * M() + j);
          log_a_grad = sum_lanes<T>(sums);
        }
        row[t] = T(call_.tokens) * a * log_a_grad;
      }
    }
    gemm(tile.rows, M(), 2 * iters + 1, Left<T>{terms, width, 1},
         terms_t_.get() + first * width, M(), [&](int64_t i, int64_t j, Vec<T> v) {
           const int64_t at = i * 2 * M() + j;
           const Vec<T> log_gibbs_grad = load(grads + at) - v * load(gibbs + at);
           store(score_grads + at, log_gibbs_grad * call_.inv_epsilon);
         });
  }

  Buffer<T> weight_grads_;
  Buffer<T> gammas_;
  // Gradients of A, (M, K), and of value_map, in double.
  Buffer<double> aggregate_grads_, value_map_grads_;
  // The transpose of A value_map; the gradient of A in T, and its transpose.
  Buffer<T> mixed_t_, rounded_grads_, rounded_grads_t_;
  // One over the column sums of U; what the gradients of its columns are less of, and
  // what is left of them in sum, over the column sums.
  Buffer<T> inv_column_sums_, offsets_, residues_;
  // All b and gammas of each way as columns, and as rows.
  Buffer<T> terms_, terms_t_;
};

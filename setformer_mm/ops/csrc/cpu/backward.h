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
  using Base::anchors_n, Base::score_maps, Base::value_map_t;
  using Base::call_, Base::tokens_, Base::resident_, Base::unit_, Base::shifts_;
  using Base::compute, Base::load_tokens, Base::longest_of, Base::set_unit;
  using Base::D, Base::K, Base::M, Base::kept, Base::saved_slot, Base::scaling;
  using Base::exponentiate_shifts, Base::update_rows, Base::weighted_sum;
  using Base::features_t_, Base::gibbs_, Base::lengths_, Base::aggregates_;
  using Base::for_vectors, Base::for_references, Base::zero_beyond;
  using Base::kIn, Base::kBack, Base::kOnlyIn, Base::kOnlyBack, Base::kBoth;
  using Base::mixed_, Base::mix, Base::for_tiles, Base::rows_of, Base::look_at;
  using Base::scale_columns;
  using Base::start_sums, Base::add_to_sums, Base::finish_sums;
  using Base::weigh_in, Base::weigh_back;
  using Base::zeroed_partial, Base::partial, Base::add_up, Base::inverse;
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
        rounded_grads_(M() * K()),
        inv_column_sums_(M()),
        offsets_(M()),
        residues_(M()),
        terms_(2 * M() * call.terms_pad) {}

  // Takes up what the forward pass left.
  void restore() {
    const int64_t m = call_.references, k = call_.anchors, slot = saved_slot();
    const double* scalings =
        call_.problem.saved.scalings + slot * (call_.iters + 1) * 2 * m;
    for (int64_t t = 0; t <= call_.iters; ++t)
      for_references(kBoth, [&](int64_t j) {
        (t == 0 ? shifts_.get() : scaling(t))[j] =
            T(scalings[(2 * t + j / M()) * m + j % M()]);
      });
    exponentiate_shifts(shifts_.get(), scaling(0));
    const double* saved = call_.problem.saved.aggregates + slot * m * (k + 1);
    for (int64_t j = 0; j < M(); ++j) {
      for (int64_t c = 0; c < K(); ++c)
        aggregates_.get()[j * K() + c] = j < m && c < k ? saved[j * (k + 1) + c] : 0;
      inv_column_sums_.get()[j] = j < m ? T(inverse(saved[j * (k + 1) + k])) : T(0);
    }
    mix();
  }

  void embed(int64_t chunk, Scratch<T>& s) {
    double longest = 0;
    for_tiles(chunk, [&](Tile tile) {
      T* lengths = resident_ ? lengths_.get() + tile.begin : s.lengths;
      if (resident_)
        compute(tile, kBoth, lengths, features_t_.get() + tile.begin * K(),
                gibbs_.get() + tile.begin * 2 * M(), s);
      else
        load_tokens(tile, lengths, s);
      longest = longest_of(tile, lengths, longest);
    });
    *partial(chunk) = longest;
  }

  void finish_embed() { set_unit(); }

  void project(const Tokens& grad_out, int64_t chunk, Scratch<T>& s) {
    double* const products = zeroed_partial(chunk, M() * K() + M());
    start_sums(s.sums.get());
    for_tiles(chunk, [&](Tile tile) {
      T* grads = weight_grads_of(tile, s) + M() * kTile;
      compute_return_grads(grad_out, tile, look_at(tile, kOnlyBack, s), grads, s);
      gemm(M(), K(), tile.count, Left<T>{s.weights.get(), kTile, 1}, s.out.get(), K(),
           [&](int64_t j, int64_t k, Vec<T> v) { add_to(products + j * K() + k, v); });
      add_to_sums(tile, grads, s.sums.get());
    });
    finish_sums(s.sums.get(), M(), products + M() * K());
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
      }
      offsets_.get()[j] = T(offset);
    }
    for (int64_t j = 0; j < call_.references; ++j)
      set_gamma(kBack, call_.iters, j, by_b[j]);
  }

  // Gradients of log U, whose columns cancel but for rounding errors, and their sums.
  void balance(int64_t chunk, Scratch<T>& s) {
    start_sums(s.sums.get());
    for_tiles(chunk, [&](Tile tile) {
      T* grads = weight_grads_of(tile, s);
      compute_in_grads(tile, look_at(tile, kOnlyIn, s), grads, s);
      add_to_sums(tile, grads, s.sums.get());
    });
    finish_sums(s.sums.get(), M(), partial(chunk));
  }

  void finish_balance() {
    const double* sums = add_up(M());
    for (int64_t j = 0; j < M(); ++j)
      residues_.get()[j] = T(sums[j]) * inv_column_sums_.get()[j];
  }

  void weigh(int64_t chunk, Scratch<T>& s) {
    const int64_t last = call_.iters;
    double* const by_a = s.sums.get();
    start_sums(by_a);
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, last > 1 ? kBoth : kOnlyIn, s);
      T* grads = weight_grads_of(tile, s);
      if (resident_)
        weigh_in(tile, view, s.weights.get(), s);
      else
        compute_in_grads(tile, view, grads, s);
      balance_in_grads(tile, grads, s);
      for_vectors(tile, [&](int64_t t) {
        store(s.left + t, -load(s.left + t) * load(s.a[kIn] + t));
      });
      add_to_sums(tile, s.left, view.gibbs, by_a);
      if (last > 1) add_iteration(kBack, last, tile, view, by_a, s);
    });
    finish_sums(by_a, 2 * M(), partial(chunk));
  }

  void finish_weigh() {
    const double* by_a = add_up(2 * M());
    set_gammas(kIn, call_.iters, by_a);
    if (call_.iters > 1) set_gammas(kBack, call_.iters - 1, by_a);
  }

  // The way in through the update of b[t], and of the a before it, to b[t - 1]; t > 1.
  void unroll(int64_t t, int64_t chunk, Scratch<T>& s) {
    double* const by_a = s.sums.get();
    start_sums(by_a);
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, t > 2 ? kBoth : kOnlyIn, s);
      add_iteration(kIn, t, tile, view, by_a, s);
      if (t > 2) add_iteration(kBack, t - 1, tile, view, by_a, s);
    });
    finish_sums(by_a, 2 * M(), partial(chunk));
  }

  void finish_unroll(int64_t t) {
    const double* by_a = add_up(2 * M());
    set_gammas(kIn, t - 1, by_a);
    if (t > 2) set_gammas(kBack, t - 2, by_a);
  }

  // Lays out all b and gammas side by side, (2 M, terms), for products with every one
  // of them at once.
  void collect_terms() {
    for (int64_t i = 0; i < 2 * M() * call_.terms_pad; ++i) terms_.get()[i] = 0;
    for_references(kBoth, [&](int64_t j) {
      T* const terms = terms_.get() + j * call_.terms_pad;
      for (int64_t t = 0; t <= call_.iters; ++t) terms[t] = scaling(t)[j];
      for (int64_t t = 1; t <= call_.iters; ++t) terms[call_.iters + t] = gamma(t)[j];
    });
  }

  void gather(const Tokens& grad_out, const Tokens& grad_x, int64_t chunk,
              Scratch<T>& s) {
    double* const grad_score_maps =
        zeroed_partial(chunk, 2 * M() * (1 + K()) + K() * D());
    double* const score_grad_sums = grad_score_maps + K() * 2 * M();
    double* const grad_anchors = score_grad_sums + 2 * M();
    start_sums(s.sums.get());
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at(tile, kBoth, s);
      T* grads = weight_grads_of(tile, s);
      if (resident_) {
        weigh_in(tile, view, s.weights.get(), s);
      } else {
        compute_return_grads(grad_out, tile, view, grads + M() * kTile, s);
        compute_in_grads(tile, view, grads, s);
        balance_in_grads(tile, grads, s);
      }
      T* score_grads = s.score_grads.get();
      for (int64_t way = 0; way < 2; ++way) {
        const int64_t first = way * M() * kTile;
        compute_score_grads(way, tile, view.gibbs + first, grads + first,
                            score_grads + first, s);
        add_to_sums(tile, score_grads + first, s.sums.get() + way * M() * kLanes<T>);
      }
      transpose(score_grads, kTile, 2 * M(), tile.cols, s.score_grads_t.get(), 2 * M());
      gemm(K(), 2 * M(), tile.count, Left<T>{view.features_t, kTile, 1},
           s.score_grads_t.get(), 2 * M(), [&](int64_t k, int64_t j, Vec<T> v) {
             add_to(grad_score_maps + k * 2 * M() + j, v);
           });

      // Q = U over its column sums, through which values reached A.
      T* columns = s.weights.get();
      for (int64_t j = 0; j < call_.references; ++j)
        for_vectors(tile, [&](int64_t t) {
          T* const at = columns + j * kTile + t;
          store(at, load(at) * inv_column_sums_.get()[j]);
        });
      T* value_grads_t = s.value_grads_t.get();
      gemm(K(), tile.cols, call_.references, Left<T>{rounded_grads_.get(), 1, K()},
           columns, kTile, [&](int64_t k, int64_t t, Vec<T> v) {
             store(value_grads_t + k * kTile + t, v);
           });

      // Gradients of the kernel's exponents alpha (u z - 1), relative to unit.
      T* exponent_grads_t = s.exponent_grads_t.get();
      for_vectors(
          tile, [&](int64_t t) { store(s.left + t, load(view.lengths + t) / unit_); });
      gemm(K(), tile.cols, 2 * M(), Left<T>{score_maps(), 2 * M(), 1}, score_grads,
           kTile, [&](int64_t k, int64_t t, Vec<T> v) {
             const int64_t at = k * kTile + t;
             v += load(value_grads_t + at) * load(s.left + t);
             const Vec<T> kernel = load(view.features_t + at) + call_.orthogonal;
             store(exponent_grads_t + at, v * kernel * call_.alpha);
           });
      T* x_t = s.x_t.get();
      load_tokens(tile, s.lengths, s);
      scale_columns(tile, s.inverses, D(), x_t);
      transpose(x_t, kTile, D(), tile.cols, s.x.get(), D());
      gemm(K(), D(), tile.count, Left<T>{exponent_grads_t, kTile, 1}, s.x.get(), D(),
           [&](int64_t k, int64_t d, Vec<T> v) {
             add_to(grad_anchors + k * D() + d, v);
           });
      T* direction_grads_t = s.direction_grads_t.get();
      gemm(D(), tile.cols, K(), Left<T>{anchors_n(), 1, D()}, exponent_grads_t, kTile,
           [&](int64_t d, int64_t t, Vec<T> v) {
             store(direction_grads_t + d * kTile + t, v);
           });
      for (int64_t i = 0; i < tile.cols; ++i)
        s.inverses[i] = s.lengths[i] == 0 ? T(0) : unit_ / s.lengths[i];
      for_vectors(tile, [&](int64_t t) {
        Vec<T> along{}, length_grad{};
        for (int64_t d = 0; d < D(); ++d)
          along += load(x_t + d * kTile + t) * load(direction_grads_t + d * kTile + t);
        for (int64_t k = 0; k < K(); ++k)
          length_grad += load(view.features_t + k * kTile + t) *
                         load(value_grads_t + k * kTile + t);
        const Vec<T> ratio = load(s.inverses + t);
        for (int64_t d = 0; d < D(); ++d) {
          T* const at = x_t + d * kTile + t;
          const Vec<T> u = load(at), du = load(direction_grads_t + d * kTile + t);
          store(at, (du - u * along) * ratio + u * length_grad);
        }
      });
      transpose(x_t, kTile, D(), tile.cols, s.x.get(), D());
      store_rows(s.x.get(), call_.dim, D(), rows_of(grad_x, tile));
    });
    finish_sums(s.sums.get(), 2 * M(), score_grad_sums);
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
    for (int64_t j = 0; j < call_.references; ++j) {
      const int64_t at = way * M() + j;
      set_gamma(way, t, j, double(tokens_) * scaling(t)[at] * by_a[at]);
    }
  }

  // out (rows, cols) of an array padded to `padded` columns, times unit.
  void copy_unpadded(const double* from, int64_t rows, int64_t cols, int64_t padded,
                     double* out) const {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < cols; ++j)
        out[i * cols + j] = from[i * padded + j] * double(unit_);
  }

  // Gradients of log P to `grads`; leaves P in s.weights and those of the output in
  // s.out.
  void compute_return_grads(const Tokens& grad_out, Tile tile, View view, T* grads,
                            Scratch<T>& s) const {
    T* weights = s.weights.get();
    T* out_grads_t = s.out_t.get();
    load_rows(rows_of(grad_out, tile), call_.anchors, K(), tile.cols, s.out.get());
    transpose(s.out.get(), K(), tile.cols, K(), out_grads_t, kTile);
    weigh_back(tile, view, weights, s);
    T* response = s.response.get();
    gemm(M(), tile.cols, K(), Left<T>{mixed_.get(), K(), 1}, out_grads_t, kTile,
         [&](int64_t j, int64_t t, Vec<T> v) { store(response + j * kTile + t, v); });
    for_vectors(tile, [&](int64_t t) {
      // Over the sum of weights, which is 1 but for rounding: what one dominant
      // reference leaves would be divided by epsilon.
      Vec<T> mean{}, total{};
      for (int64_t j = 0; j < call_.references; ++j) {
        const Vec<T> weight = load(weights + j * kTile + t);
        mean += weight * load(response + j * kTile + t);
        total += weight;
      }
      mean /= max_vec<T>(total, T(0.5) - Vec<T>{});  // 0 beyond the last token
      for (int64_t j = 0; j < call_.references; ++j) {
        const int64_t at = j * kTile + t;
        store(grads + at, load(weights + at) * (load(response + at) - mean));
      }
    });
  }

  // Gradients of log U to `grads`; leaves U in s.weights and a in s.a.
  void compute_in_grads(Tile tile, View view, T* grads, Scratch<T>& s) const {
    T* weights = s.weights.get();
    weigh_in(tile, view, weights, s);
    T* response = s.response.get();
    gemm(M(), tile.cols, K(), Left<T>{rounded_grads_.get(), K(), 1}, view.features_t,
         kTile,
         [&](int64_t j, int64_t t, Vec<T> v) { store(response + j * kTile + t, v); });
    for_vectors(tile, [&](int64_t t) {
      const Vec<T> length = load(view.lengths + t) / unit_;
      for (int64_t j = 0; j < call_.references; ++j) {
        const int64_t at = j * kTile + t;
        const Vec<T> share = load(weights + at) * inv_column_sums_.get()[j];
        store(grads + at, share * (load(response + at) * length - offsets_.get()[j]));
      }
    });
  }

  // Takes off what rounding errors have left of their sums over tokens, which epsilon
  // and k(z, z)^-1 would amplify; sums over references, the gradients of the last log
  // a, to s.left.
  void balance_in_grads(Tile tile, T* grads, Scratch<T>& s) const {
    for_vectors(tile, [&](int64_t t) {
      Vec<T> sum{};
      for (int64_t j = 0; j < call_.references; ++j) {
        const int64_t at = j * kTile + t;
        const Vec<T> grad =
            load(grads + at) - load(s.weights.get() + at) * residues_.get()[j];
        sum += grad;
        store(grads + at, grad);
      }
      store(s.left + t, sum);
    });
  }

  // Adds what b[t - 1] gets through the a after it and b[t].
  void add_iteration(int64_t way, int64_t t, Tile tile, View view, double* by_a,
                     Scratch<T>& s) const {
    const int64_t first = way * M();
    const T* gibbs = view.gibbs + first * kTile;
    T* a = s.a[way];
    update_rows(tile, gibbs, scaling(t - 1) + first, a);
    for_vectors(tile, [&](int64_t i) {
      const Vec<T> sum = weighted_sum(gamma(t) + first, gibbs + i);
      store(s.left + i, load(a + i) * (load(a + i) * sum));
    });
    add_to_sums(tile, s.left, gibbs, by_a + first * kLanes<T>);
  }

  // Gradients of one way's scores: those of its weights, less what the Sinkhorn
  // iterations take away, which is E times a matrix of rank 2 L + 1.
  void compute_score_grads(int64_t way, Tile tile, const T* gibbs, const T* grads,
                           T* score_grads, Scratch<T>& s) const {
    const int64_t iters = call_.iters;
    const T* const factors = terms_.get() + way * M() * call_.terms_pad;
    T* const terms = s.terms.get();
    gemm(call_.terms_pad, tile.cols, call_.references,
         Left<T>{factors, 1, call_.terms_pad}, gibbs, kTile,
         [&](int64_t c, int64_t t, Vec<T> v) { store(terms + c * kTile + t, v); });
    for (int64_t c = 0; c <= iters; ++c) {
      T* const by_b = terms + c * kTile;
      T* const by_gamma = by_b + (iters + 1) * kTile;
      for_vectors(tile, [&](int64_t t) {
        const Vec<T> a = 1 / (load(by_b + t) * T(tokens_));
        Vec<T> log_a_grad{};
        if (c < iters) {
          log_a_grad = -a * load(by_gamma + t);
          store(by_gamma + t, a);
        } else if (way == kIn) {
          for (int64_t j = 0; j < call_.references; ++j)
            log_a_grad += load(grads + j * kTile + t);
        }
        store(by_b + t, a * log_a_grad * T(tokens_));
      });
    }
    for (int64_t c = 0; c < call_.terms; ++c) zero_beyond(tile, terms + c * kTile);
    gemm(M(), tile.cols, call_.terms, Left<T>{factors, call_.terms_pad, 1}, terms,
         kTile, [&](int64_t j, int64_t t, Vec<T> v) {
           const int64_t at = j * kTile + t;
           const Vec<T> log_gibbs_grad = load(grads + at) - v * load(gibbs + at);
           store(score_grads + at,
                 j < call_.references ? log_gibbs_grad * call_.inv_epsilon : Vec<T>{});
         });
  }

  Buffer<T> weight_grads_;
  Buffer<T> gammas_;
  // Gradients of A, (M, K), and of value_map, in double.
  Buffer<double> aggregate_grads_, value_map_grads_;
  Buffer<T> rounded_grads_;  // those of A in T
  // One over the column sums of U; what the gradients of its columns are less of, and
  // what is left of them in sum, over the column sums.
  Buffer<T> inv_column_sums_, offsets_, residues_;
  Buffer<T> terms_;  // (2 M, terms): all b and gammas
};

// The forward pass over one head. To be included inside the anonymous namespace of one
// instruction set.
//
//   embed      features, scores; the largest token norm and the column maxima c
//   iterate    num_iters times: one Sinkhorn iteration of both ways, a, then sums for
//   b;
//              the first goes along with embed where nothing is kept between passes
//   aggregate  the way in: its last a; sums of U and of U^T val, which make A
//   respond    the way back: P A value_map
#pragma once

template <typename T>
class ForwardHead : public Head<T> {
  using Base = Head<T>;
  using Base::call_, Base::resident_, Base::unit_, Base::shifts_;
  using Base::compute_features, Base::compute_scores, Base::exponentiate;
  using Base::D, Base::K, Base::M, Base::saved_slot, Base::scaling;
  using Base::exponentiate_shifts, Base::update_rows;
  using Base::features_t_, Base::gibbs_, Base::lengths_, Base::aggregates_;
  using Base::for_vectors, Base::for_references, Base::scale_columns;
  using Base::kOnlyIn, Base::kOnlyBack, Base::kBoth;
  using Base::longest_of, Base::set_unit;
  using Base::mixed_, Base::mix, Base::for_tiles, Base::rows_of, Base::look_at;
  using Base::start_sums, Base::add_to_sums, Base::finish_sums;
  using Base::weigh_in, Base::weigh_back;
  using Base::zeroed_partial, Base::partial, Base::add_up, Base::inverse;
  using typename Base::Tile;
  using typename Base::View;
  using typename Base::Ways;

 public:
  explicit ForwardHead(const Call<T>& call)
      : Head<T>(call, kept_columns(call),
                max_of<int64_t>(1 + 4 * call.references_pad,
                                call.references_pad * (1 + call.anchors_pad))) {}

  // How many iterations embed does: the first one, if E is not kept for another look.
  static int64_t iterations_of_embed(const Call<T>& call) {
    return Base::fits(call, kept_columns(call)) ? 0 : min_of<int64_t>(call.iters, 1);
  }

  void embed(int64_t chunk, Scratch<T>& s) {
    double* const longest = partial(chunk);
    T* const best = s.best.get();
    *longest = 0;
    for (int64_t i = 0; i < 2 * M() * kLanes<T>; ++i) best[i] = T(-1e30);
    for (int64_t j = 0; j < 2 * M(); ++j)
      s.shifts.get()[j] = s.factors.get()[j] = T(-1e30);
    start_sums(s.sums.get());
    for_tiles(chunk, [&](Tile tile) {
      T* features_t =
          resident_ ? features_t_.get() + tile.begin * K() : s.features_t.get();
      T* scores = resident_ ? gibbs_.get() + tile.begin * 2 * M() : s.gibbs.get();
      T* lengths = resident_ ? lengths_.get() + tile.begin : s.lengths;
      compute_features(tile, lengths, features_t, s);
      compute_scores(tile, kBoth, features_t, scores);
      *longest = longest_of(tile, lengths, *longest);
      for_references(kBoth, [&](int64_t j) {
        Vec<T> largest = load(best + j * kLanes<T>);
        for_vectors(tile, [&](int64_t t) {
          largest = max_vec<T>(largest, load(scores + j * kTile + t));
        });
        store(best + j * kLanes<T>, largest);
      });
      if (iterations_of_embed(call_) > 0) iterate_along(tile, scores, s);
    });
    for_references(kBoth, [&](int64_t j) {
      longest[1 + j] = max_lanes<T>(load(best + j * kLanes<T>));
    });
    finish_sums(s.sums.get(), 2 * M(), longest + 1 + 2 * M());
  }

  void finish_embed() {
    set_unit();
    for_references(kBoth, [&](int64_t j) {
      T& shift = shifts_.get()[j];
      shift = T(partial(0)[1 + j]);
      for (int64_t chunk = 1; chunk < call_.num_chunks; ++chunk)
        shift = max_of(shift, T(partial(chunk)[1 + j]));
    });
    exponentiate_shifts(shifts_.get(), scaling(0));
    if (iterations_of_embed(call_) == 0) return;
    for_references(kBoth, [&](int64_t j) {
      double column_sum = 0;
      for (int64_t chunk = 0; chunk < call_.num_chunks; ++chunk) {
        const double* largest = partial(chunk) + 1;
        const double rise = double(shifts_.get()[j]) - largest[j];
        column_sum +=
            std::exp(-rise * double(call_.inv_epsilon)) * largest[2 * M() + j];
      }
      set_scaling(1, j, column_sum);
    });
  }

  void iterate(int64_t t, int64_t chunk, Scratch<T>& s) {
    start_sums(s.sums.get());
    for_tiles(chunk, [&](Tile tile) {
      add_column_sums(tile, look_at_first(t == 0, tile, kBoth, s).gibbs, scaling(t), s);
    });
    finish_sums(s.sums.get(), 2 * M(), partial(chunk));
  }

  void finish_iterate(int64_t t) {
    const double* column_sums = add_up(2 * M());
    for_references(kBoth, [&](int64_t j) { set_scaling(t + 1, j, column_sums[j]); });
  }

  void aggregate(int64_t chunk, Scratch<T>& s) {
    double* const products = zeroed_partial(chunk, M() + K() * M()) + M();
    start_sums(s.sums.get());
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at_first(call_.iters == 0, tile, kOnlyIn, s);
      T* weights = s.weights.get();
      weigh_in(tile, view, weights, s);
      add_to_sums(tile, weights, s.sums.get());
      for_vectors(
          tile, [&](int64_t t) { store(s.left + t, load(view.lengths + t) / unit_); });
      scale_columns(tile, s.left, call_.references, weights);
      transpose(weights, kTile, M(), tile.cols, s.weights_t.get(), M());
      gemm(K(), M(), tile.count, Left<T>{view.features_t, kTile, 1}, s.weights_t.get(),
           M(),
           [&](int64_t k, int64_t j, Vec<T> v) { add_to(products + k * M() + j, v); });
    });
    finish_sums(s.sums.get(), M(), partial(chunk));
  }

  void finish_aggregate() {
    const double* column_sums = add_up(M() + M() * K());
    const double* products = column_sums + M();
    const int64_t m = call_.references, k = call_.anchors, slot = saved_slot();
    double* saved = call_.problem.saved.aggregates + slot * m * (k + 1);
    double* a = aggregates_.get();
    transpose(products, M(), K(), M(), a, K());
    for (int64_t j = 0; j < M(); ++j, a += K()) {
      const double by_sum = j < m ? inverse(column_sums[j]) : 0;
      for (int64_t c = 0; c < K(); ++c) a[c] = j < m ? a[c] * by_sum : 0;
      if (j >= m) continue;
      for (int64_t c = 0; c < k; ++c) saved[j * (k + 1) + c] = a[c];
      saved[j * (k + 1) + k] = column_sums[j];
    }
    double* scalings = call_.problem.saved.scalings + slot * (call_.iters + 1) * 2 * m;
    for (int64_t t = 0; t <= call_.iters; ++t)
      for (int64_t way = 0; way < 2; ++way)
        for (int64_t j = 0; j < m; ++j)
          *scalings++ = (t == 0 ? shifts_.get() : scaling(t))[way * M() + j];
    mix();
  }

  void respond(const Tokens& out, int64_t chunk, Scratch<T>& s) {
    for_tiles(chunk, [&](Tile tile) {
      T* weights = s.weights.get();
      weigh_back(tile, look_at(tile, kOnlyBack, s), weights, s);
      gemm(tile.cols, K(), call_.references, Left<T>{weights, 1, kTile}, mixed_.get(),
           K(), [&](int64_t i, int64_t k, Vec<T> v) {
             store(s.out.get() + i * K() + k, v * unit_);
           });
      store_rows(s.out.get(), call_.anchors, K(), rows_of(out, tile));
    });
  }

 private:
  static int64_t kept_columns(const Call<T>& call) { return 2 * call.references_pad; }

  // b = (1 / M) / (E^T a), from sums over tokens.
  void set_scaling(int64_t t, int64_t j, double column_sum) {
    scaling(t)[j] = T(inverse(call_.references * column_sum));
  }

  // E^T a with the a that follow from b, of both ways.
  void add_column_sums(Tile tile, const T* gibbs, const T* b, Scratch<T>& s) const {
    for (int64_t way = 0; way < 2; ++way) {
      const int64_t first = way * M();
      update_rows(tile, gibbs + first * kTile, b + first, s.a[way]);
      add_to_sums(tile, s.a[way], gibbs + first * kTile,
                  s.sums.get() + first * kLanes<T>);
    }
  }

  // The first iteration while column maxima are still being looked for: all sums are
  // relative to the largest so far, and are scaled whenever these rise.
  void iterate_along(Tile tile, T* scores, Scratch<T>& s) const {
    T *const shifts = s.shifts.get(), *const factors = s.factors.get();
    for_references(kBoth, [&](int64_t j) {
      const T largest = max_lanes<T>(load(s.best.get() + j * kLanes<T>));
      factors[j] = shifts[j] - largest;
      shifts[j] = largest;
    });
    exponentiate_shifts(factors, factors);
    for_references(kBoth, [&](int64_t j) {
      double* const sums = s.sums.get() + j * kLanes<T>;
      for (int64_t lane = 0; lane < kLanes<T> && factors[j] != 1; ++lane)
        sums[lane] *= double(factors[j]);
    });
    exponentiate_shifts(shifts, factors);  // b before the iteration
    exponentiate(tile, kBoth, shifts, scores);
    add_column_sums(tile, scores, factors, s);
  }

  // The first look after embed, which left scores.
  View look_at_first(bool is_first, Tile tile, Ways ways, Scratch<T>& s) const {
    if (is_first && resident_)
      exponentiate(tile, kBoth, shifts_.get(), gibbs_.get() + tile.begin * 2 * M());
    return look_at(tile, ways, s);
  }
};

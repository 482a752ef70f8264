// The forward pass over one head. To be included inside the anonymous namespace of one
// instruction set.
//
//   embed      features, scores; the largest token norm and the column maxima c
//   iterate    num_iters times: one Sinkhorn iteration of both ways, a, then sums for b
//   aggregate  the way in: its last a; sums of U and of U^T val, which make A
//   respond    the way back: P A value_map
#pragma once

template <typename T>
class ForwardHead : public Head<T> {
  using Base = Head<T>;
  using Base::call_, Base::resident_, Base::unit_, Base::shifts_;
  using Base::compute_features, Base::compute_scores, Base::exponentiate;
  using Base::D, Base::K, Base::M, Base::saved_slot, Base::scaling;
  using Base::features_t_, Base::gibbs_, Base::lengths_, Base::aggregates_;
  using Base::for_vectors, Base::for_references, Base::scale_columns;
  using Base::longest_of, Base::set_unit;
  using Base::mixed_, Base::mix, Base::for_tiles, Base::rows_of, Base::look_at;
  using Base::start_scaling, Base::update_rows;
  using Base::start_sums, Base::add_to_sums, Base::finish_sums;
  using Base::weigh_in, Base::weigh_back;
  using Base::zeroed_partial, Base::partial, Base::add_up;
  using typename Base::Tile;
  using typename Base::View;

 public:
  explicit ForwardHead(const Call<T>& call)
      : Head<T>(call, 2 * call.references_pad,
                max_of<int64_t>(1 + 2 * call.references_pad,
                                call.references_pad * (1 + call.anchors_pad))) {}

  void embed(int64_t chunk, Scratch<T>& s) {
    double* const longest = partial(chunk);
    T* const best = s.best.get();
    *longest = 0;
    for (int64_t i = 0; i < 2 * M() * kLanes<T>; ++i) best[i] = T(-1e30);
    for_tiles(chunk, [&](Tile tile) {
      T* features_t =
          resident_ ? features_t_.get() + tile.begin * K() : s.features_t.get();
      T* scores = resident_ ? gibbs_.get() + tile.begin * 2 * M() : s.gibbs.get();
      T* lengths = resident_ ? lengths_.get() + tile.begin : s.lengths;
      compute_features(tile, lengths, features_t, s);
      compute_scores(tile, features_t, scores);
      *longest = longest_of(tile, lengths, *longest);
      for_references([&](int64_t j) {
        Vec<T> largest = load(best + j * kLanes<T>);
        for_vectors(tile, [&](int64_t t) {
          largest = max_vec<T>(largest, load(scores + j * kTile + t));
        });
        store(best + j * kLanes<T>, largest);
      });
    });
    for_references(
        [&](int64_t j) { longest[1 + j] = max_lanes<T>(load(best + j * kLanes<T>)); });
  }

  void finish_embed() {
    set_unit();
    for_references([&](int64_t j) {
      T& shift = shifts_.get()[j];
      shift = T(partial(0)[1 + j]);
      for (int64_t chunk = 1; chunk < call_.num_chunks; ++chunk)
        shift = max_of(shift, T(partial(chunk)[1 + j]));
    });
    start_scaling();
  }

  void iterate(int64_t t, int64_t chunk, Scratch<T>& s) {
    double* const sums = s.sums.get();
    start_sums(sums);
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at_first(t == 0, tile, s);
      for (int64_t way = 0; way < 2; ++way) {
        const int64_t first = way * M();
        const T* gibbs = view.gibbs + first * kTile;
        update_rows(tile, gibbs, scaling(t) + first, s.a[way]);
        add_to_sums(tile, s.a[way], gibbs, sums + first * kLanes<T>);
      }
    });
    finish_sums(sums, 2 * M(), partial(chunk));
  }

  void finish_iterate(int64_t t) {
    const double* column_sums = add_up(2 * M());
    for_references([&](int64_t j) {
      scaling(t + 1)[j] = T(1 / (call_.references * column_sums[j]));
    });
  }

  void aggregate(int64_t chunk, Scratch<T>& s) {
    double* const products = zeroed_partial(chunk, M() + K() * M()) + M();
    start_sums(s.sums.get());
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at_first(call_.iters == 0, tile, s);
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
      const double inverse = j < m ? 1 / column_sums[j] : 0;
      for (int64_t c = 0; c < K(); ++c) a[c] = j < m ? a[c] * inverse : 0;
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
      weigh_back(tile, look_at(tile, s), weights, s);
      gemm(tile.cols, K(), call_.references, Left<T>{weights, 1, kTile}, mixed_.get(),
           K(), [&](int64_t i, int64_t k, Vec<T> v) {
             store(s.out.get() + i * K() + k, v * unit_);
           });
      store_rows(s.out.get(), call_.anchors, K(), rows_of(out, tile));
    });
  }

 private:
  // The first look after embed, which left scores.
  View look_at_first(bool is_first, Tile tile, Scratch<T>& s) const {
    if (is_first && resident_) exponentiate(tile, gibbs_.get() + tile.begin * 2 * M());
    return look_at(tile, s);
  }
};

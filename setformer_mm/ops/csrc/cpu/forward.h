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
  using Base::D, Base::K, Base::M, Base::saved_slot, Base::scaling, Base::is_reference;
  using Base::features_, Base::gibbs_, Base::lengths_, Base::aggregates_, Base::mixed_;
  using Base::for_tiles, Base::rows_of, Base::look_at, Base::mix;
  using Base::longest_of, Base::set_unit;
  using Base::start_scaling, Base::update_rows;
  using Base::weigh_in, Base::weigh_back;
  using Base::zeroed_partial, Base::partial, Base::add_up, Base::add_column_sums;
  using typename Base::Tile;
  using typename Base::View;

 public:
  explicit ForwardHead(const Call<T>& call)
      : Head<T>(call, 2 * call.references_pad,
                max_of<int64_t>(1 + 2 * call.references_pad,
                                call.references_pad * (1 + call.anchors_pad))) {}

  void embed(int64_t chunk, Scratch<T>& s) {
    double* const longest = partial(chunk);
    double* const shifts = longest + 1;
    *longest = 0;
    for (int64_t j = 0; j < 2 * M(); ++j) shifts[j] = -1e300;
    for_tiles(chunk, [&](Tile tile) {
      T* features = resident_ ? features_.get() + tile.begin * K() : s.features.get();
      T* scores = resident_ ? gibbs_.get() + tile.begin * 2 * M() : s.gibbs.get();
      T* lengths = resident_ ? lengths_.get() + tile.begin : s.lengths;
      compute_features(tile, s.x.get(), lengths, features);
      compute_scores(tile, features, scores);
      *longest = longest_of(tile, lengths, *longest);
      for (int64_t j = 0; j < 2 * M(); j += kLanes<T>) {
        Vec<T> best = load(scores + j);
        for (int64_t i = 1; i < tile.count; ++i)
          best = max_vec<T>(best, load(scores + i * 2 * M() + j));
        for (int64_t e = 0; e < kLanes<T>; ++e)
          shifts[j + e] = max_of(shifts[j + e], double(best[e]));
      }
    });
  }

  void finish_embed() {
    set_unit();
    for (int64_t j = 0; j < 2 * M(); ++j) shifts_.get()[j] = T(-1e30);
    for (int64_t chunk = 0; chunk < call_.num_chunks; ++chunk)
      for (int64_t j = 0; j < 2 * M(); ++j)
        shifts_.get()[j] = max_of(shifts_.get()[j], T(partial(chunk)[1 + j]));
    for (int64_t j = 0; j < 2 * M(); ++j)
      if (!is_reference(j)) shifts_.get()[j] = 0;
    start_scaling();
  }

  void iterate(int64_t t, int64_t chunk, Scratch<T>& s) {
    double* column_sums = zeroed_partial(chunk, 2 * M());
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at_first(t == 0, tile, s);
      for (int64_t way = 0; way < 2; ++way) {
        const int64_t first = way * M();
        update_rows(tile, view.gibbs + first, scaling(t) + first, s.a[way]);
        add_column_sums(tile, s.a[way], view.gibbs + first, column_sums + first);
      }
    });
  }

  void finish_iterate(int64_t t) {
    const double* column_sums = add_up(2 * M());
    for (int64_t j = 0; j < 2 * M(); ++j)
      scaling(t + 1)[j] =
          is_reference(j) ? T(1 / (call_.references * column_sums[j])) : T(0);
  }

  void aggregate(int64_t chunk, Scratch<T>& s) {
    double* column_sums = zeroed_partial(chunk, M() + M() * K());
    double* sums = column_sums + M();
    for_tiles(chunk, [&](Tile tile) {
      const View view = look_at_first(call_.iters == 0, tile, s);
      T* weights = s.weights.get();
      weigh_in(tile, view, weights, s);
      for (int64_t j = 0; j < M(); j += kLanes<T>) {
        Vec<T> sum{};
        for (int64_t i = 0; i < tile.rows; ++i) {
          const Vec<T> weight = load(weights + i * M() + j);
          sum += weight;
          store(weights + i * M() + j, weight * (view.lengths[i] / unit_));
        }
        add_to(column_sums + j, sum);
      }
      gemm(M(), K(), tile.rows, Left<T>{weights, 1, M()}, view.features, K(),
           [&](int64_t j, int64_t k, Vec<T> v) { add_to(sums + j * K() + k, v); });
    });
  }

  void finish_aggregate() {
    const double* column_sums = add_up(M() + M() * K());
    const double* sums = column_sums + M();
    const int64_t m = call_.references, k = call_.anchors, slot = saved_slot();
    double* saved = call_.problem.saved.aggregates + slot * m * (k + 1);
    double* a = aggregates_.get();
    for (int64_t j = 0; j < M(); ++j) {
      const double inverse = j < m ? 1 / column_sums[j] : 0;
      for (int64_t c = 0; c < K(); ++c) a[j * K() + c] = sums[j * K() + c] * inverse;
      if (j >= m) continue;
      for (int64_t c = 0; c < k; ++c) saved[j * (k + 1) + c] = a[j * K() + c];
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
      gemm(tile.rows, K(), M(), Left<T>{weights, M(), 1}, mixed_.get(), K(),
           [&](int64_t i, int64_t k, Vec<T> v) {
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

// The forward pass over one head. To be included inside the anonymous namespace of one
// instruction set.
//
//   embed      see Head
//   iterate    one Sinkhorn iteration: a, then sums for b      (num_iters times)
//   aggregate  the last a; sums of W and of W^T |x| F, which make A
//   respond    rows of W over their sums, times A value_map
#pragma once

template <typename T>
class ForwardHead : public Head<T> {
  using Base = Head<T>;
  using Base::call_, Base::resident_, Base::unit_;
  using Base::D, Base::K, Base::M, Base::kept, Base::saved_slot, Base::scaling;
  using Base::for_tiles, Base::rows_of, Base::look_at, Base::mix;
  using Base::gibbs_, Base::aggregates_, Base::mixed_;
  using Base::update_rows, Base::weigh_rows, Base::scale_row;
  using Base::zeroed_partial, Base::add_up, Base::add_column_sums;
  using typename Base::Tile;
  using typename Base::View;

 public:
  explicit ForwardHead(const Call<T>& call)
      : Head<T>(call, 1, call.references_pad * (1 + call.anchors_pad)),
        inv_row_sums_(kept(1)) {}

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

 private:
  Buffer<T> inv_row_sums_;
};

// The forward pass over one head:
//
//   iterate    one Sinkhorn iteration: a, then sums for b      (at least once)
//   aggregate  the last a; sums of W and of W^T |x| F, which make A
//   respond    rows of W over their sums, times A value_map
//
// A phase ends with sums over all tokens, which the block that arrives last finishes.
#pragma once

template <typename C>
struct Forward {
  static constexpr int K = C::kWidth, M = C::kRefs, kOwn = M / 4;
  using Sum = typename C::Sum;

  Block<C> block;
  const Call& call;

  __device__ __forceinline__ explicit Forward(const Call& any_call)
      : block(any_call, /*is_backward=*/false), call(any_call) {}

  __device__ __forceinline__ void run(int phase) {
    const int last = num_phases(call.iters()) - 1;
    if (phase < last - 1)
      iterate(phase);
    else if (phase == last - 1)
      aggregate();
    else
      respond();
  }

  __device__ __forceinline__ void iterate(int t) {
    float b[kOwn], sums[kOwn] = {};
    block.load_scaling(t, b);
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      Strip<C> strip;
      look_at(block, tile, /*is_first=*/t == 0, strip);
      const Place place = block.place_of(tile);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float a = row_scaling<C>(strip, r, place, b);
#pragma unroll
        for (int e = 0; e < kOwn; ++e) sums[e] += a * strip.gibbs.v[r][e];
      }
    }
    block.emit_columns(sums, M, 0);
    if (!block.arrive(M) || t >= call.iters()) return;
    const int m = call.references();
    double* const next =
        call.problem.saved.scalings + (int64_t(block.slot) * call.iters() + t) * m;
    for (int j = threadIdx.x; j < m; j += kThreads)
      next[j] = double(call.tokens()) / (m * double(block.totals()[j]));
  }

  __device__ __forceinline__ void aggregate() {
    float b[kOwn], column_sums[kOwn] = {};
    block.load_scaling(call.iters(), b);
    const float by_unit = 1 / block.unit();
    TokenSums<M, K> sums;
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      const Place place = block.place_of(tile);
      Strip<C> strip;
      look_at(block, tile, /*is_first=*/false, strip);
      Rows<M> rows;
      const RowScales scales = weigh(block, place, strip, b, rows);
      Rows<K> values;
      load_shared(block.features(tile), C::kWidthStride, values);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        scale_row(values, r, scales.share[r] * (strip.lengths[r] * by_unit));
#pragma unroll
        for (int e = 0; e < kOwn; ++e) column_sums[e] += scales.share[r] * rows.v[r][e];
      }
      // Neither F nor gibbs is needed any more.
      store_shared(rows, C::kRefsStride, block.gibbs(tile));
      store_shared(values, C::kWidthStride, block.features(tile));
      __syncthreads();
      sums.template add<C::kFine, C::kFine>(block.gibbs(tile), C::kRefsStride,
                                            block.features(tile), C::kWidthStride);
      __syncthreads();
    }
    block.emit_columns(column_sums, C::kForwardSums, 0);
    sums.for_each([&](int j, int k, float sum) {
      block.emit(C::kForwardSums, M + j * K + k, sum);
    });
    if (block.arrive(C::kForwardSums)) finish_aggregate();
  }

  __device__ __forceinline__ void finish_aggregate() {
    const int m = call.references(), k = call.anchors();
    const Sum* const column_sums = block.totals();
    Sum* const aggregates = block.totals() + M;
    double* const saved =
        call.problem.saved.aggregates + int64_t(block.slot) * m * (k + 1);
    for (int i = threadIdx.x; i < M * K; i += kThreads) {
      const int j = i / K, c = i % K;
      const bool is_real = j < m && c < k;
      aggregates[i] = is_real ? aggregates[i] / column_sums[j] : Sum(0);
      if (is_real) saved[j * (k + 1) + c] = aggregates[i];
      if (is_real && c == 0)
        saved[j * (k + 1) + k] = double(column_sums[j]) / double(call.tokens());
    }
    __syncthreads();
    const Padded<double> value_map{call.problem.maps.value_map + block.head() * k * k,
                                   k, k, k};
    float* const mixed = call.mixed + int64_t(block.slot) * M * K;
    small_product<Sum>(
        M, K, k, [&](int j, int i) { return aggregates[j * K + i]; },
        [&](int i, int c) { return Sum(value_map(i, c)); },
        [&](int j, int c, Sum v) { mixed[operand_index<M, K>(j, c)] = float(v); });
  }

  __device__ __forceinline__ void respond() {
    float b[kOwn];
    block.load_scaling(call.iters(), b);
    const float unit = block.unit();
    const float* const mixed = call.mixed + int64_t(block.slot) * M * K;
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      const Place place = block.place_of(tile);
      Rows<M> rows;
      if (call.cut.fused) {
        load_shared(block.gibbs(tile), C::kRefsStride, rows);
      } else {
        Strip<C> strip;
        look_at(block, tile, /*is_first=*/false, strip);
        weigh(block, place, strip, b, rows);
      }
      Rows<K> out;
      fill(out, 0);
      multiply<C::kCoarse, C::kCoarse>(rows, mixed, out);
#pragma unroll
      for (int r = 0; r < 2; ++r) scale_row(out, r, unit);
      store_tokens<C>(out, call.problem.scalar, call.out_aligned, call.anchors(), place,
                      call.out);
    }
  }
};

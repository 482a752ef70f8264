// The forward pass over one head:
//
//   embed      scores S; the largest length, and c
//   iterate    one Sinkhorn iteration: a, then sums for b      (num_iters times)
//   aggregate  the last a of the way in; sums of U and of U^T val, which make A
//   respond    rows of W over their sums, times A value_map
//
// A phase ends with sums or maxima over all tokens, which the block that arrives last
// finishes.
#pragma once

template <typename C>
struct Forward {
  static constexpr int K = C::kWidth, M = C::kRefs, kOwn = M / 4;
  using Sum = typename C::Sum;

  Block<C> block;
  const Call& call;

  __device__ __forceinline__ explicit Forward(const Call& any_call)
      : block(any_call), call(any_call) {}

  static int num_phases(int iters) { return iters + 3; }

  __device__ __forceinline__ void run(int phase) {
    if (phase == 0)
      embed();
    else if (phase <= call.iters())
      iterate(phase);
    else if (phase == call.iters() + 1)
      aggregate();
    else
      respond();
  }

  __device__ __forceinline__ void embed() {
    float peaks[kSets][kOwn];
#pragma unroll
    for (int set = 0; set < kSets; ++set)
#pragma unroll
      for (int e = 0; e < kOwn; ++e) peaks[set][e] = Max::kStart;
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      look_at(block, tile, /*is_first=*/true);
      const Place place = block.place_of(tile);
#pragma unroll
      for (int set = 0; set < kSets; ++set) {
        Rows<M> scores;
        compute_scores(block, tile, set, scores);
        store_shared(scores, C::kSetsStride, block.gibbs(tile, set));
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int e = 0; e < kOwn; ++e)
            if (place.exists(r)) peaks[set][e] = fmaxf(peaks[set][e], scores.v[r][e]);
      }
    }
    block.template emit_columns<Max>(peaks, kSets * M, 0);
    if (!block.template arrive<Max>(kSets * M)) return;
    for_each_reference(
        [&](int set, int j) { block.saved(0, set)[j] = block.totals()[set * M + j]; });
  }

  // To b after t iterations.
  __device__ __forceinline__ void iterate(int t) {
    float b[kSets][kOwn], sums[kSets][kOwn] = {};
#pragma unroll
    for (int set = 0; set < kSets; ++set) block.load_scaling(t - 1, set, b[set]);
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      look_at(block, tile, /*is_first=*/false);
      const Place place = block.place_of(tile);
#pragma unroll
      for (int set = 0; set < kSets; ++set) {
        Rows<M> gibbs;
        load_gibbs(block, tile, set, t == 1 ? Kept::kScores : Kept::kGibbs, gibbs);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float a = row_scaling(gibbs, r, place, b[set]);
#pragma unroll
          for (int e = 0; e < kOwn; ++e) sums[set][e] += a * gibbs.v[r][e];
        }
      }
    }
    block.template emit_columns<Add>(sums, kSets * M, 0);
    if (!block.arrive(kSets * M)) return;
    for_each_reference([&](int set, int j) {
      block.saved(t, set)[j] =
          block.tokens *
          block.inverse(call.references() * double(block.totals()[set * M + j]));
    });
  }

  __device__ __forceinline__ void aggregate() {
    float column_sums[1][kOwn] = {};
    const float by_unit = 1 / block.unit();
    TokenSums<M, K> sums;
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      look_at(block, tile, /*is_first=*/false);
      Rows<M> weights;
      float scalings[2];
      load_gibbs(block, tile, kIn, kept_after_iterations(), weights);
      weigh_in(block, tile, weights, scalings);
      Rows<K> values;
      load_centred(block, tile, values);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        scale_row(values, r, block.length(tile, r) * by_unit);
#pragma unroll
        for (int e = 0; e < kOwn; ++e) column_sums[0][e] += weights.v[r][e];
      }
      // Neither F nor E of the way in is needed any more.
      store_shared(weights, C::kSetsStride, block.gibbs(tile, kIn));
      store_shared(values, C::kWidthStride, block.features(tile));
      __syncthreads();
      sums.template add<C::kFine, C::kFine>(block.gibbs(tile, kIn), C::kSetsStride,
                                            block.features(tile), C::kWidthStride);
      __syncthreads();
    }
    block.template emit_columns<Add>(column_sums, C::kSums, 0);
    sums.for_each(
        [&](int j, int k, float sum) { block.emit(C::kSums, M + j * K + k, sum); });
    if (block.arrive(C::kSums)) finish_aggregate();
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
      aggregates[i] = is_real ? aggregates[i] * block.inverse(column_sums[j]) : Sum(0);
      if (is_real) saved[j * (k + 1) + c] = aggregates[i];
      if (is_real && c == 0)
        saved[j * (k + 1) + k] =
            double(column_sums[j]) * block.inverse(double(kLifted) * block.tokens);
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
    const float unit = block.unit();
    const float* const mixed = call.mixed + int64_t(block.slot) * M * K;
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      look_at(block, tile, /*is_first=*/false);
      Rows<M> weights;
      load_gibbs(block, tile, kBack, kept_after_iterations(), weights);
      weigh_back(block, tile, weights);
      Rows<K> out;
      fill(out, 0);
      multiply<C::kCoarse, C::kCoarse>(weights, mixed, out);
#pragma unroll
      for (int r = 0; r < 2; ++r) scale_row(out, r, unit);
      store_tokens<C>(out, call.problem.scalar, call.out_aligned, call.anchors(),
                      block.place_of(tile), call.out);
    }
  }

 private:
  __device__ __forceinline__ Kept kept_after_iterations() const {
    return call.iters() == 0 ? Kept::kScores : Kept::kGibbs;
  }

  // visit(set, j), shared out among the threads.
  template <typename Visit>
  __device__ __forceinline__ void for_each_reference(const Visit& visit) const {
    const int m = call.references();
    for (int i = threadIdx.x; i < kSets * m; i += kThreads) visit(i / m, i % m);
  }
};

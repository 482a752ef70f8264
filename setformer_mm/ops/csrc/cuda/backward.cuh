// The backward pass over one head:
//
//   project    gradients of A; of log W, whose sums are those of the last log b, back
//   balance    makes column sums of the gradients of log U the 0 they should be
//   weigh      gradients of log U, and from them those of the last log b, in; the way
//              back through one Sinkhorn iteration         (if there is one)
//   unroll     both ways through one more                  (num_iters - 1 times)
//   gather     through the rest; gradients of x and of the maps
//
// Gradients are carried with respect to logarithms of a, b and the weights, where they
// are well scaled, and relative to the unit of lengths until they are written.
#pragma once

template <typename C>
struct Backward {
  static constexpr int K = C::kWidth, M = C::kRefs, kOwn = M / 4;
  using Sum = typename C::Sum;

  Block<C> block;
  const Call& call;

  __device__ __forceinline__ explicit Backward(const Call& any_call)
      : block(any_call), call(any_call) {}

  static int num_phases(int iters) { return iters + 3; }

  __device__ __forceinline__ void run(int phase) {
    if (phase == 0)
      project();
    else if (phase == 1)
      balance();
    else if (phase == call.iters() + 2)
      gather();
    else if (phase == 2)
      weigh();
    else
      unroll(call.iters() + 3 - phase);
  }

  __device__ __forceinline__ void project() {
    float scaling_grads[1][kOwn] = {};
    TokenSums<M, K> sums;
    const int stage = call.cut.tiles;
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      look_at(block, tile, /*is_first=*/true);
      Rows<M> weights, grads;
      compute_return_grads(tile, Kept::kNothing, weights, grads);
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int e = 0; e < kOwn; ++e) scaling_grads[0][e] += grads.v[r][e];
      Rows<K> out_grads;
      load_out_grads(tile, out_grads);
      store_shared(weights, C::kSetsStride, block.gibbs(stage));
      store_shared(out_grads, C::kWidthStride, block.features(stage));
      __syncthreads();
      sums.template add<C::kFine, C::kCoarse>(block.gibbs(stage), C::kSetsStride,
                                              block.features(stage), C::kWidthStride);
      __syncthreads();
    }
    block.template emit_columns<Add>(scaling_grads, C::kSums, 0);
    sums.for_each(
        [&](int j, int k, float sum) { block.emit(C::kSums, M + j * K + k, sum); });
    if (block.arrive(C::kSums)) finish_project();
  }

  // From the gradients of A value_map to those of A and of value_map.
  __device__ __forceinline__ void finish_project() {
    const int m = call.references(), k = call.anchors();
    const int64_t slot = block.slot;
    const Padded<double> aggregates{call.problem.saved.aggregates + slot * m * (k + 1),
                                    m, k, k + 1};
    const Padded<double> value_map{call.problem.maps.value_map + block.head() * k * k,
                                   k, k, k};
    const auto mixed_grads = [&](int j, int c) {
      return block.totals()[M + j * K + c];
    };

    float* const grads = call.aggregate_grads + slot * M * K;
    float* const grads_t = call.aggregate_grads_t + slot * M * K;
    small_product<Sum>(
        M, K, k, mixed_grads, [&](int c, int i) { return Sum(value_map(i, c)); },
        [&](int j, int i, Sum v) {
          grads[operand_index<M, K>(j, i)] = float(v);
          grads_t[operand_index<K, M>(i, j)] = float(v);
        });

    double* const value_map_grads = call.value_map_grads + slot * K * K;
    small_product<Sum>(
        K, K, m, [&](int i, int j) { return Sum(aggregates(j, i)); }, mixed_grads,
        [&](int i, int c, Sum v) { value_map_grads[i * K + c] = v; });

    __syncthreads();
    for (int j = threadIdx.x; j < M; j += kThreads) {
      Sum offset = 0;
      for (int i = 0; i < k; ++i)
        offset += Sum(grads[operand_index<M, K>(j, i)]) * Sum(aggregates(j, i));
      call.offsets[slot * M + j] = float(offset);
      if (call.iters() > 0) set_flow(kBack, call.iters(), j, block.totals()[j]);
    }
  }

  // Gradients of log U are 0 in sum over tokens, but for rounding errors of Q and A,
  // which the division by epsilon and k(z, z)^-1 would amplify on their way to
  // references.
  __device__ __forceinline__ void balance() {
    float sums[1][kOwn] = {};
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      look_at(block, tile, /*is_first=*/false);
      Rows<M> shares, grads;
      float scalings[2];
      compute_grads_in(tile, Kept::kNothing, shares, grads, scalings);
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int e = 0; e < kOwn; ++e) sums[0][e] += grads.v[r][e];
    }
    block.template emit_columns<Add>(sums, M, 0);
    if (!block.arrive(M)) return;
    for (int j = threadIdx.x; j < M; j += kThreads)
      call.offsets[int64_t(block.slot) * M + j] += float(block.totals()[j]);
  }

  __device__ __forceinline__ void weigh() {
    const int last = call.iters();
    float sums[kSets][kOwn] = {};
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      look_at(block, tile, /*is_first=*/false);
      Rows<M> shares, grads;
      float scalings[2];
      compute_grads_in(tile, Kept::kGibbs, shares, grads, scalings);
      Rows<M> gibbs;
      load_shared(block.gibbs(tile, kIn), C::kSetsStride, gibbs);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float left = -scalings[r] * sum_of(grads, r);
#pragma unroll
        for (int e = 0; e < kOwn; ++e) sums[kIn][e] += left * gibbs.v[r][e];
      }
      if (last > 1) add_iteration(tile, kBack, last, sums[kBack]);
    }
    block.template emit_columns<Add>(sums, kSets * M, 0);
    if (!block.arrive(kSets * M)) return;
    set_flows(kIn, last);
    if (last > 1) set_flows(kBack, last - 1);
  }

  // The way in to the gradients of b[t - 1], t > 1; the way back to those of b[t - 2].
  __device__ __forceinline__ void unroll(int t) {
    float sums[kSets][kOwn] = {};
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      look_at(block, tile, /*is_first=*/false);
      add_iteration(tile, kIn, t, sums[kIn]);
      if (t > 2) add_iteration(tile, kBack, t - 1, sums[kBack]);
    }
    block.template emit_columns<Add>(sums, kSets * M, 0);
    if (!block.arrive(kSets * M)) return;
    set_flows(kIn, t - 1);
    if (t > 2) set_flows(kBack, t - 2);
  }

  __device__ __forceinline__ void gather() {
    TokenSums<K, kSets * M> score_map_sums;
    TokenSums<K, K> anchor_sums;
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      look_at(block, tile, /*is_first=*/false);
      // Gradients of F, then of the kernel's exponents alpha (u z - 1).
      Rows<K> exponent_grads;
      float length_grads[2];
      fill(exponent_grads, 0);
      {
        Rows<M> shares, grads;
        float scalings[2];
        compute_grads_in(tile, Kept::kGibbs, shares, grads, scalings);
        multiply<C::kFine, C::kFine>(
            shares, call.aggregate_grads + int64_t(block.slot) * M * K, exponent_grads);
        Rows<K> features;
        load_centred(block, tile, features);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          length_grads[r] = dot_of_row(features, r, exponent_grads.v[r]);
          scale_row(exponent_grads, r, block.length(tile, r) / block.unit());
        }
        add_score_grads(tile, kIn, grads, exponent_grads);
      }
      {
        Rows<M> weights, grads;
        compute_return_grads(tile, Kept::kGibbs, weights, grads);
        add_score_grads(tile, kBack, grads, exponent_grads);
      }
      {
        Rows<K> features;
        load_shared(block.features(tile), C::kWidthStride, features);
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int e = 0; e < K / 4; ++e)
            exponent_grads.v[r][e] *= features.v[r][e] * call.alpha;
      }

      Rows<K> u;
      float lengths[2];
      load_units<C>(block, block.place_of(tile), u, lengths);
      __syncthreads();
      score_map_sums.template add<C::kFine, C::kFine>(
          block.features(tile), C::kWidthStride, block.gibbs(tile), C::kSetsStride);
      __syncthreads();
      // Neither F nor gradients of scores are needed any more.
      store_shared(exponent_grads, C::kWidthStride, block.features(tile));
      store_shared(u, C::kSetsStride, block.gibbs(tile));
      __syncthreads();
      anchor_sums.template add<C::kFine, C::kFine>(
          block.features(tile), C::kWidthStride, block.gibbs(tile), C::kSetsStride);
      __syncthreads();
      store_token_grads(tile, exponent_grads, u, lengths, length_grads);
    }
    float* const sums = call.map_grads + int64_t(blockIdx.x) * C::kMapSums;
    score_map_sums.for_each(
        [&](int k, int j, float sum) { sums[k * kSets * M + j] = sum; });
    anchor_sums.for_each(
        [&](int k, int d, float sum) { sums[K * kSets * M + k * K + d] = sum; });
  }

 private:
  __device__ __forceinline__ void load_out_grads(int tile, Rows<K>& grads) const {
    load_tokens<C>(call.in, call.problem.scalar, call.in_aligned, call.anchors(),
                   block.place_of(tile), grads);
  }

  __device__ __forceinline__ float* flows(int set, int t) const {
    const int64_t row = int64_t(block.slot) * (call.iters() + 1) + t;
    return call.flows + (row * kSets + set) * M;
  }

  __device__ __forceinline__ double scaling(int t, int set, int j) const {
    return j < call.references() ? block.saved(t, set)[j] : 0;
  }

  __device__ __forceinline__ void set_flow(int set, int t, int j,
                                           double log_scaling_grad) const {
    flows(set, t)[j] = float(log_scaling_grad * scaling(t, set, j) * call.references() *
                             block.inverse(double(block.tokens)));
  }

  // From sums over tokens of E N a and the gradients of log a after b[t], negated.
  __device__ __forceinline__ void set_flows(int set, int t) const {
    for (int j = threadIdx.x; j < M; j += kThreads)
      set_flow(set, t, j, scaling(t, set, j) * block.totals()[set * M + j]);
  }

  // Gradients of log U; Q, the weights of the way in over their columns' sums; N a.
  __device__ __forceinline__ void compute_grads_in(int tile, Kept kept, Rows<M>& shares,
                                                   Rows<M>& grads,
                                                   float (&scalings)[2]) const {
    const int64_t slot = block.slot;
    load_gibbs(block, tile, kIn, kept, shares);
    weigh_in(block, tile, shares, scalings);
    Rows<K> values;
    load_centred(block, tile, values);
#pragma unroll
    for (int r = 0; r < 2; ++r)
      scale_row(values, r, block.length(tile, r) / block.unit());
    fill(grads, 0);
    multiply<C::kFine, C::kFine>(values, call.aggregate_grads_t + slot * M * K, grads);
    float by_sums[kOwn], offsets[kOwn];
    load_quarter<M>(call.by_column_sums + slot * M, by_sums);
    load_quarter<M>(call.offsets + slot * M, offsets);
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int e = 0; e < kOwn; ++e) {
        shares.v[r][e] *= by_sums[e];
        grads.v[r][e] = shares.v[r][e] * (grads.v[r][e] - offsets[e]);
      }
  }

  // Gradients of log W; P, the weights of the way back over their rows' sums.
  __device__ __forceinline__ void compute_return_grads(int tile, Kept kept,
                                                       Rows<M>& weights,
                                                       Rows<M>& grads) const {
    load_gibbs(block, tile, kBack, kept, weights);
    weigh_back(block, tile, weights);
    Rows<K> out_grads;
    load_out_grads(tile, out_grads);
    fill(grads, 0);
    multiply<C::kCoarse, C::kFine>(out_grads, call.mixed + int64_t(block.slot) * M * K,
                                   grads);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float mean = dot_of_row(weights, r, grads.v[r]);
#pragma unroll
      for (int e = 0; e < kOwn; ++e)
        grads.v[r][e] = weights.v[r][e] * (grads.v[r][e] - mean);
    }
  }

  // Adds what reaches log b[t - 1] of a set through the a after it and b[t].
  __device__ __forceinline__ void add_iteration(int tile, int set, int t,
                                                float (&sums)[kOwn]) const {
    const Place place = block.place_of(tile);
    Rows<M> gibbs;
    load_gibbs(block, tile, set, Kept::kGibbs, gibbs);
    float b[kOwn], flow[kOwn];
    block.load_scaling(t - 1, set, b);
    load_quarter<M>(flows(set, t), flow);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float a = row_scaling(gibbs, r, place, b);
      // Their order keeps products in range.
      const float left = a * (a * dot_of_row(gibbs, r, flow));
#pragma unroll
      for (int e = 0; e < kOwn; ++e) sums[e] += left * gibbs.v[r][e];
    }
  }

  // From the gradients of the log weights of a set to those of its scores, less what
  // the Sinkhorn iterations take away; these take E's place in shared memory. Adds what
  // features get of them.
  __device__ __forceinline__ void add_score_grads(int tile, int set, Rows<M>& grads,
                                                  Rows<K>& feature_grads) const {
    const Place place = block.place_of(tile);
    const int last = call.iters();
    Rows<M> gibbs;
    load_shared(block.gibbs(tile, set), C::kSetsStride, gibbs);
    // U contains the last a, P does not.
#pragma unroll 1
    for (int t = set == kIn ? last : last - 1; t >= 0; --t) {
      float b[kOwn], flow[kOwn] = {};
      block.load_scaling(t, set, b);
      if (t < last) load_quarter<M>(flows(set, t + 1), flow);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float a = row_scaling(gibbs, r, place, b);
        const float log_a_grad =
            t < last ? -a * dot_of_row(gibbs, r, flow) : sum_of(grads, r);
#pragma unroll
        for (int e = 0; e < kOwn; ++e)
          grads.v[r][e] -= gibbs.v[r][e] * (a * log_a_grad * b[e] + a * flow[e]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) scale_row(grads, r, call.inv_epsilon);
    store_shared(grads, C::kSetsStride, block.gibbs(tile, set));
    const int map = block.head() * kSets + set;
    multiply<C::kFine, C::kFine>(grads, call.score_maps_t + map * M * K, feature_grads);
  }

  __device__ __forceinline__ void store_token_grads(
      int tile, const Rows<K>& exponent_grads, const Rows<K>& u,
      const float (&lengths)[2], const float (&length_grads)[2]) const {
    Rows<K> grads;
    fill(grads, 0);
    multiply<C::kFine, C::kFine>(exponent_grads, call.anchors_n + block.head() * K * K,
                                 grads);
    const float unit = block.unit();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float along = dot_of_row(u, r, grads.v[r]);
      const float ratio = lengths[r] == 0 ? 0.0f : unit / lengths[r];
#pragma unroll
      for (int e = 0; e < K / 4; ++e)
        grads.v[r][e] =
            (grads.v[r][e] - u.v[r][e] * along) * ratio + u.v[r][e] * length_grads[r];
    }
    store_tokens<C>(grads, call.problem.scalar, call.out_aligned, call.dim(),
                    block.place_of(tile), call.out);
  }
};

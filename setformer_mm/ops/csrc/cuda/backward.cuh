// The backward pass over one head:
//
//   project    gradients of A
//   weigh      gradients of log W; their sums are those of log b
//   unroll     through one Sinkhorn iteration               (num_iters - 1 times)
//   gather     through the rest; gradients of x and of the maps
//
// Gradients are carried with respect to logarithms of a, b and W, where they are well
// scaled, and relative to the unit of lengths until they are written.
#pragma once

template <typename C>
struct Backward {
  static constexpr int K = C::kWidth, M = C::kRefs, kOwn = M / 4;
  using Sum = typename C::Sum;

  Block<C> block;
  const Call& call;

  __device__ __forceinline__ explicit Backward(const Call& any_call)
      : block(any_call, /*is_backward=*/true), call(any_call) {}

  __device__ __forceinline__ void run(int phase) {
    const int last = num_phases(call.iters()) - 1;
    if (phase == 0)
      project();
    else if (phase == 1)
      weigh_grads();
    else if (phase < last)
      unroll(call.iters() + 2 - phase);
    else
      gather();
  }

  __device__ __forceinline__ void project() {
    TokenSums<M, K> sums;
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      const Place place = block.place_of(tile);
      Rows<M> rows;
      {
        Strip<C> strip;
        look_at(block, tile, /*is_first=*/true, strip);
        weigh_by_last(place, strip, rows);
      }
      Rows<K> grads;
      load_out_grads(place, grads);
      store_shared(rows, C::kRefsStride, block.stage_refs());
      store_shared(grads, C::kWidthStride, block.stage_width());
      __syncthreads();
      sums.template add<C::kFine, C::kCoarse>(block.stage_refs(), C::kRefsStride,
                                              block.stage_width(), C::kWidthStride);
      __syncthreads();
    }
    sums.for_each(
        [&](int j, int k, float sum) { block.emit(C::kBackwardSums, j * K + k, sum); });
    if (block.arrive(C::kBackwardSums)) finish_project();
  }

  // From the gradients of A value_map to those of A and of value_map.
  __device__ __forceinline__ void finish_project() {
    const int m = call.references(), k = call.anchors();
    const int64_t slot = block.slot;
    const double* const saved = call.problem.saved.aggregates + slot * m * (k + 1);
    const Padded<double> aggregates{saved, m, k, k + 1};
    const Padded<double> value_map{call.problem.maps.value_map + block.head() * k * k,
                                   k, k, k};
    const auto mixed_grads = [&](int j, int c) { return block.totals()[j * K + c]; };

    float* const mixed_t = call.mixed + slot * M * K;
    small_product<Sum>(
        M, K, k, [&](int j, int i) { return Sum(aggregates(j, i)); },
        [&](int i, int c) { return Sum(value_map(i, c)); },
        [&](int j, int c, Sum v) { mixed_t[operand_index<K, M>(c, j)] = float(v); });

    // Over N times the column sums of W: what reaches a column of W through its sum.
    float* const grads = call.aggregate_grads + slot * M * K;
    float* const grads_t = call.aggregate_grads_t + slot * M * K;
    const auto by_column_sum = [&](int j) {
      return j < m ? Sum(1 / (saved[j * (k + 1) + k] * double(call.tokens()))) : Sum(0);
    };
    small_product<Sum>(
        M, K, k, mixed_grads, [&](int c, int i) { return Sum(value_map(i, c)); },
        [&](int j, int i, Sum v) {
          v *= by_column_sum(j);
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
    }
  }

  __device__ __forceinline__ void weigh_grads() {
    float sums[kOwn] = {};  // gradients of the last log b
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      const Place place = block.place_of(tile);
      Strip<C> strip;
      look_at(block, tile, /*is_first=*/false, strip);
      Rows<M> rows, grads;
      const RowScales scales = weigh_by_last(place, strip, rows);
      compute_weight_grads(tile, strip, rows, scales, grads);
      load_shared(block.gibbs(tile), C::kRefsStride, strip.gibbs);
      float b[kOwn];
      block.load_scaling(call.iters(), b);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float through_a = sum_of(grads, r) * scales.a[r];
#pragma unroll
        for (int e = 0; e < kOwn; ++e)
          sums[e] += grads.v[r][e] - through_a * strip.gibbs.v[r][e] * b[e];
      }
    }
    block.emit_columns(sums, M, 0);
    if (!block.arrive(M) || call.iters() == 0) return;
    for (int j = threadIdx.x; j < M; j += kThreads)
      set_gamma(call.iters(), j, block.totals()[j]);
  }

  // Through the update of b[t], and of the a before it, to b[t - 1]; t > 1.
  __device__ __forceinline__ void unroll(int t) {
    float b[kOwn], gamma[kOwn], by_a[kOwn] = {};
    block.load_scaling(t - 1, b);
    load_quarter<M>(gammas(t), gamma);
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      Strip<C> strip;
      look_at(block, tile, /*is_first=*/false, strip);
      const Place place = block.place_of(tile);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float a = row_scaling<C>(strip, r, place, b);
        float product = 0;
#pragma unroll
        for (int e = 0; e < kOwn; ++e) product += strip.gibbs.v[r][e] * gamma[e];
        const float left = -a * a * sum_of_row(product);
#pragma unroll
        for (int e = 0; e < kOwn; ++e) by_a[e] += left * strip.gibbs.v[r][e];
      }
    }
    block.emit_columns(by_a, M, 0);
    if (!block.arrive(M)) return;
    for (int j = threadIdx.x; j < M; j += kThreads)
      set_gamma(t - 1, j,
                -scaling(t - 1, j) * double(block.totals()[j]) / double(call.tokens()));
  }

  __device__ __forceinline__ void gather() {
    TokenSums<K, M> score_map_sums;
    TokenSums<K, K> anchor_sums;
#pragma unroll 1
    for (int tile = 0; tile < block.num_tiles(); ++tile) {
      const Place place = block.place_of(tile);
      Strip<C> strip;
      look_at(block, tile, /*is_first=*/false, strip);
      // Gradients of the kernel's exponents alpha (u z - 1).
      Rows<K> exponent_grads;
      float length_grads[2];
      {
        Rows<M> rows, score_grads;
        const RowScales scales = weigh_by_last(place, strip, rows);
        compute_weight_grads(tile, strip, rows, scales, score_grads);
        // Columns of W in place of its rows: l F reached A through them.
#pragma unroll
        for (int r = 0; r < 2; ++r) scale_row(rows, r, scales.share[r]);
        fill(exponent_grads, 0);
        multiply<C::kFine, C::kFine>(
            rows, call.aggregate_grads + int64_t(block.slot) * M * K, exponent_grads);
        Rows<K> features;
        load_shared(block.features(tile), C::kWidthStride, features);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float product = 0;
#pragma unroll
          for (int e = 0; e < K / 4; ++e)
            product += features.v[r][e] * exponent_grads.v[r][e];
          length_grads[r] = sum_of_row(product);
          scale_row(exponent_grads, r, strip.lengths[r] / block.unit());
        }
        load_shared(block.gibbs(tile), C::kRefsStride, strip.gibbs);
        to_score_grads(place, strip, score_grads);
        store_shared(score_grads, C::kRefsStride, block.stage_refs());
        multiply<C::kFine, C::kFine>(
            score_grads, call.score_map_t + block.head() * M * K, exponent_grads);
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
      load_units<C>(block, place, u, lengths);
      __syncthreads();
      score_map_sums.template add<C::kFine, C::kFine>(
          block.features(tile), C::kWidthStride, block.stage_refs(), C::kRefsStride);
      __syncthreads();
      float* const staged_u = block.stage_refs();  // rows of K here
      store_shared(exponent_grads, C::kWidthStride, block.stage_width());
      store_shared(u, C::kWidthStride, staged_u);
      __syncthreads();
      anchor_sums.template add<C::kFine, C::kFine>(block.stage_width(), C::kWidthStride,
                                                   staged_u, C::kWidthStride);
      __syncthreads();
      store_token_grads(place, exponent_grads, u, lengths, length_grads);
    }
    float* const sums = call.map_grads + int64_t(blockIdx.x) * C::kMapSums;
    score_map_sums.for_each([&](int k, int j, float sum) { sums[k * M + j] = sum; });
    anchor_sums.for_each(
        [&](int k, int d, float sum) { sums[K * M + k * K + d] = sum; });
  }

 private:
  // With the last b, which is loaded anew for each tile: registers are scarce here.
  __device__ __forceinline__ RowScales weigh_by_last(const Place& place,
                                                     const Strip<C>& strip,
                                                     Rows<M>& rows) const {
    float b[kOwn];
    block.load_scaling(call.iters(), b);
    return weigh(block, place, strip, b, rows);
  }

  __device__ __forceinline__ void load_out_grads(const Place& place,
                                                 Rows<K>& grads) const {
    load_tokens<C>(call.in, call.problem.scalar, call.in_aligned, call.anchors(), place,
                   grads);
  }

  __device__ __forceinline__ float* gammas(int t) const {
    return call.gammas + (int64_t(block.slot) * (call.iters() + 1) + t) * M;
  }

  __device__ __forceinline__ double scaling(int t, int j) const {
    const int m = call.references();
    if (j >= m) return 0;
    return t == 0 ? 1
                  : call.problem.saved
                        .scalings[(int64_t(block.slot) * call.iters() + t - 1) * m + j];
  }

  // M b times the gradient of log b.
  __device__ __forceinline__ void set_gamma(int t, int j,
                                            double log_scaling_grad) const {
    gammas(t)[j] = float(log_scaling_grad * call.references() * scaling(t, j));
  }

  // Gradients of log W, from its rows over their sums: through these, and through its
  // columns over theirs. The gradients of the last log a are sums of rows.
  __device__ __forceinline__ void compute_weight_grads(int tile, const Strip<C>& strip,
                                                       const Rows<M>& rows,
                                                       const RowScales& scales,
                                                       Rows<M>& grads) const {
    const int64_t slot = block.slot;
    Rows<K> left;
    load_out_grads(block.place_of(tile), left);
    fill(grads, 0);
    multiply<C::kCoarse, C::kFine>(left, call.mixed + slot * M * K, grads);
    load_shared(block.features(tile), C::kWidthStride, left);
    float means[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float mean = 0;
#pragma unroll
      for (int e = 0; e < kOwn; ++e) mean += rows.v[r][e] * grads.v[r][e];
      means[r] = sum_of_row(mean);
      scale_row(left, r, scales.share[r] * (strip.lengths[r] / block.unit()));
    }
    multiply<C::kFine, C::kFine>(left, call.aggregate_grads_t + slot * M * K, grads);
    float offsets[kOwn];
    load_quarter<M>(call.offsets + slot * M, offsets);
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int e = 0; e < kOwn; ++e)
        grads.v[r][e] =
            rows.v[r][e] * (grads.v[r][e] - means[r] - scales.share[r] * offsets[e]);
  }

  // From the gradients of log W to those of the scores: less what the Sinkhorn
  // iterations take away.
  __device__ __forceinline__ void to_score_grads(const Place& place,
                                                 const Strip<C>& strip,
                                                 Rows<M>& grads) const {
    const int last = call.iters();
    const float by_tokens = 1 / float(call.tokens());
    const float log_a_grads[2] = {sum_of(grads, 0), sum_of(grads, 1)};
#pragma unroll 1
    for (int t = last; t >= 0; --t) {
      float b[kOwn], gamma[kOwn] = {};
      block.load_scaling(t, b);
      if (t < last) load_quarter<M>(gammas(t + 1), gamma);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float a = row_scaling<C>(strip, r, place, b);
        float by_b = a * log_a_grads[r], by_gamma = 0;
        if (t < last) {
          float product = 0;
#pragma unroll
          for (int e = 0; e < kOwn; ++e) product += strip.gibbs.v[r][e] * gamma[e];
          by_gamma = a * by_tokens;
          by_b = -a * by_gamma * sum_of_row(product);
        }
#pragma unroll
        for (int e = 0; e < kOwn; ++e)
          grads.v[r][e] -= strip.gibbs.v[r][e] * (by_b * b[e] + by_gamma * gamma[e]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) scale_row(grads, r, call.inv_epsilon);
  }

  __device__ __forceinline__ void store_token_grads(
      const Place& place, const Rows<K>& exponent_grads, const Rows<K>& u,
      const float (&lengths)[2], const float (&length_grads)[2]) const {
    Rows<K> grads;
    fill(grads, 0);
    multiply<C::kFine, C::kFine>(exponent_grads, call.anchors_n + block.head() * K * K,
                                 grads);
    const float unit = block.unit();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float along = 0;
#pragma unroll
      for (int e = 0; e < K / 4; ++e) along += u.v[r][e] * grads.v[r][e];
      along = sum_of_row(along);
      const float ratio = lengths[r] == 0 ? 0.0f : unit / lengths[r];
#pragma unroll
      for (int e = 0; e < K / 4; ++e)
        grads.v[r][e] =
            (grads.v[r][e] - u.v[r][e] * along) * ratio + u.v[r][e] * length_grads[r];
    }
    store_tokens<C>(grads, call.problem.scalar, call.out_aligned, call.dim(), place,
                    call.out);
  }
};

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

  __device__ explicit Backward(const Call& any_call)
      : block(any_call, /*is_backward=*/true), call(any_call) {}

  __device__ void run(int phase) {
    const int last = num_phases(block.iters()) - 1;
    if (phase == 0)
      project();
    else if (phase == 1)
      weigh_grads();
    else if (phase < last)
      unroll(block.iters() + 2 - phase);
    else
      gather();
  }

  __device__ void project() {
    float b[kOwn];
    block.load_scaling(block.iters(), b);
    TokenSums<M, K> sums;
    for (int tile = 0; tile < block.num_tiles; ++tile) {
      const Place place = block.place_of(tile);
      Rows<M> rows;
      {
        Strip<C> strip;
        look_at(block, tile, /*is_first=*/true, strip);
        weigh(block, place, strip, b, rows);
      }
      Rows<K> grads;
      load_out_grads(place, grads);
      store_shared(rows, C::kRefsStride, block.stage_refs);
      store_shared(grads, C::kWidthStride, block.stage_width);
      __syncthreads();
      sums.template add<C::kCoarse, C::kCoarse>(block.stage_refs, C::kRefsStride,
                                                block.stage_width, C::kWidthStride);
      __syncthreads();
    }
    sums.for_each([&](int j, int k, float sum) {
      block.emit(C::kBackwardSums, j * K + k, sum);
    });
    if (block.arrive(C::kBackwardSums)) finish_project();
  }

  // From the gradients of A value_map to those of A and of value_map.
  __device__ void finish_project() {
    const int m = block.references(), k = block.anchors();
    const int64_t slot = block.slot;
    const double* const saved = call.problem.saved.aggregates + slot * m * (k + 1);
    const Padded<double> aggregates{saved, m, k, k + 1};
    const Padded<double> value_map{call.problem.maps.value_map + block.head * k * k, k, k,
                                   k};
    const auto mixed_grads = [&](int j, int c) { return block.totals[j * K + c]; };

    float* const mixed_t = call.mixed + slot * M * K;
    small_product<Sum>(
        M, K, k, [&](int j, int i) { return Sum(aggregates(j, i)); },
        [&](int i, int c) { return Sum(value_map(i, c)); },
        [&](int j, int c, Sum v) { mixed_t[operand_index<K, M>(c, j)] = float(v); });

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
      call.inv_column_sums[slot * M + j] =
          j < m ? float(1 / (saved[j * (k + 1) + k] * double(block.tokens()))) : 0.0f;
    }
  }

  __device__ void weigh_grads() {
    float b[kOwn], by_b[kOwn] = {}, by_a[kOwn] = {};
    block.load_scaling(block.iters(), b);
    for (int tile = 0; tile < block.num_tiles; ++tile) {
      const Place place = block.place_of(tile);
      Strip<C> strip;
      look_at(block, tile, /*is_first=*/false, strip);
      Rows<M> rows, grads;
      const RowScales scales = weigh(block, place, strip, b, rows);
      float log_a_grads[2];
      compute_weight_grads(place, strip, rows, scales, grads, log_a_grads);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float left = log_a_grads[r] * scales.a[r];
#pragma unroll
        for (int e = 0; e < kOwn; ++e) {
          by_b[e] += grads.v[r][e];
          by_a[e] += left * strip.gibbs.v[r][e];
        }
      }
    }
    block.emit_columns(by_b, 2 * M, 0);
    block.emit_columns(by_a, 2 * M, M);
    if (!block.arrive(2 * M) || block.iters() == 0) return;
    for (int j = threadIdx.x; j < M; j += kThreads) {
      const double b_j = scaling(block.iters(), j);
      set_gamma(block.iters(), j,
                double(block.totals[j]) - b_j * double(block.totals[M + j]));
    }
  }

  // Through the update of b[t], and of the a before it, to b[t - 1]; t > 1.
  __device__ void unroll(int64_t t) {
    float b[kOwn], gamma[kOwn], by_a[kOwn] = {};
    block.load_scaling(t - 1, b);
    load_quarter<M>(gammas(t), gamma);
    for (int tile = 0; tile < block.num_tiles; ++tile) {
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
                -scaling(t - 1, j) * double(block.totals[j]) / double(block.tokens()));
  }

  __device__ void gather() {
    float b[kOwn];
    block.load_scaling(block.iters(), b);
    const float by_unit = 1 / block.unit();
    TokenSums<K, M> score_map_sums;
    TokenSums<K, K> anchor_sums;
    for (int tile = 0; tile < block.num_tiles; ++tile) {
      const Place place = block.place_of(tile);
      Strip<C> strip;
      look_at(block, tile, /*is_first=*/false, strip);
      if (!call.cut.fused)
        store_shared(strip.features, C::kWidthStride, block.features(tile));

      // Gradients of the kernel's exponents alpha (u z - 1).
      Rows<K> exponent_grads;
      float length_grads[2];
      {
        Rows<M> rows, score_grads;
        const RowScales scales = weigh(block, place, strip, b, rows);
        float log_a_grads[2];
        compute_weight_grads(place, strip, rows, scales, score_grads, log_a_grads);
        to_score_grads(place, strip, score_grads);
        store_shared(score_grads, C::kRefsStride, block.stage_refs);

        // Columns of W over their sums, in place of its rows: l F reached A through
        // them.
        float inv_column_sums[kOwn];
        load_quarter<M>(call.inv_column_sums + block.slot * M, inv_column_sums);
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int e = 0; e < kOwn; ++e)
            rows.v[r][e] *= scales.share[r] * inv_column_sums[e];
        fill(exponent_grads, 0);
        multiply<C::kFine, C::kFine>(rows, call.aggregate_grads + block.slot * M * K,
                                     exponent_grads);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float product = 0;
#pragma unroll
          for (int e = 0; e < K / 4; ++e)
            product += strip.features.v[r][e] * exponent_grads.v[r][e];
          length_grads[r] = sum_of_row(product);
#pragma unroll
          for (float& v : exponent_grads.v[r]) v *= strip.lengths[r] * by_unit;
        }
        multiply<C::kFine, C::kFine>(score_grads, call.score_map_t + block.head * M * K,
                                     exponent_grads);
      }
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int e = 0; e < K / 4; ++e)
          exponent_grads.v[r][e] *= strip.features.v[r][e] * call.alpha;

      Rows<K> u;
      float lengths[2];
      load_units<C>(block, place, u, lengths);
      __syncthreads();
      score_map_sums.template add<C::kFine, C::kFine>(
          block.features(tile), C::kWidthStride, block.stage_refs, C::kRefsStride);
      __syncthreads();
      float* const staged_u = block.stage_refs;  // rows of K here
      store_shared(exponent_grads, C::kWidthStride, block.stage_width);
      store_shared(u, C::kWidthStride, staged_u);
      __syncthreads();
      anchor_sums.template add<C::kFine, C::kFine>(block.stage_width, C::kWidthStride,
                                                   staged_u, C::kWidthStride);
      __syncthreads();
      store_token_grads(place, exponent_grads, u, lengths, length_grads);
    }
    float* const sums = call.map_grads +
                        (block.slot * call.cut.num_chunks + block.chunk) * C::kMapSums;
    score_map_sums.for_each([&](int k, int j, float sum) { sums[k * M + j] = sum; });
    anchor_sums.for_each(
        [&](int k, int d, float sum) { sums[K * M + k * K + d] = sum; });
  }

 private:
  __device__ void load_out_grads(const Place& place, Rows<K>& grads) const {
    load_tokens<C>(call.in, call.problem.scalar, call.in_aligned, block.anchors(), place,
                   grads);
  }

  __device__ float* gammas(int64_t t) const {
    return call.gammas + (block.slot * (block.iters() + 1) + t) * M;
  }

  __device__ double scaling(int64_t t, int j) const {
    const int m = block.references();
    if (j >= m) return 0;
    return t == 0 ? 1
                  : call.problem.saved
                        .scalings[(block.slot * block.iters() + t - 1) * m + j];
  }

  // M b times the gradient of log b.
  __device__ void set_gamma(int64_t t, int j, double log_scaling_grad) const {
    gammas(t)[j] = float(log_scaling_grad * block.references() * scaling(t, j));
  }

  // Gradients of log W, from its rows over their sums; the gradients of the last log a
  // are sums of these.
  __device__ void compute_weight_grads(const Place& place, const Strip<C>& strip,
                                       const Rows<M>& rows, const RowScales& scales,
                                       Rows<M>& grads, float (&log_a_grads)[2]) const {
    const int64_t slot = block.slot;
    Rows<K> left;
    load_out_grads(place, left);
    fill(grads, 0);
    multiply<C::kCoarse, C::kCoarse>(left, call.mixed + slot * M * K, grads);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float mean = 0;
#pragma unroll
      for (int e = 0; e < kOwn; ++e) mean += rows.v[r][e] * grads.v[r][e];
      mean = sum_of_row(mean);
#pragma unroll
      for (int e = 0; e < kOwn; ++e) grads.v[r][e] = rows.v[r][e] * (grads.v[r][e] - mean);
    }
    const float by_unit = 1 / block.unit();
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int e = 0; e < K / 4; ++e)
        left.v[r][e] = strip.features.v[r][e] * (strip.lengths[r] * by_unit);
    Rows<M> through_columns;
    fill(through_columns, 0);
    multiply<C::kFine, C::kFine>(left, call.aggregate_grads_t + slot * M * K,
                                 through_columns);
    float offsets[kOwn], inv_column_sums[kOwn];
    load_quarter<M>(call.offsets + slot * M, offsets);
    load_quarter<M>(call.inv_column_sums + slot * M, inv_column_sums);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = 0;
#pragma unroll
      for (int e = 0; e < kOwn; ++e) {
        const float grad = rows.v[r][e] * scales.share[r] * inv_column_sums[e] *
                           (through_columns.v[r][e] - offsets[e]);
        sum += grad;
        grads.v[r][e] += grad;
      }
      log_a_grads[r] = sum_of_row(sum);
    }
  }

  // From the gradients of log W to those of the scores: less what the Sinkhorn
  // iterations take away.
  __device__ void to_score_grads(const Place& place, const Strip<C>& strip,
                                 Rows<M>& grads) const {
    const int64_t last = block.iters();
    const float by_tokens = 1 / float(block.tokens());
    float log_a_grads[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = 0;
#pragma unroll
      for (float v : grads.v[r]) sum += v;
      log_a_grads[r] = sum_of_row(sum);
    }
    for (int64_t t = last; t >= 0; --t) {
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
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (float& v : grads.v[r]) v *= call.inv_epsilon;
  }

  __device__ void store_token_grads(const Place& place, const Rows<K>& exponent_grads,
                                    const Rows<K>& u, const float (&lengths)[2],
                                    const float (&length_grads)[2]) const {
    Rows<K> grads;
    fill(grads, 0);
    multiply<C::kFine, C::kFine>(exponent_grads, call.anchors + block.head * K * K,
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
    store_tokens<C>(grads, call.problem.scalar, call.out_aligned,
                    int(call.problem.sizes.dim), place, call.out);
  }
};

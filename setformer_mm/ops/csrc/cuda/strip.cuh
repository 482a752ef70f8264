// 16 tokens of one warp: their features, their rows of the Gibbs kernel, their weights.
#pragma once

// Names are those of docs/method.md: features are F = k(x, z), gibbs is
// exp((S - 1) / epsilon), a and b are the scalings of the plan T, and W = T * Pi. Both
// lie in shared memory as well, because registers are scarce.
template <typename C>
struct Strip {
  Rows<C::kRefs> gibbs;
  float lengths[2];  // of the thread's two tokens
};

// Directions and lengths of tokens; 0 for those no longer than norm_floor.
template <typename C>
__device__ __forceinline__ void load_units(const Block<C>& block, const Place& place,
                                           Rows<C::kWidth>& x, float (&lengths)[2]) {
  const Call& call = block.call;
  load_tokens<C>(call.problem.x, call.problem.scalar, call.x_aligned, call.dim(), place,
                 x);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    // Squares of representable norms need not be representable.
    float peak = 0;
#pragma unroll
    for (int e = 0; e < C::kWidth / 4; ++e) peak = fmaxf(peak, fabsf(x.v[r][e]));
    peak = max_of_row(peak);
    const float by_peak = peak > 1e-36f ? 1 / peak : 0.0f;
    float square = 0;
#pragma unroll
    for (int e = 0; e < C::kWidth / 4; ++e) {
      x.v[r][e] *= by_peak;
      square += x.v[r][e] * x.v[r][e];
    }
    const float root = sqrtf(sum_of_row(square));
    const float length = peak * root;
    const bool is_zero = length <= call.norm_floor || by_peak == 0;
    lengths[r] = is_zero ? 0.0f : length;
    const float by_root = is_zero ? 0.0f : 1 / root;
    scale_row(x, r, by_root);
  }
}

template <typename C>
__device__ __forceinline__ float exp_of(float v) {
  if constexpr (C::kExact)
    return expf(v);
  else
    return fast_exp(v);
}

// From directions u. With w = u - c, their differences from the mean c of the anchors,
// and anchors z = c + e, the exponents of F are
//   alpha (u z - 1) = alpha ((c c - 1 + w c) + c e + w e),
// and the rounding errors that matter, those that are not the same for all anchors, are
// of the size of w e: small where anchors lie close together and k(z, z)^-1 amplifies
// errors.
template <typename C>
__device__ __forceinline__ void compute_strip(const Block<C>& block, const Place& place,
                                              Strip<C>& strip, float* features_tile) {
  constexpr int K = C::kWidth, M = C::kRefs;
  const Call& call = block.call;
  Rows<K> u, features;  // u becomes w
  load_units<C>(block, place, u, strip.lengths);
  float mean[K / 4], by_mean[K / 4], common[2];
  load_quarter<K>(call.mean + block.head() * K, mean);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    common[r] = 0;
#pragma unroll
    for (int e = 0; e < K / 4; ++e) {
      common[r] += u.v[r][e] * mean[e];
      u.v[r][e] -= mean[e];
    }
    common[r] = sum_of_row(common[r]) - 1;
  }
  fill(features, 0);
  multiply<C::kFine, C::kFine>(u, call.differences + block.head() * K * K, features);
  load_quarter<K>(call.differences_by_mean + block.head() * K, by_mean);
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int e = 0; e < K / 4; ++e)
      features.v[r][e] =
          exp_of<C>((features.v[r][e] + by_mean[e] + common[r]) * call.alpha);
  store_shared(features, C::kWidthStride, features_tile);
  // Sums start at -1 because the exponents are small where it matters.
  fill(strip.gibbs, -1);
  multiply<C::kFine, C::kFine>(features, call.score_map + block.head() * K * M,
                               strip.gibbs);
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int e = 0; e < M / 4; ++e)
      strip.gibbs.v[r][e] = exp_of<C>(strip.gibbs.v[r][e] * call.inv_epsilon);
}

// Computes a strip, or reads what an earlier phase of the launch has kept of it. The
// first phase finds the largest token norm as well.
template <typename C>
__device__ __forceinline__ void look_at(const Block<C>& block, int tile, bool is_first,
                                        Strip<C>& strip) {
  const bool is_kept = block.call.cut.fused;
  float* const features = block.features(tile);
  // Lengths lie beside the features, where their rows are padded.
  float* const lengths =
      features + (16 * warp_index() + row_of_thread()) * C::kWidthStride + C::kWidth;
  if (is_kept && !is_first) {
    load_shared(block.gibbs(tile), C::kRefsStride, strip.gibbs);
    for (int r = 0; r < 2; ++r) strip.lengths[r] = lengths[8 * r * C::kWidthStride];
    return;
  }
  compute_strip<C>(block, block.place_of(tile), strip, features);
  store_shared(strip.gibbs, C::kRefsStride, block.gibbs(tile));
  if (is_kept && quarter_of_thread() == 0)
    for (int r = 0; r < 2; ++r) lengths[8 * r * C::kWidthStride] = strip.lengths[r];
  if (is_first) {
    unsigned bits = __float_as_uint(fmaxf(strip.lengths[0], strip.lengths[1]));
#pragma unroll
    for (int mask = 4; mask < 32; mask *= 2)
      bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, mask));
    if (lane_index() == 0) atomicMax(block.call.unit + block.slot, bits);
  }
}

// What belongs to the thread's two tokens.
struct RowScales {
  float a[2];      // N a; 0 for tokens that do not exist
  float share[2];  // N times the row sums of W, at most 1
};

// N a after a b of which the thread has its quarter.
template <typename C>
__device__ __forceinline__ float row_scaling(const Strip<C>& strip, int r,
                                             const Place& place,
                                             const float (&b)[C::kRefs / 4]) {
  float sum = 0;
#pragma unroll
  for (int e = 0; e < C::kRefs / 4; ++e) sum += strip.gibbs.v[r][e] * b[e];
  sum = sum_of_row(sum);
  return place.exists(r) ? 1 / sum : 0.0f;
}

// Rows of W over their sums, P, whose other factor is share / N; 0 for tokens that do
// not exist.
template <typename C>
__device__ __forceinline__ RowScales weigh(const Block<C>& block, const Place& place,
                                           const Strip<C>& strip,
                                           const float (&b)[C::kRefs / 4],
                                           Rows<C::kRefs>& rows) {
  constexpr int M = C::kRefs, own = M / 4;
  const Call& call = block.call;
  const Fields& fields = call.problem.fields;
  RowScales scales;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float plain = 0;
#pragma unroll
    for (int e = 0; e < own; ++e) {
      rows.v[r][e] = strip.gibbs.v[r][e] * b[e];
      plain += rows.v[r][e];
    }
    const int token = min(place.token(r), place.end - 1);
    if (call.is_image()) {
      const int width = int(fields.width);
      float factors[own];
      load_quarter<M>(call.row_factors + token / width * M, factors);
#pragma unroll
      for (int e = 0; e < own; ++e) rows.v[r][e] *= factors[e];
      load_quarter<M>(call.col_factors + token % width * M, factors);
#pragma unroll
      for (int e = 0; e < own; ++e) rows.v[r][e] *= factors[e];
    } else if (call.inv_tau > 0) {
      // A sequence, whose position i of n is (i + 1) / n.
      const float position = float(token + 1) / float(call.tokens());
      const float step = 1 / float(call.references());
      const int first = quarter_of_thread() * own;
#pragma unroll
      for (int e = 0; e < own; ++e) {
        const float gap = (position - float(first + e + 1) * step) * call.inv_tau;
        rows.v[r][e] *= exp_of<C>(-gap * gap);
      }
    }
    plain = sum_of_row(plain);
    const float sum = sum_of(rows, r);
    const bool exists = place.exists(r);
    scales.a[r] = exists ? 1 / plain : 0.0f;
    scales.share[r] = exists ? sum / plain : 0.0f;
    const float by_sum = exists ? 1 / sum : 0.0f;
    scale_row(rows, r, by_sum);
  }
  return scales;
}

// 16 tokens of one warp: their features, their rows of the Gibbs kernels, their
// weights. All of these lie in shared memory as well, because registers are scarce; a
// thread reads there what it wrote itself.
#pragma once

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

// Lengths and features F = k(x, z) of a tile. With w = u - c, the differences of
// directions u from the mean c of the anchors, and anchors z = c + e, their exponents
// are
//   alpha (u z - 1) = alpha ((c c - 1 + w c) + c e + w e),
// and the rounding errors that matter, those that are not the same for all anchors, are
// of the size of w e: small where anchors lie close together and k(z, z)^-1 amplifies
// errors.
template <typename C>
__device__ __forceinline__ void compute_features(const Block<C>& block, int tile) {
  constexpr int K = C::kWidth;
  const Call& call = block.call;
  Rows<K> u, features;  // u becomes w
  float lengths[2];
  load_units<C>(block, block.place_of(tile), u, lengths);
  float mean[K / 4], by_mean[K / 4], common[2];
  load_quarter<K>(call.mean + block.head() * K, mean);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    block.length(tile, r) = lengths[r];
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
  store_shared(features, C::kWidthStride, block.features(tile));
}

// Sees to it that lengths and features of a tile are there: computes them, if it is not
// a later phase of a launch that keeps them. The first phase finds the largest length.
template <typename C>
__device__ __forceinline__ void look_at(const Block<C>& block, int tile,
                                        bool is_first) {
  if (block.call.cut.fused && !is_first) return;
  compute_features(block, tile);
  if (is_first) {
    unsigned bits =
        __float_as_uint(fmaxf(block.length(tile, 0), block.length(tile, 1)));
#pragma unroll
    for (int mask = 4; mask < 32; mask *= 2)
      bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, mask));
    if (lane_index() == 0) atomicMax(block.call.unit + block.slot, bits);
  }
}

// F less its value for orthogonal directions: what values and, but for a constant of
// each reference, scores are made of.
template <typename C>
__device__ __forceinline__ void load_centred(const Block<C>& block, int tile,
                                             Rows<C::kWidth>& features) {
  load_shared(block.features(tile), C::kWidthStride, features);
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int e = 0; e < C::kWidth / 4; ++e) features.v[r][e] -= block.call.centre;
}

// Scores less their row's largest, S - r. Those of references that do not exist are too
// small to count, by their offset.
template <typename C>
__device__ __forceinline__ void compute_scores(const Block<C>& block, int tile, int set,
                                               Rows<C::kRefs>& scores) {
  constexpr int K = C::kWidth, M = C::kRefs;
  const int map = block.head() * kSets + set;
  Rows<K> features;
  load_centred(block, tile, features);
  load_quarter<M>(block.call.score_offsets + map * M, scores.v[0]);
  load_quarter<M>(block.call.score_offsets + map * M, scores.v[1]);
  multiply<C::kFine, C::kFine>(features, block.call.score_maps + map * K * M, scores);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float peak = scores.v[r][0];
#pragma unroll
    for (int e = 1; e < M / 4; ++e) peak = fmaxf(peak, scores.v[r][e]);
    peak = max_of_row(peak);
#pragma unroll
    for (int e = 0; e < M / 4; ++e) scores.v[r][e] -= peak;
  }
}

// What earlier phases of a launch have left of a set in the place of its E. One that is
// not fused starts anew each time.
enum class Kept { kNothing, kScores, kGibbs };

// The Gibbs kernel E of a set; 0 for tokens that do not exist.
template <typename C>
__device__ __forceinline__ void load_gibbs(const Block<C>& block, int tile, int set,
                                           Kept kept, Rows<C::kRefs>& gibbs) {
  constexpr int M = C::kRefs;
  if (!block.call.cut.fused) kept = Kept::kNothing;
  if (kept == Kept::kNothing)
    compute_scores(block, tile, set, gibbs);
  else
    load_shared(block.gibbs(tile, set), C::kSetsStride, gibbs);
  if (kept == Kept::kGibbs) return;
  float peaks[M / 4];
  block.load_saved(0, set, peaks);
  const Place place = block.place_of(tile);
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int e = 0; e < M / 4; ++e)
      gibbs.v[r][e] =
          place.exists(r)
              ? lifted_exp<C>((gibbs.v[r][e] - peaks[e]) * block.call.inv_epsilon)
              : 0.0f;
  store_shared(gibbs, C::kSetsStride, block.gibbs(tile, set));
}

// N a after a b of which the thread has its quarter; 0 for a token that does not exist.
template <int m>
__device__ __forceinline__ float row_scaling(const Rows<m>& gibbs, int r,
                                             const Place& place,
                                             const float (&b)[m / 4]) {
  const float sum = dot_of_row(gibbs, r, b);
  return place.exists(r) ? 1 / sum : 0.0f;
}

// Multiplies rows by the position weights Pi.
template <typename C>
__device__ __forceinline__ void weigh_positions(const Block<C>& block,
                                                const Place& place,
                                                Rows<C::kRefs>& rows) {
  constexpr int M = C::kRefs, own = M / 4;
  const Call& call = block.call;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int token = min(place.token(r), place.end - 1);
    if (call.is_image()) {
      const Fields& fields = call.problem.fields;
      const int64_t table = call.num_tables() == 1 ? 0 : block.image();
      float factors[own];
      const int64_t row = table * fields.height + token / block.width;
      load_quarter<M>(call.row_factors + row * M, factors);
#pragma unroll
      for (int e = 0; e < own; ++e) rows.v[r][e] *= factors[e];
      const int64_t col = table * fields.width + token % block.width;
      load_quarter<M>(call.col_factors + col * M, factors);
#pragma unroll
      for (int e = 0; e < own; ++e) rows.v[r][e] *= factors[e];
    } else if (call.inv_tau > 0) {
      // A sequence, whose position i of n is (i + 1) / n.
      const float position = float(token + 1) / float(block.tokens);
      const float step = 1 / float(call.references());
      const int first = quarter_of_thread() * own;
#pragma unroll
      for (int e = 0; e < own; ++e) {
        const float gap = (position - float(first + e + 1) * step) * call.inv_tau;
        rows.v[r][e] *= exp_of<C>(-gap * gap);
      }
    }
  }
}

// From E to the weights U = a E Pi of the way in, times N exp(kLift): they reach down
// to the smallest position weight, and are in range so. `scalings` is N a.
template <typename C>
__device__ __forceinline__ void weigh_in(const Block<C>& block, int tile,
                                         Rows<C::kRefs>& rows, float (&scalings)[2]) {
  const Place place = block.place_of(tile);
  float b[C::kRefs / 4];
  block.load_scaling(block.call.iters(), kIn, b);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    scalings[r] = row_scaling(rows, r, place, b);
    scale_row(rows, r, scalings[r] * kLifted);
  }
  weigh_positions(block, place, rows);
}

// From E to P, the weights W = E b Pi of the way back over their rows' sums; 0 for
// tokens that do not exist.
template <typename C>
__device__ __forceinline__ void weigh_back(const Block<C>& block, int tile,
                                           Rows<C::kRefs>& rows) {
  const Place place = block.place_of(tile);
  float b[C::kRefs / 4];
  block.load_scaling(block.call.iters(), kBack, b);
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int e = 0; e < C::kRefs / 4; ++e) rows.v[r][e] *= b[e];
  weigh_positions(block, place, rows);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = sum_of(rows, r);
    scale_row(rows, r, place.exists(r) ? 1 / sum : 0.0f);
  }
}

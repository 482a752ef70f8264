// From the folded parameters to what the passes read, and from what the backward pass
// leaves to the gradients of the parameters.
#pragma once

constexpr int kTableBlocks = 8;

// Position factors, and counters at 0, by the first of kTableBlocks blocks.
template <typename C>
__device__ inline void prepare_tables(const Call& call, int64_t block) {
  constexpr int M = C::kRefs;
  const int64_t thread = block * kThreads + threadIdx.x;
  const int64_t stride = kTableBlocks * kThreads;
  const int64_t slots = call.problem.sizes.batch * call.problem.sizes.heads;
  for (int64_t i = thread; i < slots * (kGroup + 1); i += stride) call.arrivals[i] = 0;
  for (int64_t i = thread; i < slots; i += stride) call.unit[i] = 0;
  if (!call.is_image()) return;
  const Fields& fields = call.problem.fields;
  const auto fill_factors = [&](int64_t size, int64_t reference_count, bool is_row,
                                float* factors) {
    for (int64_t i = thread; i < call.num_tables() * size * M; i += stride) {
      const int64_t position = i / M % size, j = i % M;
      const Region region = call.region_of(i / M / size);
      const int64_t count = is_row ? region.height : region.width;
      const int64_t reference =
          is_row ? j / fields.reference_width : j % fields.reference_width;
      const double gap =
          ((position + 0.5) / count - (reference + 0.5) / reference_count) / fields.tau;
      factors[i] = position < count ? float(exp(-gap * gap)) : 0.0f;
    }
  };
  fill_factors(fields.height, fields.reference_height, true, call.row_factors);
  fill_factors(fields.width, fields.reference_width, false, call.col_factors);
}

// Operands of a head.
template <typename C>
__device__ inline void prepare_head(const Call& call, int64_t head, bool is_backward) {
  constexpr int K = C::kWidth, M = C::kRefs;
  const Sizes& sizes = call.problem.sizes;
  const Maps& maps = call.problem.maps;
  const int m = int(sizes.references), k = int(sizes.anchors), d = int(sizes.dim);
  const Padded<double> z{maps.anchors + head * k * d, k, d, d};
  float* const mean = call.mean + head * K;
  for (int c = threadIdx.x; c < K; c += kThreads) {
    double sum = 0;
    for (int i = 0; i < k; ++i) sum += z(i, c);
    mean[c] = float(sum / k);
  }
  __syncthreads();
  const auto difference = [&](int anchor, int c) {
    return anchor < k && c < d ? z(anchor, c) - double(mean[c]) : 0.0;
  };
  for (int i = threadIdx.x; i < K; i += kThreads) {
    double product = 0;
    for (int c = 0; c < d; ++c) product += difference(i, c) * double(mean[c]);
    call.differences_by_mean[head * K + i] = float(product);
  }
  for (int i = threadIdx.x; i < K * K; i += kThreads) {
    const int row = i / K, col = i % K;
    call.differences[head * K * K + operand_index<K, K>(row, col)] =
        float(difference(col, row));
    if (is_backward)
      call.anchors_n[head * K * K + operand_index<K, K>(row, col)] = float(z(row, col));
  }
  for (int set = 0; set < kSets; ++set) {
    const int64_t map = head * kSets + set;
    const Padded<double> g{maps.score_maps + (head * k * kSets + set) * m, k, m,
                           kSets * m};
    for (int i = threadIdx.x; i < K * M; i += kThreads) {
      const int row = i / M, col = i % M;
      const float v = float(g(row, col));
      call.score_maps[map * K * M + operand_index<K, M>(row, col)] = v;
      if (is_backward)
        call.score_maps_t[map * K * M + operand_index<M, K>(col, row)] = v;
    }
    // Features are centred for the product with this map, whence what all tokens have
    // in common of their scores. What is no reference never scores best.
    for (int j = threadIdx.x; j < M; j += kThreads) {
      double sum = 0;
      for (int i = 0; i < k; ++i) sum += g(i, j);
      call.score_offsets[map * M + j] = j < m ? float(call.centre * sum) : -1e30f;
    }
  }
}

// What the forward pass left of a head of an image, for the backward pass.
template <typename C>
__device__ inline void prepare_slot(const Call& call, int64_t slot) {
  constexpr int K = C::kWidth, M = C::kRefs;
  using Sum = typename C::Sum;
  const int m = call.references(), k = call.anchors();
  const double* const saved = call.problem.saved.aggregates + slot * m * (k + 1);
  const Padded<double> aggregates{saved, m, k, k + 1};
  const Padded<double> value_map{
      call.problem.maps.value_map + slot % call.heads() * k * k, k, k, k};
  float* const mixed_t = call.mixed + slot * M * K;
  small_product<Sum>(
      M, K, k, [&](int j, int i) { return Sum(aggregates(j, i)); },
      [&](int i, int c) { return Sum(value_map(i, c)); },
      [&](int j, int c, Sum v) { mixed_t[operand_index<K, M>(c, j)] = float(v); });
  // Weights of the way in come times N exp(kLift); without tokens, nothing comes.
  const Region region = call.region_of(slot / call.heads());
  const double count = double(region.height * region.width);
  for (int j = threadIdx.x; j < M; j += kThreads)
    call.by_column_sums[slot * M + j] =
        j < m && count > 0 ? float(1 / (saved[j * (k + 1) + k] * kLifted * count))
                           : 0.0f;
}

// By blocks of their own: operands of heads, tables and, for the backward pass, slots.
template <typename C>
__device__ inline void prepare(const Call& call, bool is_backward) {
  const int64_t block = blockIdx.x, tables = call.heads(),
                slots = tables + kTableBlocks;
  if (block < tables)
    prepare_head<C>(call, block, is_backward);
  else if (block < slots)
    prepare_tables<C>(call, block - tables);
  else
    prepare_slot<C>(call, block - slots);
}

// Gradients of the maps of a head: sums over its images and their chunks, in order.
template <typename C>
__device__ inline void reduce_map_grads(const Call& call, const Maps& grads) {
  constexpr int K = C::kWidth, M = C::kRefs, kScores = K * kSets * M;
  const int head = int(blockIdx.y);
  const int m = call.references(), k = call.anchors(), d = call.dim();
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  double* to = nullptr;
  if (i < kScores) {
    const int row = i / M, j = i % M;  // a row of a set
    if (row < kSets * k && j < m)
      to = grads.score_maps + (head * kSets * k + row) * m + j;
  } else {
    const bool is_anchor = i < C::kMapSums;
    const int at = i - (is_anchor ? kScores : C::kMapSums), cols = is_anchor ? d : k;
    double* const map = is_anchor ? grads.anchors : grads.value_map;
    if (at / K < k && at % K < cols) to = map + (head * k + at / K) * cols + at % K;
  }
  if (to == nullptr) return;
  double total = 0;
  for (int image = 0; image < call.problem.sizes.batch; ++image) {
    const int64_t slot = int64_t(image) * call.heads() + head;
    double sum = 0;
    if (i < C::kMapSums) {
      const float* const from =
          call.map_grads + slot * call.cut.num_chunks * C::kMapSums + i;
#pragma unroll 4
      for (int chunk = 0; chunk < call.cut.num_chunks; ++chunk)
        sum += from[chunk * int64_t(C::kMapSums)];
    } else {
      sum = call.value_map_grads[slot * K * K + i - C::kMapSums];
    }
    total += fmaxf(__uint_as_float(call.unit[slot]), call.norm_floor) * sum;
  }
  *to = total;
}

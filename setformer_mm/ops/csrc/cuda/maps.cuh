// From the folded parameters to what the passes read, and from what the backward pass
// leaves to the gradients of the parameters.
#pragma once

constexpr int kTableBlocks = 8;

// Blocks [0, h): operands of a head. The rest: position factors, and counters at 0.
template <typename C>
__device__ inline void prepare(const Call& call, bool is_backward) {
  constexpr int K = C::kWidth, M = C::kRefs;
  const Sizes& sizes = call.problem.sizes;
  const int64_t head = blockIdx.x;
  if (head >= sizes.heads) {
    const int64_t thread = (head - sizes.heads) * kThreads + threadIdx.x;
    const int64_t stride = kTableBlocks * kThreads;
    const int64_t slots = sizes.batch * sizes.heads;
    for (int64_t i = thread; i < slots * (kGroup + 1); i += stride)
      call.arrivals[i] = 0;
    for (int64_t i = thread; i < slots; i += stride) call.unit[i] = 0;
    if (!call.is_image()) return;
    const Fields& fields = call.problem.fields;
    const auto fill_factors = [&](int64_t count, int64_t reference_count, bool is_row,
                                  float* factors) {
      for (int64_t i = thread; i < count * M; i += stride) {
        const int64_t position = i / M, j = i % M;
        const int64_t reference =
            is_row ? j / fields.reference_width : j % fields.reference_width;
        const double gap =
            ((position + 0.5) / count - (reference + 0.5) / reference_count) /
            fields.tau;
        factors[i] = float(exp(-gap * gap));
      }
    };
    fill_factors(fields.height, fields.reference_height, true, call.row_factors);
    fill_factors(fields.width, fields.reference_width, false, call.col_factors);
    return;
  }
  const Maps& maps = call.problem.maps;
  const int m = int(sizes.references), k = int(sizes.anchors), d = int(sizes.dim);
  const Padded<double> z{maps.anchors + head * k * d, k, d, d};
  const Padded<double> g{maps.score_map + head * k * m, k, m, m};
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
  for (int i = threadIdx.x; i < K * M; i += kThreads) {
    const int row = i / M, col = i % M;
    const float v = float(g(row, col));
    call.score_map[head * K * M + operand_index<K, M>(row, col)] = v;
    if (is_backward) call.score_map_t[head * K * M + operand_index<M, K>(col, row)] = v;
  }
}

// Gradients of the maps of a head: sums over its images and their chunks, in order.
template <typename C>
__device__ inline void reduce_map_grads(const Call& call, const Maps& grads) {
  constexpr int K = C::kWidth, M = C::kRefs;
  const Sizes& sizes = call.problem.sizes;
  const int64_t head = blockIdx.y;
  const int m = int(sizes.references), k = int(sizes.anchors), d = int(sizes.dim);
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (i >= C::kMapSums + K * K) return;
  const bool is_score = i < K * M, is_anchor = !is_score && i < C::kMapSums;
  const int at = is_score ? i : is_anchor ? i - K * M : i - C::kMapSums;
  const int cols = is_score ? M : K;
  const int row = at / cols, col = at % cols;
  if (row >= k || col >= (is_score ? m : is_anchor ? d : k)) return;
  double total = 0;
  for (int64_t image = 0; image < sizes.batch; ++image) {
    const int64_t slot = image * sizes.heads + head;
    const float unit = fmaxf(__uint_as_float(call.unit[slot]), call.norm_floor);
    double sum = 0;
    if (is_score || is_anchor) {
      const float* const from =
          call.map_grads + slot * call.cut.num_chunks * C::kMapSums;
#pragma unroll 4
      for (int chunk = 0; chunk < call.cut.num_chunks; ++chunk)
        sum += from[chunk * int64_t(C::kMapSums) + i];
    } else {
      sum = call.value_map_grads[slot * K * K + at];
    }
    total += unit * sum;
  }
  if (is_score)
    grads.score_map[(head * k + row) * m + col] = total;
  else if (is_anchor)
    grads.anchors[(head * k + row) * d + col] = total;
  else
    grads.value_map[(head * k + row) * k + col] = total;
}

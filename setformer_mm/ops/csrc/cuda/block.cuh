// One block: its chunk of tokens of one head of one image, its shared memory, and how
// the blocks of a head add up what they have found.
#pragma once

template <typename C>
struct Block {
  using Sum = typename C::Sum;

  static constexpr int kStage = kTile * C::kWidthStride;  // of a tile of rows of K

  const Call& call;
  const bool is_backward;
  const int chunk, slot;
  const int begin, end;  // tokens

  __device__ __forceinline__ Block(const Call& any_call, bool backward)
      : call(any_call),
        is_backward(backward),
        chunk(int(blockIdx.x) % any_call.cut.num_chunks),
        slot(int(blockIdx.x) / any_call.cut.num_chunks),
        begin(chunk * any_call.cut.chunk_tokens),
        end(min(begin + any_call.cut.chunk_tokens, any_call.tokens())) {}

  // Shared memory: one number, a row of M for each warp, tiles, what is staged of one
  // tile in the backward pass, and totals. Where nothing is kept, the Gibbs kernel's
  // place is staged in, and totals take the place of all tiles when these are done.
  __device__ __forceinline__ int* flag() const {
    return reinterpret_cast<int*>(shared_memory());
  }
  __device__ __forceinline__ float* columns() const { return shared_memory() + 4; }
  __device__ __forceinline__ float* features(int tile) const {
    return columns() + kWarps * C::kRefs + (call.cut.fused ? tile : 0) * C::kTileSize;
  }
  __device__ __forceinline__ float* gibbs(int tile) const {
    return features(tile) + kStage;
  }
  __device__ __forceinline__ float* stage_width() const {
    return features(0) + call.cut.tiles * C::kTileSize;
  }
  __device__ __forceinline__ float* stage_refs() const {
    return call.cut.fused ? stage_width() + kStage : gibbs(0);
  }
  // Sums over all blocks, in the one that arrived last.
  __device__ __forceinline__ Sum* totals() const {
    float* const behind =
        stage_width() + (is_backward ? kStage + kTile * C::kRefsStride : 0);
    return reinterpret_cast<Sum*>(call.cut.fused ? behind : features(0));
  }

  // Bytes of shared memory of such blocks.
  static int64_t shared_bytes(int tiles, bool fused, bool is_backward) {
    const int64_t sums = is_backward ? C::kBackwardSums : C::kForwardSums;
    const int64_t totals = sums * int64_t(sizeof(Sum) / sizeof(float));
    const int64_t stage = !is_backward ? 0 : fused ? C::kTileSize : kStage;
    const int64_t work = tiles * int64_t(C::kTileSize) + stage;
    const int64_t all = fused ? work + totals : (work > totals ? work : totals);
    return (4 + kWarps * C::kRefs + all) * int64_t(sizeof(float));
  }

  __device__ __forceinline__ int image() const { return slot / call.heads(); }
  __device__ __forceinline__ int head() const { return slot % call.heads(); }
  __device__ __forceinline__ int num_tiles() const {
    return ceil_div(end - begin, kTile);
  }
  __device__ __forceinline__ float unit() const {
    return fmaxf(__uint_as_float(__ldcg(call.unit + slot)), call.norm_floor);
  }
  __device__ __forceinline__ Place place_of(int tile) const {
    return {image(), head(), begin + tile * kTile + 16 * warp_index(), end};
  }

  // The thread's quarter of b after t iterations.
  __device__ __forceinline__ void load_scaling(int t,
                                               float (&own)[C::kRefs / 4]) const {
    const int first = quarter_of_thread() * (C::kRefs / 4);
    const double* const b = call.problem.saved.scalings +
                            (int64_t(slot) * call.iters() + t - 1) * call.references() +
                            first;
#pragma unroll
    for (int e = 0; e < C::kRefs / 4; ++e) {
      own[e] = 0;
      if (first + e < call.references()) own[e] = t == 0 ? 1.0f : float(b[e]);
    }
  }

  // One of the chunk's sums, each of which one thread knows.
  __device__ __forceinline__ void emit(int num_sums, int i, float value) const {
    if (call.cut.num_chunks == 1)
      totals()[i] = value;
    else
      call.partials[int64_t(blockIdx.x) * num_sums + i] = value;
  }

  // Emits the sums of columns, of which each thread has its quarter for its own rows.
  __device__ __forceinline__ void emit_columns(float (&own)[C::kRefs / 4], int num_sums,
                                               int first) const {
#pragma unroll
    for (int e = 0; e < C::kRefs / 4; ++e)
#pragma unroll
      for (int mask = 4; mask < 32; mask *= 2)
        own[e] += __shfl_xor_sync(0xffffffffu, own[e], mask);
    if (row_of_thread() == 0)
      store_quarter<C::kRefs>(own, columns() + warp_index() * C::kRefs);
    __syncthreads();
    for (int j = threadIdx.x; j < C::kRefs; j += kThreads) {
      float sum = 0;
      for (int warp = 0; warp < kWarps; ++warp) sum += columns()[warp * C::kRefs + j];
      emit(num_sums, first + j, sum);
    }
    __syncthreads();
  }

  // Adds up what the blocks of the head have emitted, in an order that does not depend
  // on theirs. True in one block, which then has the totals; the others are not kept
  // waiting: see leave().
  __device__ __forceinline__ bool arrive(int num_sums) const {
    const int num_chunks = call.cut.num_chunks;
    const float* const partials = call.partials + int64_t(slot) * num_chunks * num_sums;
    if (num_chunks == 1) {
      __syncthreads();
      return true;
    }
    if (call.cut.fused) {
      cluster_barrier();
      if (chunk != 0) return false;
      add_up(partials, num_chunks, num_sums, totals());
      return true;
    }
    const int group = chunk / kGroup, num_groups = call.num_groups();
    const int size = group + 1 < num_groups ? kGroup : num_chunks - group * kGroup;
    unsigned* const arrivals = call.arrivals + int64_t(slot) * (kGroup + 1);
    if (!is_last(arrivals + group, size)) return false;
    double* const group_sums = call.group_sums + int64_t(slot) * num_groups * num_sums;
    add_up(partials + group * kGroup * num_sums, size, num_sums,
           group_sums + group * num_sums);
    if (!is_last(arrivals + kGroup, num_groups)) return false;
    add_up(group_sums, num_groups, num_sums, totals());
    return true;
  }

  // Before the next phase of the same launch, all wait for what one has done.
  __device__ __forceinline__ void leave() const {
    if (call.cut.num_chunks == 1)
      __syncthreads();
    else
      cluster_barrier();
  }

 private:
  // Sums of `count` rows.
  template <typename From, typename To>
  __device__ __forceinline__ void add_up(const From* rows, int count, int num_sums,
                                         To* to) const {
    for (int i = threadIdx.x; i < num_sums; i += kThreads) {
      double sum = 0;
#pragma unroll 8
      for (int row = 0; row < count; ++row) sum += __ldcg(rows + row * num_sums + i);
      to[i] = To(sum);
    }
    __syncthreads();
  }

  // Counts arrivals of blocks whose writes the last one sees; readies the counter for
  // the next count.
  __device__ __forceinline__ bool is_last(unsigned* counter, int count) const {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      *flag() = atomicAdd(counter, 1u) == unsigned(count - 1);
      if (*flag()) *counter = 0;
    }
    __syncthreads();
    const bool last = *flag();
    __syncthreads();
    if (last) __threadfence();
    return last;
  }
};

// One block: its chunk of tokens of one head of one image, its shared memory, and how
// the blocks of a head add up what they have found.
#pragma once

template <typename C>
struct Block {
  using Sum = typename C::Sum;

  const Call& call;
  int chunk;
  int64_t slot, image, head;
  int64_t begin, end;  // tokens
  int num_tiles;
  float* tiles;        // features and Gibbs kernel
  float* stage_refs;   // backward: a tile of rows of M, and one of K
  float* stage_width;
  float* columns;      // kWarps rows of M
  Sum* totals;         // of all blocks, in the one that arrived last
  int* flag;

  __device__ Block(const Call& any_call, bool is_backward)
      : call(any_call),
        chunk(int(blockIdx.x % unsigned(any_call.cut.num_chunks))),
        slot(blockIdx.x / unsigned(any_call.cut.num_chunks)),
        image(slot / any_call.problem.sizes.heads),
        head(slot % any_call.problem.sizes.heads),
        begin(chunk * any_call.cut.chunk_tokens) {
    const int64_t tokens = call.problem.sizes.tokens;
    end = begin + call.cut.chunk_tokens < tokens ? begin + call.cut.chunk_tokens
                                                 : tokens;
    num_tiles = int(ceil_div(end - begin, kTile));
    float* memory = shared_memory();
    flag = reinterpret_cast<int*>(memory);
    columns = memory + 4;
    tiles = columns + kWarps * C::kRefs;
    stage_width = tiles + call.cut.tiles * C::kTileSize;
    stage_refs = stage_width + kTile * C::kWidthStride;
    totals = reinterpret_cast<Sum*>(is_backward ? stage_refs + kTile * C::kRefsStride
                                                : stage_width);
    if (!call.cut.fused) {
      // Nothing is kept: the Gibbs kernel leaves its place to what is staged, and
      // totals follow when all tiles are done.
      stage_refs = gibbs(0);
      totals = reinterpret_cast<Sum*>(tiles);
    }
  }

  // Bytes of shared memory of such blocks.
  static int64_t shared_bytes(int tiles, bool fused, bool is_backward) {
    const int64_t sums = is_backward ? C::kBackwardSums : C::kForwardSums;
    const int64_t totals = sums * int64_t(sizeof(Sum) / sizeof(float));
    const int64_t stage = !is_backward ? 0
                          : fused      ? int64_t(C::kTileSize)
                                       : kTile * C::kWidthStride;
    const int64_t work = tiles * int64_t(C::kTileSize) + stage;
    const int64_t all = fused ? work + totals : (work > totals ? work : totals);
    return (4 + kWarps * C::kRefs + all) * int64_t(sizeof(float));
  }

  __device__ int64_t tokens() const { return call.problem.sizes.tokens; }
  __device__ int references() const { return int(call.problem.sizes.references); }
  __device__ int anchors() const { return int(call.problem.sizes.anchors); }
  __device__ int64_t iters() const { return call.problem.fields.num_iters; }
  __device__ float unit() const {
    return fmaxf(__uint_as_float(__ldcg(call.unit + slot)), call.norm_floor);
  }

  __device__ Place place_of(int tile) const {
    return {image, head, begin + tile * kTile + 16 * warp_index(), end};
  }

  // Where a tile is kept, or the only one that is at hand.
  __device__ float* features(int tile) const {
    return tiles + (call.cut.fused ? tile : 0) * C::kTileSize;
  }
  __device__ float* gibbs(int tile) const {
    return features(tile) + kTile * C::kWidthStride;
  }

  // The thread's quarter of b after t iterations.
  __device__ void load_scaling(int64_t t, float (&own)[C::kRefs / 4]) const {
    const int first = quarter_of_thread() * (C::kRefs / 4);
    const double* const b =
        call.problem.saved.scalings + (slot * iters() + t - 1) * references() + first;
#pragma unroll
    for (int e = 0; e < C::kRefs / 4; ++e) {
      own[e] = 0;
      if (first + e < references()) own[e] = t == 0 ? 1.0f : float(b[e]);
    }
  }

  // One of the chunk's sums, each of which one thread knows.
  __device__ void emit(int64_t num_sums, int64_t i, float value) const {
    if (call.cut.num_chunks == 1)
      totals[i] = value;
    else
      call.partials[(slot * call.cut.num_chunks + chunk) * num_sums + i] = value;
  }

  // Emits the sums of columns, of which each thread has its quarter for its own rows.
  __device__ void emit_columns(float (&own)[C::kRefs / 4], int64_t num_sums,
                               int64_t first) const {
#pragma unroll
    for (int e = 0; e < C::kRefs / 4; ++e)
#pragma unroll
      for (int mask = 4; mask < 32; mask *= 2)
        own[e] += __shfl_xor_sync(0xffffffffu, own[e], mask);
    if (row_of_thread() == 0)
      store_quarter<C::kRefs>(own, columns + warp_index() * C::kRefs);
    __syncthreads();
    for (int j = threadIdx.x; j < C::kRefs; j += kThreads) {
      float sum = 0;
      for (int warp = 0; warp < kWarps; ++warp) sum += columns[warp * C::kRefs + j];
      emit(num_sums, first + j, sum);
    }
    __syncthreads();
  }

  // Adds up what the blocks of the head have emitted, in an order that does not depend
  // on theirs. True in one block, which then has the totals; the others are not kept
  // waiting: see leave().
  __device__ bool arrive(int64_t num_sums) const {
    const int num_chunks = call.cut.num_chunks;
    const float* const partials = call.partials + slot * num_chunks * num_sums;
    if (num_chunks == 1) {
      __syncthreads();
      return true;
    }
    if (call.cut.fused) {
      cluster_barrier();
      if (chunk != 0) return false;
      add_up(partials, num_chunks, num_sums, totals);
      return true;
    }
    const int group = chunk / kGroup, num_groups = call.num_groups();
    const int size = group + 1 < num_groups ? kGroup : num_chunks - group * kGroup;
    unsigned* const arrivals = call.arrivals + slot * (kGroup + 1);
    if (!is_last(arrivals + group, size)) return false;
    double* const group_sums = call.group_sums + slot * num_groups * num_sums;
    add_up(partials + group * kGroup * num_sums, size, num_sums,
           group_sums + group * num_sums);
    if (!is_last(arrivals + kGroup, num_groups)) return false;
    add_up(group_sums, num_groups, num_sums, totals);
    return true;
  }

  // Before the next phase of the same launch, all wait for what one has done.
  __device__ void leave() const {
    if (call.cut.num_chunks == 1)
      __syncthreads();
    else
      cluster_barrier();
  }

 private:
  // Sums of `count` rows.
  template <typename From, typename To>
  __device__ void add_up(const From* rows, int count, int64_t num_sums, To* to) const {
    for (int64_t i = threadIdx.x; i < num_sums; i += kThreads) {
      double sum = 0;
#pragma unroll 8
      for (int row = 0; row < count; ++row) sum += __ldcg(rows + row * num_sums + i);
      to[i] = To(sum);
    }
    __syncthreads();
  }

  // Counts arrivals of blocks whose writes the last one sees; readies the counter for
  // the next count.
  __device__ bool is_last(unsigned* counter, int count) const {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      *flag = atomicAdd(counter, 1u) == unsigned(count - 1);
      if (*flag) *counter = 0;
    }
    __syncthreads();
    const bool last = *flag;
    __syncthreads();
    if (last) __threadfence();
    return last;
  }
};

// One block: its chunk of tokens of one head of one image, its shared memory, and how
// the blocks of a head reduce what they have found.
#pragma once

// How what is found of tokens is put together.
struct Add {
  static constexpr float kStart = 0;
  template <typename T>
  __device__ __forceinline__ static T apply(T a, T b) {
    return a + b;
  }
};
struct Max {
  static constexpr float kStart = -INFINITY;
  template <typename T>
  __device__ __forceinline__ static T apply(T a, T b) {
    return max(a, b);
  }
};

template <typename C>
struct Block {
  using Sum = typename C::Sum;

  static constexpr int M = C::kRefs;

  const Call& call;
  const int chunk, slot;
  const int width, tokens;  // of what is valid of the image
  const int begin, end;     // tokens of the chunk

  __device__ __forceinline__ explicit Block(const Call& any_call)
      : Block(any_call, int(blockIdx.x) / any_call.cut.num_chunks) {}

  // 1 / sum; 0 for a sum over no tokens at all.
  template <typename T>
  __device__ __forceinline__ static T inverse(T sum) {
    return sum == 0 ? T(0) : 1 / sum;
  }

  // Shared memory: one number, a row of both sets for each warp, the tiles that are
  // kept, and one in which to work if none is or to stage rows; when it is done, totals
  // take its place.
  __device__ __forceinline__ int* flag() const {
    return reinterpret_cast<int*>(shared_memory());
  }
  __device__ __forceinline__ float* columns() const { return shared_memory() + 4; }
  __device__ __forceinline__ float* features(int tile) const {
    return columns() + kWarps * kSets * M + (call.cut.fused ? tile : 0) * C::kTileSize;
  }
  __device__ __forceinline__ float* gibbs(int tile, int set = 0) const {
    return features(tile) + kTile * C::kWidthStride + set * M;
  }
  // Of the thread's two tokens, beside the features, where their rows are padded.
  __device__ __forceinline__ float& length(int tile, int r) const {
    const int row = 16 * warp_index() + row_of_thread() + 8 * r;
    return features(tile)[row * C::kWidthStride + C::kWidth + quarter_of_thread()];
  }
  // Sums over all blocks, in the one that arrived last.
  __device__ __forceinline__ Sum* totals() const {
    return reinterpret_cast<Sum*>(features(call.cut.tiles));
  }

  // Bytes of shared memory of such blocks.
  static int64_t shared_bytes(int tiles, bool has_stage) {
    const int64_t totals = C::kSums * int64_t(sizeof(Sum) / sizeof(float));
    const int64_t stage = has_stage ? C::kTileSize : 0;
    const int64_t last = stage > totals ? stage : totals;
    return (4 + kWarps * kSets * M + tiles * int64_t(C::kTileSize) + last) *
           int64_t(sizeof(float));
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
    const int first = begin + tile * kTile + 16 * warp_index();
    return {image(), head(), first, end, width, call.grid_width()};
  }

  // Row t of problem.saved.scalings for a set: c, or b after t iterations.
  __device__ __forceinline__ double* saved(int t, int set) const {
    const int64_t row = int64_t(slot) * (call.iters() + 1) + t;
    return call.problem.saved.scalings + (row * kSets + set) * call.references();
  }

  // The thread's quarter of it, 0 where there is no reference.
  __device__ __forceinline__ void load_saved(int t, int set,
                                             float (&own)[M / 4]) const {
    const int first = quarter_of_thread() * (M / 4);
    const double* const row = saved(t, set) + first;
#pragma unroll
    for (int e = 0; e < M / 4; ++e)
      own[e] = first + e < call.references() ? float(row[e]) : 0.0f;
  }

  // The thread's quarter of b after t iterations.
  __device__ __forceinline__ void load_scaling(int t, int set,
                                               float (&own)[M / 4]) const {
    load_saved(t, set, own);
#pragma unroll
    for (int e = 0; e < M / 4; ++e)
      if (t == 0) own[e] = exp_of<C>(own[e] * call.inv_epsilon);
  }

  // One of the chunk's sums, each of which one thread knows.
  __device__ __forceinline__ void emit(int num_sums, int i, float value) const {
    if (call.cut.num_chunks == 1)
      totals()[i] = value;
    else
      call.partials[int64_t(blockIdx.x) * num_sums + i] = value;
  }

  // Emits what `Reduce` makes of columns, of which each thread has its quarter for its
  // own rows, of one set or of both.
  template <typename Reduce, int sets>
  __device__ __forceinline__ void emit_columns(float (&own)[sets][M / 4], int num_sums,
                                               int first) const {
#pragma unroll
    for (int set = 0; set < sets; ++set) {
#pragma unroll
      for (int e = 0; e < M / 4; ++e)
#pragma unroll
        for (int mask = 4; mask < 32; mask *= 2)
          own[set][e] = Reduce::apply(own[set][e],
                                      __shfl_xor_sync(0xffffffffu, own[set][e], mask));
      if (row_of_thread() == 0)
        store_quarter<M>(own[set], columns() + (warp_index() * kSets + set) * M);
    }
    __syncthreads();
    for (int j = threadIdx.x; j < sets * M; j += kThreads) {
      float found = Reduce::kStart;
      for (int warp = 0; warp < kWarps; ++warp)
        found = Reduce::apply(found, columns()[warp * kSets * M + j]);
      emit(num_sums, first + j, found);
    }
    __syncthreads();
  }

  // Reduces what the blocks of the head have emitted, in an order that does not depend
  // on theirs. True in one block, which then has the totals; the others are not kept
  // waiting: see leave().
  template <typename Reduce = Add>
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
      reduce<Reduce>(partials, num_chunks, num_sums, totals());
      return true;
    }
    const int group = chunk / kGroup, num_groups = call.num_groups();
    const int size = group + 1 < num_groups ? kGroup : num_chunks - group * kGroup;
    unsigned* const arrivals = call.arrivals + int64_t(slot) * (kGroup + 1);
    if (!is_last(arrivals + group, size)) return false;
    double* const group_sums = call.group_sums + int64_t(slot) * num_groups * num_sums;
    reduce<Reduce>(partials + group * kGroup * num_sums, size, num_sums,
                   group_sums + group * num_sums);
    if (!is_last(arrivals + kGroup, num_groups)) return false;
    reduce<Reduce>(group_sums, num_groups, num_sums, totals());
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
  __device__ __forceinline__ Block(const Call& any_call, int any_slot)
      : Block(any_call, any_slot, any_call.region_of(any_slot / any_call.heads())) {}

  __device__ __forceinline__ Block(const Call& any_call, int any_slot,
                                   const Region& region)
      : call(any_call),
        chunk(int(blockIdx.x) % any_call.cut.num_chunks),
        slot(any_slot),
        width(int(region.width)),
        tokens(int(region.height * region.width)),
        begin(chunk * chunk_tokens()),
        end(min(begin + chunk_tokens(), tokens)) {}

  // What is valid is shared out among all chunks.
  __device__ __forceinline__ int chunk_tokens() const {
    if (call.problem.valid == nullptr) return call.cut.chunk_tokens;
    return ceil_div(ceil_div(tokens, kTile), call.cut.num_chunks) * kTile;
  }

  template <typename Reduce, typename From, typename To>
  __device__ __forceinline__ void reduce(const From* rows, int count, int num_sums,
                                         To* to) const {
    for (int i = threadIdx.x; i < num_sums; i += kThreads) {
      double found = Reduce::kStart;
#pragma unroll 8
      for (int row = 0; row < count; ++row)
        found = Reduce::apply(found, double(__ldcg(rows + row * num_sums + i)));
      to[i] = To(found);
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

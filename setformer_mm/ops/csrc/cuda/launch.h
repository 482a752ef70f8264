// The passes on the host: how heads are cut, where things lie in the workspace, which
// kernels are launched. To be included after the platform.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "kernels.h"

namespace setformer_mm {
namespace cuda {
namespace {

#include "call.cuh"
#include "rows.cuh"
#include "block.cuh"
#include "strip.cuh"
#include "products.cuh"
#include "forward.cuh"
#include "backward.cuh"
#include "maps.cuh"

template <typename C>
__global__ void __launch_bounds__(kThreads)
    prepare_kernel(const Call call, bool is_backward) {
  prepare<C>(call, is_backward);
}

template <typename C>
__global__ void __launch_bounds__(kThreads)
    reduce_kernel(const Call call, const Maps grads) {
  reduce_map_grads<C>(call, grads);
}

// Phases [first, last) of a pass; more than one only if the blocks of a head can wait
// for each other.
template <typename Pass>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    pass_kernel(const Call call, int first, int last) {
  Pass pass(call);
  for (int phase = first; phase < last; ++phase) {
    pass.run(phase);
    if (phase + 1 < last) pass.block.leave();
  }
}

template <typename C>
Cut cut_of(const Problem& problem, bool is_backward) {
  using B = Block<C>;
  const Device device = current_device();
  const int tokens = int(problem.sizes.tokens), tiles = ceil_div(tokens, kTile);
  for (int blocks = 1; blocks <= (device.has_clusters ? kMaxCluster : 1); ++blocks) {
    const int kept = ceil_div(tiles, blocks);
    const int64_t bytes = B::shared_bytes(kept, /*has_stage=*/is_backward);
    if (bytes <= device.shared_bytes)
      return {kept * kTile, ceil_div(tiles, kept), true, kept, bytes};
  }
  const int chunk = std::max(kMinChunk, ceil_div(tiles, kMaxChunks) * kTile);
  return {chunk, ceil_div(tokens, chunk), false, 0,
          B::shared_bytes(0, /*has_stage=*/true)};
}

// Rows whose first elements and lengths are multiples of 16 bytes.
bool is_aligned(const Tokens& tokens, Scalar scalar) {
  const int64_t size = scalar == Scalar::kFloat ? 4 : 2;
  const auto strides = (tokens.batch_stride | tokens.token_stride | tokens.head_stride);
  return strides * size % 16 == 0 && reinterpret_cast<uintptr_t>(tokens.data) % 16 == 0;
}

template <typename C>
Call call_of(const Problem& problem, const Tokens& in, const Tokens& out,
             bool is_backward, Arena& arena) {
  constexpr int64_t K = C::kWidth, M = C::kRefs;
  const Sizes& sizes = problem.sizes;
  const Fields& fields = problem.fields;
  Call call{};
  call.problem = problem;
  call.in = in;
  call.out = out;
  call.x_aligned = is_aligned(problem.x, problem.scalar);
  call.in_aligned = is_aligned(in, problem.scalar);
  call.out_aligned = is_aligned(out, problem.scalar);
  call.cut = cut_of<C>(problem, is_backward);
  call.alpha = float(fields.alpha);
  call.inv_epsilon = float(1 / fields.epsilon);
  call.inv_tau = fields.tau > 0 ? float(1 / fields.tau) : 0.0f;
  call.centre = float(std::exp(-fields.alpha));
  // The smallest normal number of float16; see norm_floor in kernel.py.
  call.norm_floor = problem.scalar == Scalar::kHalf ? 0x1p-14f : 1e-30f;

  const int64_t slots = sizes.batch * sizes.heads, chunks = call.cut.num_chunks;
  call.differences = arena.take<float>(sizes.heads * K * K);
  call.mean = arena.take<float>(sizes.heads * K);
  call.differences_by_mean = arena.take<float>(sizes.heads * K);
  call.score_maps = arena.take<float>(sizes.heads * kSets * K * M);
  call.score_offsets = arena.take<float>(sizes.heads * kSets * M);
  call.row_factors = arena.take<float>(call.num_tables() * fields.height * M);
  call.col_factors = arena.take<float>(call.num_tables() * fields.width * M);
  call.arrivals = arena.take<unsigned>(slots * (kGroup + 1));
  call.unit = arena.take<unsigned>(slots);
  call.mixed = arena.take<float>(slots * M * K);
  if (chunks > 1) {
    call.partials = arena.take<float>(slots * chunks * C::kSums);
    call.group_sums = arena.take<double>(slots * call.num_groups() * C::kSums);
  }
  if (is_backward) {
    call.anchors_n = arena.take<float>(sizes.heads * K * K);
    call.score_maps_t = arena.take<float>(sizes.heads * kSets * K * M);
    call.flows = arena.take<float>(slots * (fields.num_iters + 1) * kSets * M);
    call.aggregate_grads = arena.take<float>(slots * M * K);
    call.aggregate_grads_t = arena.take<float>(slots * M * K);
    call.offsets = arena.take<float>(slots * M);
    call.by_column_sums = arena.take<float>(slots * M);
    call.value_map_grads = arena.take<double>(slots * K * K);
    call.map_grads = arena.take<float>(slots * chunks * C::kMapSums);
  }
  return call;
}

// The passes of all heads of all images, phase by phase or all at once.
template <typename C, typename Pass>
void run_phases(const Call& call, bool is_backward, Stream stream) {
  const Sizes& sizes = call.problem.sizes;
  const int64_t slots = sizes.batch * sizes.heads;
  const int64_t prepared = sizes.heads + kTableBlocks + (is_backward ? slots : 0);
  launch(prepare_kernel<C>, dim3(unsigned(prepared)), kThreads, 1, 0, stream, call,
         is_backward);
  const dim3 grid(unsigned(slots * call.cut.num_chunks));
  const int phases = Pass::num_phases(call.iters());
  const int at_once = call.cut.fused ? phases : 1;
  const int cluster = call.cut.fused ? call.cut.num_chunks : 1;
  for (int phase = 0; phase < phases; phase += at_once)
    launch(pass_kernel<Pass>, grid, kThreads, cluster, call.cut.shared_bytes, stream,
           call, phase, phase + at_once);
}

template <typename C>
size_t workspace(const Problem& problem, bool is_backward) {
  Arena arena(nullptr);
  call_of<C>(problem, problem.x, problem.x, is_backward, arena);
  return arena.used();
}

template <typename C>
void forward_in(const Problem& problem, const Tokens& out, void* memory, void* stream) {
  if (problem.sizes.batch == 0) return;
  Arena arena(memory);
  const Call call = call_of<C>(problem, out, out, false, arena);
  run_phases<C, Forward<C>>(call, false, static_cast<Stream>(stream));
}

template <typename C>
void backward_in(const Problem& problem, const Tokens& grad_out, const Tokens& grad_x,
                 const Maps& grad_maps, void* memory, void* stream) {
  Arena arena(memory);
  const Call call = call_of<C>(problem, grad_out, grad_x, true, arena);
  if (problem.sizes.batch > 0)
    run_phases<C, Backward<C>>(call, true, static_cast<Stream>(stream));
  const int elements = C::kMapSums + C::kWidth * C::kWidth;
  const dim3 grid(unsigned(ceil_div(elements, kThreads)), unsigned(call.heads()));
  launch(reduce_kernel<C>, grid, kThreads, 1, 0, static_cast<Stream>(stream), call,
         grad_maps);
}

template <typename C>
constexpr Kernels kernels_of() {
  return {workspace<C>, forward_in<C>, backward_in<C>};
}

}  // namespace
}  // namespace cuda
}  // namespace setformer_mm

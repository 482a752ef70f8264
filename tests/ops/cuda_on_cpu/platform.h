// Stands in for setformer_mm/ops/csrc/cuda/platform.cuh, so that a C++ compiler
// can compile the CUDA kernels and a CPU run them: every thread of a block, and
// of a cluster's blocks, is a fiber that runs on its own until it has to wait
// for others.
//
// What goes wrong here would go wrong on a GPU: shared memory begins as NaN;
// warps take turns in a random order and each runs as far as it can, so that
// what a missing barrier leaves unordered happens in the wrong order; threads
// of a warp that do not meet in the same collective, or a barrier that some
// never reach, are errors.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}

namespace cuda_on_cpu {

// What a thread waits for: that all `size` members of a group have come.
struct Meeting {
  int size = 0, arrived = 0;
  unsigned generation = 0;
};

enum class Collective { kNone, kShuffle, kMultiply };

struct Warp {
  Meeting meeting;
  Collective kind = Collective::kNone;
  int mask = 0;
  unsigned shuffle_in[32], shuffle_out[32];
  float a[32][4], b[32][2], acc[32][4];
};

struct BlockState {
  dim3 index;
  Meeting barrier;
  Meeting* cluster_barrier;
  std::vector<float4> shared;
  std::vector<Warp> warps;
};

struct Fiber {
  dim3 thread;
  BlockState* block;
  Warp* warp;
  int lane;
  const Meeting* waits_for = nullptr;
  unsigned waits_since = 0;
  bool has_begun = false, is_done = false;
  ucontext_t context;
  jmp_buf resume;
  std::unique_ptr<char[]> stack;

  bool can_run() const {
    return !is_done && (waits_for == nullptr || waits_for->generation != waits_since);
  }
};

struct State {
  std::mt19937 random;
  int64_t shared_bytes = 227 << 10;
  bool has_clusters = true;
  Fiber* current = nullptr;
  dim3 grid, block;
  jmp_buf scheduler;
  std::string error;
  void (*entry)(void*) = nullptr;
  void* entry_arguments = nullptr;
  std::vector<std::unique_ptr<char[]>> free_stacks;
};

inline State state;

constexpr size_t kStackBytes = 256 << 10;

[[noreturn]] inline void leave_fiber() { _longjmp(state.scheduler, 1); }

[[noreturn]] inline void fail(const std::string& what) {
  if (state.error.empty()) state.error = what;
  state.current->is_done = true;
  leave_fiber();
}

inline void run_entry() {
  state.entry(state.entry_arguments);
  state.current->is_done = true;
  leave_fiber();
}

inline void run_until_it_waits(Fiber& fiber) {
  state.current = &fiber;
  if (_setjmp(state.scheduler) != 0) return;
  if (fiber.has_begun) _longjmp(fiber.resume, 1);
  fiber.has_begun = true;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, run_entry, 0);
  setcontext(&fiber.context);
}

// Comes to a meeting; the last one does `work` and all go on.
template <typename Work>
void meet(Meeting& meeting, const Work& work) {
  Fiber& fiber = *state.current;
  if (++meeting.arrived == meeting.size) {
    work();
    meeting.arrived = 0;
    ++meeting.generation;
    return;
  }
  fiber.waits_for = &meeting;
  fiber.waits_since = meeting.generation;
  if (_setjmp(fiber.resume) == 0) leave_fiber();
  fiber.waits_for = nullptr;
}

// All lanes of the warp must come with the same collective.
template <typename Work>
void meet_in_warp(Collective kind, int mask, const Work& work) {
  Warp& warp = *state.current->warp;
  if (warp.meeting.arrived == 0) {
    warp.kind = kind;
    warp.mask = mask;
  } else if (warp.kind != kind || warp.mask != mask) {
    fail("threads of a warp are in different collectives");
  }
  meet(warp.meeting, [&] { work(warp); });
}

// Runs `clusters` of `cluster` blocks one after the other, in a random order.
inline void run_grid(dim3 grid, int threads, int cluster, int64_t shared_bytes) {
  const int64_t count = int64_t(grid.x) * grid.y * grid.z;
  if (threads % 32 != 0 || grid.x % cluster != 0)
    throw std::logic_error("whole warps and whole clusters are needed");
  if (shared_bytes > state.shared_bytes)
    throw std::logic_error("a block wants more shared memory than there is");
  state.grid = grid;
  state.block = dim3(unsigned(threads));
  std::vector<int64_t> order(count / cluster);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), state.random);
  for (const int64_t first : order) {
    Meeting cluster_barrier;
    cluster_barrier.size = cluster * threads;
    std::vector<BlockState> blocks(cluster);
    std::vector<Fiber> fibers(cluster * threads);
    for (int b = 0; b < cluster; ++b) {
      const int64_t index = first * cluster + b;
      BlockState& block = blocks[b];
      block.index = dim3(unsigned(index % grid.x), unsigned(index / grid.x % grid.y),
                         unsigned(index / grid.x / grid.y));
      block.barrier.size = threads;
      block.cluster_barrier = &cluster_barrier;
      block.shared.resize(size_t(shared_bytes + 15) / 16);
      std::memset(block.shared.data(), 0xff, block.shared.size() * 16);
      block.warps.resize(threads / 32);
      for (Warp& warp : block.warps) warp.meeting.size = 32;
      for (int t = 0; t < threads; ++t) {
        Fiber& fiber = fibers[b * threads + t];
        fiber.thread = dim3(unsigned(t), 0, 0);
        fiber.block = &block;
        fiber.warp = &block.warps[t / 32];
        fiber.lane = t % 32;
        if (state.free_stacks.empty())
          state.free_stacks.emplace_back(new char[kStackBytes]);
        fiber.stack = std::move(state.free_stacks.back());
        state.free_stacks.pop_back();
      }
    }
    std::vector<int> warps(fibers.size() / 32);
    std::iota(warps.begin(), warps.end(), 0);
    bool has_run = true;
    while (has_run && state.error.empty()) {
      has_run = false;
      std::shuffle(warps.begin(), warps.end(), state.random);
      for (const int warp : warps) {
        bool warp_has_run = true;
        while (warp_has_run && state.error.empty()) {
          warp_has_run = false;
          for (int lane = 0; lane < 32; ++lane) {
            Fiber& fiber = fibers[warp * 32 + lane];
            if (!fiber.can_run()) continue;
            run_until_it_waits(fiber);
            warp_has_run = has_run = true;
          }
        }
      }
    }
    for (Fiber& fiber : fibers) {
      if (!fiber.is_done && state.error.empty())
        state.error = "threads wait for others that do not come";
      state.free_stacks.push_back(std::move(fiber.stack));
    }
    if (!state.error.empty()) throw std::logic_error(std::exchange(state.error, ""));
  }
}

template <typename To, typename From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace cuda_on_cpu

#define threadIdx (::cuda_on_cpu::state.current->thread)
#define blockIdx (::cuda_on_cpu::state.current->block->index)
#define blockDim (::cuda_on_cpu::state.block)
#define gridDim (::cuda_on_cpu::state.grid)

inline float __uint_as_float(unsigned v) { return cuda_on_cpu::bits_as<float>(v); }
inline unsigned __float_as_uint(float v) { return cuda_on_cpu::bits_as<unsigned>(v); }

using std::max;
using std::min;

template <typename T>
T __ldcg(const T* from) {
  return *from;
}

inline void __threadfence() {}

inline unsigned atomicAdd(unsigned* to, unsigned v) {
  return std::exchange(*to, *to + v);
}
inline unsigned atomicMax(unsigned* to, unsigned v) {
  return std::exchange(*to, std::max(*to, v));
}

inline void __syncthreads() {
  cuda_on_cpu::meet(cuda_on_cpu::state.current->block->barrier, [] {});
}

template <typename T>
T __shfl_xor_sync(unsigned, T v, int mask) {
  using namespace cuda_on_cpu;
  const Fiber& fiber = *state.current;
  fiber.warp->shuffle_in[fiber.lane] = bits_as<unsigned>(v);
  meet_in_warp(Collective::kShuffle, mask, [&](Warp& warp) {
    for (int lane = 0; lane < 32; ++lane)
      warp.shuffle_out[lane] = warp.shuffle_in[lane ^ warp.mask];
  });
  return bits_as<T>(fiber.warp->shuffle_out[fiber.lane]);
}

namespace setformer_mm {
namespace cuda {

inline float* shared_memory() {
  return reinterpret_cast<float*>(cuda_on_cpu::state.current->block->shared.data());
}

inline void cluster_barrier() {
  cuda_on_cpu::meet(*cuda_on_cpu::state.current->block->cluster_barrier, [] {});
}

// See platform.cuh: tensor cores ignore what tf32 has no bits for.
inline void multiply_8(float (&acc)[4], const float (&a)[4], const float (&b)[2]) {
  using namespace cuda_on_cpu;
  const auto tf32 = [](float v) {
    return bits_as<float>(bits_as<unsigned>(v) & ~0x1fffu);
  };
  const Fiber& fiber = *state.current;
  Warp& own = *fiber.warp;
  for (int i = 0; i < 4; ++i) own.a[fiber.lane][i] = tf32(a[i]);
  for (int i = 0; i < 2; ++i) own.b[fiber.lane][i] = tf32(b[i]);
  for (int i = 0; i < 4; ++i) own.acc[fiber.lane][i] = acc[i];
  meet_in_warp(Collective::kMultiply, 0, [](Warp& warp) {
    float left[16][8], right[8][8], sums[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, c = lane % 4;
      for (int i = 0; i < 4; ++i) {
        left[g + i % 2 * 8][c + i / 2 * 4] = warp.a[lane][i];
        sums[g + i / 2 * 8][2 * c + i % 2] = warp.acc[lane][i];
      }
      for (int i = 0; i < 2; ++i) right[c + i * 4][g] = warp.b[lane][i];
    }
    for (int row = 0; row < 16; ++row)
      for (int k = 0; k < 8; ++k)
        for (int col = 0; col < 8; ++col)
          sums[row][col] += left[row][k] * right[k][col];
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, c = lane % 4;
      for (int i = 0; i < 4; ++i)
        warp.acc[lane][i] = sums[g + i / 2 * 8][2 * c + i % 2];
    }
  });
  for (int i = 0; i < 4; ++i) acc[i] = own.acc[fiber.lane][i];
}

inline float half_bits_to_float(unsigned short bits) {
  using cuda_on_cpu::bits_as;
  const unsigned magnitude = unsigned(bits & 0x7fff) << 13;
  const bool special = (bits & 0x7c00) == 0x7c00;
  // From an exponent's bias of 15 to one of 127, subnormals included.
  const unsigned finite = bits_as<unsigned>(bits_as<float>(magnitude) * 0x1p112f);
  return bits_as<float>((bits & 0x8000u) << 16 |
                        (special ? magnitude | 0x7f800000 : finite));
}

inline unsigned short float_to_half_bits(float v) {
  using cuda_on_cpu::bits_as;
  const unsigned bits = bits_as<unsigned>(v), magnitude = bits & 0x7fffffff;
  unsigned half;
  if (magnitude > 0x7f800000)
    half = 0x7e00;
  else if (magnitude >= 0x477ff000)  // rounds to 65536 or more
    half = 0x7c00;
  else if (magnitude < 0x38800000)  // below 2^-14
    half = bits_as<unsigned>(bits_as<float>(magnitude) + 0.5f) - 0x3f000000;
  else
    half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  return static_cast<unsigned short>(half | (bits >> 16 & 0x8000));
}

inline float bfloat16_bits_to_float(unsigned short bits) {
  return cuda_on_cpu::bits_as<float>(unsigned(bits) << 16);
}

inline unsigned short float_to_bfloat16_bits(float v) {
  const unsigned bits = cuda_on_cpu::bits_as<unsigned>(v);
  const unsigned rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<unsigned short>(v != v ? 0x7fc0 : rounded);
}

inline float fast_exp(float v) { return expf(v); }

using Stream = void*;

struct Device {
  int64_t shared_bytes;
  bool has_clusters;
};

inline Device current_device() {
  return {cuda_on_cpu::state.shared_bytes, cuda_on_cpu::state.has_clusters};
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, int cluster,
            int64_t shared_bytes, Stream, const Arguments&... arguments) {
  const auto call = [&] { kernel(Parameters(arguments)...); };
  cuda_on_cpu::state.entry = [](void* run) { (*static_cast<decltype(&call)>(run))(); };
  cuda_on_cpu::state.entry_arguments =
      const_cast<void*>(static_cast<const void*>(&call));
  cuda_on_cpu::run_grid(grid, threads, cluster, shared_bytes);
}

}  // namespace cuda
}  // namespace setformer_mm

// Forward and backward passes over all heads of all images, for one instruction set:
// each kernel_*.cpp compiles this file once.
//
// Everything here has internal linkage and no inline function of the standard library
// with a body worth sharing is called, so that the linker cannot put code compiled for
// one instruction set in the place of another's.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace setformer_mm {
namespace cpu {
namespace {

// body(begin, end) on disjoint ranges that cover [0, count).
template <typename Body>
void run(const Parallel& parallel, int64_t count, const Body& body) {
  const auto call = [](void* context, int64_t begin, int64_t end) {
    (*static_cast<const Body*>(context))(begin, end);
  };
  if (count > 0) parallel.run(count, call, const_cast<Body*>(&body));
}

// Tokens that are worked on together, a multiple of the rows of a block of gemm: a tile
// of everything fits the first two cache levels.
constexpr int64_t kTile = 32;

#include "vec.h"
#include "gemm.h"
#include "tokens.h"
#include "call.h"
#include "head.h"
#include "forward.h"
#include "backward.h"

// Heads that take their passes together: all chunks of all heads, then the next pass.
template <typename T, typename H>
struct JointFlight {
  const Call<T>& call;
  const Parallel& parallel;
  H* heads;
  int64_t size;

  // work(head, chunk, scratch) for every chunk.
  template <typename Work>
  void pass(const Work& work) const {
    run(parallel, size * call.num_chunks, [&](int64_t begin, int64_t end) {
      Scratch<T> scratch(call);
      for (int64_t i = begin; i < end; ++i)
        work(heads[i / call.num_chunks], i % call.num_chunks, scratch);
    });
  }

  // work(head, its index in the flight) for every head.
  template <typename Work>
  void each(const Work& work) const {
    run(parallel, size, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) work(heads[i], i);
    });
  }
};

// One head on one thread.
template <typename T, typename H>
struct SoloFlight {
  const Call<T>& call;
  H& head;
  Scratch<T>& scratch;

  template <typename Work>
  void pass(const Work& work) const {
    for (int64_t chunk = 0; chunk < call.num_chunks; ++chunk)
      work(head, chunk, scratch);
  }

  template <typename Work>
  void each(const Work& work) const {
    work(head, 0);
  }
};

// Calls fly(flight, index of its first head) until all `count` heads from `first` on
// have flown. Few heads fly together, cut into chunks, so that every thread has work;
// of many, each thread takes one after another through all passes while it is in its
// cache.
template <typename H, typename T, typename Fly>
void fly_heads(const Call<T>& call, const Parallel& parallel, int64_t first,
               int64_t count, const Fly& fly) {
  const int64_t num_heads = call.problem.sizes.heads;
  if (call.num_chunks > 1 && count < 2 * parallel.num_threads) {
    Many<H> heads(count, call);
    for (int64_t i = 0; i < count; ++i)
      heads.get()[i].start((first + i) / num_heads, (first + i) % num_heads);
    fly(JointFlight<T, H>{call, parallel, heads.get(), count}, first);
    return;
  }
  run(parallel, count, [&](int64_t begin, int64_t end) {
    H head(call);
    Scratch<T> scratch(call);
    for (int64_t i = first + begin; i < first + end; ++i) {
      head.start(i / num_heads, i % num_heads);
      fly(SoloFlight<T, H>{call, head, scratch}, i);
    }
  });
}

template <typename T>
void forward_in(const Problem& problem, const Tokens& out, const Parallel& parallel) {
  const Call<T> call(problem, parallel);
  const int64_t count = problem.sizes.batch * problem.sizes.heads;
  using H = ForwardHead<T>;
  using S = Scratch<T>;
  fly_heads<H>(call, parallel, 0, count, [&](const auto& flight, int64_t) {
    flight.pass([](H& h, int64_t chunk, S& s) { h.embed(chunk, s); });
    flight.each([](H& h, int64_t) { h.finish_embed(); });
    for (int64_t t = H::iterations_of_embed(call); t < call.iters; ++t) {
      flight.pass([=](H& h, int64_t chunk, S& s) { h.iterate(t, chunk, s); });
      flight.each([=](H& h, int64_t) { h.finish_iterate(t); });
    }
    flight.pass([](H& h, int64_t chunk, S& s) { h.aggregate(chunk, s); });
    flight.each([](H& h, int64_t) { h.finish_aggregate(); });
    flight.pass([&](H& h, int64_t chunk, S& s) { h.respond(out, chunk, s); });
  });
}

template <typename T>
void backward_in(const Problem& problem, const Tokens& grad_out, const Tokens& grad_x,
                 const Maps& grad_maps, const Parallel& parallel) {
  using H = BackwardHead<T>;
  using S = Scratch<T>;
  const Call<T> call(problem, parallel);
  const Sizes& sizes = problem.sizes;
  // The maps' gradients of a head, one after the other: of anchors, score_maps,
  // value_map.
  const int64_t lengths[] = {sizes.anchors * sizes.dim,
                             sizes.anchors * 2 * sizes.references,
                             sizes.anchors * sizes.anchors};
  double* const outputs[] = {grad_maps.anchors, grad_maps.score_maps,
                             grad_maps.value_map};
  const int64_t length = lengths[0] + lengths[1] + lengths[2];
  for (int map = 0; map < 3; ++map)
    for (int64_t i = 0; i < sizes.heads * lengths[map]; ++i) outputs[map][i] = 0;

  // Images are added up in their order whatever the number of threads, some at a time.
  const int64_t count = sizes.batch * sizes.heads;
  const int64_t at_once = min_of(count, 8 * parallel.num_threads);
  Buffer<double> grads(at_once * length);
  for (int64_t first = 0; first < count; first += at_once) {
    const int64_t batch = min_of(at_once, count - first);
    const auto fly = [&](const auto& flight, int64_t index) {
      double* const anchors = grads.get() + (index - first) * length;
      double* const score_maps = anchors + lengths[0];
      double* const value_map = score_maps + lengths[1];
      flight.each([](H& h, int64_t) { h.restore(); });
      flight.pass([](H& h, int64_t chunk, S& s) { h.embed(chunk, s); });
      flight.each([](H& h, int64_t) { h.finish_embed(); });
      flight.pass([&](H& h, int64_t chunk, S& s) { h.project(grad_out, chunk, s); });
      flight.each([&](H& h, int64_t i) { h.finish_project(value_map + i * length); });
      flight.pass([](H& h, int64_t chunk, S& s) { h.balance(chunk, s); });
      flight.each([](H& h, int64_t) { h.finish_balance(); });
      flight.pass([](H& h, int64_t chunk, S& s) { h.weigh(chunk, s); });
      flight.each([](H& h, int64_t) { h.finish_weigh(); });
      for (int64_t t = call.iters; t > 1; --t) {
        flight.pass([=](H& h, int64_t chunk, S& s) { h.unroll(t, chunk, s); });
        flight.each([=](H& h, int64_t) { h.finish_unroll(t); });
      }
      flight.each([](H& h, int64_t) { h.collect_terms(); });
      flight.pass(
          [&](H& h, int64_t chunk, S& s) { h.gather(grad_out, grad_x, chunk, s); });
      flight.each([&](H& h, int64_t i) {
        h.finish_gather(score_maps + i * length, anchors + i * length);
      });
    };
    fly_heads<H>(call, parallel, first, batch, fly);
    for (int64_t i = 0; i < batch; ++i) {
      const double* from = grads.get() + i * length;
      for (int map = 0; map < 3; from += lengths[map++]) {
        double* to = outputs[map] + (first + i) % sizes.heads * lengths[map];
        for (int64_t k = 0; k < lengths[map]; ++k) to[k] += from[k];
      }
    }
  }
}

bool computes_in_double(const Problem& problem) {
  return problem.scalar == Scalar::kDouble ||
         !scalings_fit_float(problem.sizes, problem.fields);
}

void forward_either(const Problem& problem, const Tokens& out,
                    const Parallel& parallel) {
  computes_in_double(problem) ? forward_in<double>(problem, out, parallel)
                              : forward_in<float>(problem, out, parallel);
}

void backward_either(const Problem& problem, const Tokens& grad_out,
                     const Tokens& grad_x, const Maps& grad_maps,
                     const Parallel& parallel) {
  computes_in_double(problem)
      ? backward_in<double>(problem, grad_out, grad_x, grad_maps, parallel)
      : backward_in<float>(problem, grad_out, grad_x, grad_maps, parallel);
}

}  // namespace

const Kernels SETFORMER_MM_KERNELS = {SETFORMER_MM_KERNELS_NAME, forward_either,
                                      backward_either};

}  // namespace cpu
}  // namespace setformer_mm

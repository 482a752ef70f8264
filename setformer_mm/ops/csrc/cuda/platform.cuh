// What the kernels need of CUDA, and nothing else does: thread indices, barriers and
// shuffles under their own names come with the compiler. Where there is no GPU, tests
// put tests/ops/cuda_on_cpu/platform.h in the place of this file.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace setformer_mm {
namespace cuda {

// The dynamic shared memory of the block.
__device__ inline float* shared_memory() {
  extern __shared__ float4 shared_memory_of_block[];
  return reinterpret_cast<float*>(shared_memory_of_block);
}

// acc (16 x 8) += a (16 x 8) b (8 x 8) in tf32 with sums in float, by one warp. With
// lane = 4 g + c, a thread holds a at (g, c), (g + 8, c), (g, c + 4), (g + 8, c + 4); b
// at (c, g), (c + 4, g); acc at (g, 2c), (g, 2c + 1), (g + 8, 2c), (g + 8, 2c + 1).
__device__ inline void multiply_8(float (&acc)[4], const float (&a)[4],
                                  const float (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])),
        "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

// Waits for all blocks of the cluster and makes what each wrote visible to all.
__device__ inline void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;\n" ::: "memory");
#endif
}

__device__ inline float half_bits_to_float(unsigned short bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

__device__ inline unsigned short float_to_half_bits(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ inline float bfloat16_bits_to_float(unsigned short bits) {
  return __uint_as_float(unsigned(bits) << 16);
}

__device__ inline unsigned short float_to_bfloat16_bits(float value) {
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// exp for arithmetic that ends in 16 bits.
__device__ inline float fast_exp(float value) { return __expf(value); }

using Stream = cudaStream_t;

inline void check(cudaError_t status) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("set_attention on CUDA: ") +
                             cudaGetErrorString(status));
}

// What the choice of a plan depends on.
struct Device {
  int64_t shared_bytes;  // that a block may use
  bool has_clusters;
};

inline Device current_device() {
  int device, shared, major;
  check(cudaGetDevice(&device));
  check(
      cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return {shared, major >= 9};
}

// Starts blocks of `threads` threads; with cluster > 1, as many as that neighbours in x
// run at the same time.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, int cluster,
            int64_t shared_bytes, Stream stream, const Arguments&... arguments) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             int(shared_bytes)));
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = unsigned(cluster);
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = size_t(shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = cluster > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

}  // namespace cuda
}  // namespace setformer_mm

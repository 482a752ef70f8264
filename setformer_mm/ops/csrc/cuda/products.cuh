// Products of matrices of the size of the parameters, by one block.
#pragma once

// visit(row, col, sum_i left(row, i) right(i, col)) for all rows and columns, in `Sum`.
// A thread takes four columns of a row at a time.
template <typename Sum, typename Left, typename Right, typename Visit>
__device__ __forceinline__ void small_product(int rows, int cols, int depth,
                                              const Left& left, const Right& right,
                                              const Visit& visit) {
  for (int item = threadIdx.x; item < rows * cols / 4; item += kThreads) {
    const int row = item / (cols / 4), col = item % (cols / 4) * 4;
    Sum sums[4] = {0, 0, 0, 0};
    for (int i = 0; i < depth; ++i) {
      const Sum factor = left(row, i);
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[e] += factor * right(i, col + e);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) visit(row, col + e, sums[e]);
  }
}

// A matrix in memory that is 0 beyond its last row and column.
template <typename T>
struct Padded {
  const T* data;
  int rows, cols, stride;

  __device__ __forceinline__ T operator()(int row, int col) const {
    return row < rows && col < cols ? data[row * stride + col] : T(0);
  }
};

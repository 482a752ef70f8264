// Small matrix products on tiles that lie in the first-level cache. To be included
// inside the anonymous namespace of one instruction set, after vec.h.
#pragma once

// Every dimension of every matrix is padded to a multiple of this.
constexpr int kPad = 16;

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// A matrix whose element (row, depth) lies at data[row * row_stride + depth *
// depth_stride]: strides (n, 1) read an array as it is, (1, n) transposed.
template <typename T>
struct Left {
  const T* data;
  int64_t row_stride, depth_stride;
};

// kRows * kCols vectors of accumulators stay in registers.
template <int kRows, int kCols, typename T, typename Emit>
inline void gemm_block(int64_t depth, Left<T> a, const T* b, int64_t b_stride,
                       Emit emit) {
  Vec<T> sums[kRows][kCols];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) sums[r][c] = Vec<T>{};
  for (int64_t p = 0; p < depth; ++p) {
    Vec<T> right[kCols];
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) right[c] = load(b + p * b_stride + c * kLanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const T left = a.data[r * a.row_stride + p * a.depth_stride];
#pragma GCC unroll 16
      for (int c = 0; c < kCols; ++c) sums[r][c] += left * right[c];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < kCols; ++c) emit(r, c * kLanes<T>, sums[r][c]);
}

// Calls emit(row, column, vector) once for every vector of a (rows x depth) b (depth x
// cols, rows b_stride apart), rows a multiple of 8, cols of kPad.
template <typename T, typename Emit>
inline void gemm(int64_t rows, int64_t cols, int64_t depth, Left<T> a, const T* b,
                 int64_t b_stride, Emit emit) {
  // Enough accumulators to hide the latency of their additions: sixteen, or twelve
  // where there are but sixteen registers. Any multiple of 8 rows is a sum of sixes and
  // fours.
  int64_t col = 0;
  const auto run = [&](auto block_rows, auto block_cols, int64_t row) {
    gemm_block<decltype(block_rows)::value, decltype(block_cols)::value>(
        depth, {a.data + row * a.row_stride, a.row_stride, a.depth_stride}, b + col,
        b_stride, [&](int64_t r, int64_t c, Vec<T> v) { emit(row + r, col + c, v); });
  };
  const auto run_columns = [&](auto block_rows, auto block_cols) {
    constexpr int64_t kWidth = decltype(block_cols)::value * kLanes<T>;
    constexpr int64_t kTall = decltype(block_rows)::value;
    const int64_t tall_rows = rows / (2 * kTall) * 2 * kTall;
    for (; col + kWidth <= cols; col += kWidth) {
      int64_t row = 0;
      for (; row < tall_rows; row += kTall) run(block_rows, block_cols, row);
      for (; row < rows; row += 4) run(Constant<4>(), block_cols, row);
    }
  };
  if (kRegisters == 32) run_columns(Constant<4>(), Constant<4>());
  run_columns(Constant<kRegisters == 32 ? 8 : 6>(), Constant<2>());
  run_columns(Constant<kRegisters == 32 ? 8 : 6>(), Constant<1>());
}

// Matrices of 16 tokens in the registers of a warp, and their products on tensor cores.
// To be included after the platform.
#pragma once

__device__ __forceinline__ int lane_index() { return threadIdx.x % 32; }
__device__ __forceinline__ int warp_index() { return threadIdx.x / 32; }

// 16 rows of n columns. Thread 4 g + c of the warp holds, of rows g and g + 8, quarter
// c: columns [c n / 4, (c + 1) n / 4). What the tensor cores want is a permutation of
// the columns, which the other operand makes up for; so a product's result is the left
// operand of the next one, and rows lie in memory in 16-byte pieces.
template <int n>
struct Rows {
  static constexpr int kOwn = n / 4;
  float v[2][kOwn];
};

__device__ __forceinline__ int row_of_thread() { return lane_index() / 4; }
__device__ __forceinline__ int quarter_of_thread() { return lane_index() % 4; }

// Sum or maximum over the four threads that share a row.
__device__ __forceinline__ float sum_of_row(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

__device__ __forceinline__ float max_of_row(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

// A number in parts of 11 bits, which is what tensor cores see of each.
template <int parts>
struct Split {
  float part[parts];
  __device__ __forceinline__ explicit Split(float v) {
#pragma unroll
    for (int p = 0; p < parts; ++p) {
      part[p] = __uint_as_float(__float_as_uint(v) & 0xffffe000u);
      v -= part[p];
    }
  }
};

// acc += a b of 8 columns and 8 rows, up to products as small as the last parts. The
// small ones come first.
template <int a_parts, int b_parts>
__device__ __forceinline__ void multiply_split(float (&acc)[4],
                                               const Split<a_parts> (&a)[4],
                                               const Split<b_parts> (&b)[2]) {
#pragma unroll
  for (int order = (a_parts > b_parts ? a_parts : b_parts) - 1; order >= 0; --order) {
#pragma unroll
    for (int p = 0; p < a_parts; ++p) {
      const int q = order - p;
      if (q < 0 || q >= b_parts) continue;
      const float left[4] = {a[0].part[p], a[1].part[p], a[2].part[p], a[3].part[p]};
      const float right[2] = {b[0].part[q], b[1].part[q]};
      multiply_8(acc, left, right);
    }
  }
}

// Where element (row, col) of a right operand of k x n lies: as the threads of a warp
// read it, two elements each, for 8 rows and 8 columns at a time.
template <int k, int n>
__host__ __device__ __forceinline__ int operand_index(int row, int col) {
  const int step = row % (k / 4) / 2, tile = col % (n / 4) / 2;
  const int lane = 4 * (2 * (col / (n / 4)) + col % 2) + row / (k / 4);
  return ((step * (n / 8) + tile) * 32 + lane) * 2 + row % 2;
}

// acc += a b, with a and b in so many parts.
template <int a_parts, int b_parts, int k, int n>
__device__ __forceinline__ void multiply(const Rows<k>& a, const float* b,
                                         Rows<n>& acc) {
#pragma unroll
  for (int step = 0; step < k / 8; ++step) {
    const Split<a_parts> left[4] = {
        Split<a_parts>(a.v[0][2 * step]), Split<a_parts>(a.v[1][2 * step]),
        Split<a_parts>(a.v[0][2 * step + 1]), Split<a_parts>(a.v[1][2 * step + 1])};
#pragma unroll
    for (int tile = 0; tile < n / 8; ++tile) {
      const float2 pair = reinterpret_cast<const float2*>(
          b)[(step * (n / 8) + tile) * 32 + lane_index()];
      const Split<b_parts> right[2] = {Split<b_parts>(pair.x), Split<b_parts>(pair.y)};
      float sums[4] = {acc.v[0][2 * tile], acc.v[0][2 * tile + 1], acc.v[1][2 * tile],
                       acc.v[1][2 * tile + 1]};
      multiply_split(sums, left, right);
      acc.v[0][2 * tile] = sums[0];
      acc.v[0][2 * tile + 1] = sums[1];
      acc.v[1][2 * tile] = sums[2];
      acc.v[1][2 * tile + 1] = sums[3];
    }
  }
}

template <int n>
__device__ __forceinline__ void fill(Rows<n>& rows, float value) {
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int e = 0; e < Rows<n>::kOwn; ++e) rows.v[r][e] = value;
}

template <int n>
__device__ __forceinline__ float sum_of(const Rows<n>& rows, int r) {
  float sum = 0;
#pragma unroll
  for (int e = 0; e < n / 4; ++e) sum += rows.v[r][e];
  return sum_of_row(sum);
}

// The product of a row and a vector of which the thread has its quarter.
template <int n>
__device__ __forceinline__ float dot_of_row(const Rows<n>& rows, int r,
                                            const float (&vector)[n / 4]) {
  float sum = 0;
#pragma unroll
  for (int e = 0; e < n / 4; ++e) sum += rows.v[r][e] * vector[e];
  return sum_of_row(sum);
}

template <int n>
__device__ __forceinline__ void scale_row(Rows<n>& rows, int r, float by) {
#pragma unroll
  for (int e = 0; e < n / 4; ++e) rows.v[r][e] *= by;
}

// The thread's quarter of a vector of n.
template <int n>
__device__ __forceinline__ void load_quarter(const float* vector, float (&own)[n / 4]) {
  const float4* const from =
      reinterpret_cast<const float4*>(vector + quarter_of_thread() * (n / 4));
#pragma unroll
  for (int i = 0; i < n / 16; ++i) {
    const float4 v = from[i];
    own[4 * i] = v.x;
    own[4 * i + 1] = v.y;
    own[4 * i + 2] = v.z;
    own[4 * i + 3] = v.w;
  }
}

template <int n>
__device__ __forceinline__ void store_quarter(const float (&own)[n / 4],
                                              float* vector) {
  float4* const to = reinterpret_cast<float4*>(vector + quarter_of_thread() * (n / 4));
#pragma unroll
  for (int i = 0; i < n / 16; ++i)
    to[i] = make_float4(own[4 * i], own[4 * i + 1], own[4 * i + 2], own[4 * i + 3]);
}

// Rows of the warp in a tile in shared memory; a thread reads back what it wrote.
template <int n>
__device__ __forceinline__ void load_shared(const float* tile, int stride,
                                            Rows<n>& rows) {
#pragma unroll
  for (int r = 0; r < 2; ++r)
    load_quarter<n>(tile + (16 * warp_index() + row_of_thread() + 8 * r) * stride,
                    rows.v[r]);
}

template <int n>
__device__ __forceinline__ void store_shared(const Rows<n>& rows, int stride,
                                             float* tile) {
#pragma unroll
  for (int r = 0; r < 2; ++r)
    store_quarter<n>(rows.v[r],
                     tile + (16 * warp_index() + row_of_thread() + 8 * r) * stride);
}

// Elements of tokens, 16 bytes at once.
template <typename Element>
struct Packet;

template <>
struct Packet<float> {
  static constexpr int kSize = 4;
  __device__ __forceinline__ static void load(const void* from, float* to) {
    const float4 v = *static_cast<const float4*>(from);
    to[0] = v.x;
    to[1] = v.y;
    to[2] = v.z;
    to[3] = v.w;
  }
  __device__ __forceinline__ static void store(const float* from, void* to) {
    *static_cast<float4*>(to) = make_float4(from[0], from[1], from[2], from[3]);
  }
  __device__ __forceinline__ static float load_one(const void* from, int64_t i) {
    return static_cast<const float*>(from)[i];
  }
  __device__ __forceinline__ static void store_one(float value, void* to, int64_t i) {
    static_cast<float*>(to)[i] = value;
  }
};

// The 16-bit formats, as they lie in memory.
struct HalfFormat {
  __device__ __forceinline__ static float widen(unsigned short bits) {
    return half_bits_to_float(bits);
  }
  __device__ __forceinline__ static unsigned short narrow(float value) {
    return float_to_half_bits(value);
  }
};
struct BFloat16Format {
  __device__ __forceinline__ static float widen(unsigned short bits) {
    return bfloat16_bits_to_float(bits);
  }
  __device__ __forceinline__ static unsigned short narrow(float value) {
    return float_to_bfloat16_bits(value);
  }
};

template <typename Format>
struct Packet {
  static constexpr int kSize = 8;
  __device__ __forceinline__ static void load(const void* from, float* to) {
    const uint4 v = *static_cast<const uint4*>(from);
    const unsigned words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      to[2 * i] = Format::widen(static_cast<unsigned short>(words[i] & 0xffff));
      to[2 * i + 1] = Format::widen(static_cast<unsigned short>(words[i] >> 16));
    }
  }
  __device__ __forceinline__ static void store(const float* from, void* to) {
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      words[i] = Format::narrow(from[2 * i]) |
                 static_cast<unsigned>(Format::narrow(from[2 * i + 1])) << 16;
    *static_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
  __device__ __forceinline__ static float load_one(const void* from, int64_t i) {
    return Format::widen(static_cast<const unsigned short*>(from)[i]);
  }
  __device__ __forceinline__ static void store_one(float value, void* to, int64_t i) {
    static_cast<unsigned short*>(to)[i] = Format::narrow(value);
  }
};

// Which rows of a (B, N, h, columns) tensor a warp looks at: 16 tokens from `first`, of
// which those from `end` on do not exist, counted over the valid columns of the grid.
struct Place {
  int image, head, first, end, valid_width, width;

  __device__ __forceinline__ int token(int r) const {
    return first + row_of_thread() + 8 * r;
  }
  __device__ __forceinline__ bool exists(int r) const { return token(r) < end; }
  __device__ __forceinline__ int64_t offset(const Tokens& tokens, int r) const {
    int place = token(r);
    if (valid_width != width) place += place / valid_width * (width - valid_width);
    return image * tokens.batch_stride + place * tokens.token_stride +
           head * tokens.head_stride;
  }
};

template <typename P, int n>
__device__ __forceinline__ void load_packets(const Tokens& tokens, bool aligned,
                                             int columns, const Place& place,
                                             Rows<n>& rows) {
  constexpr int own = n / 4, bytes = 16 / P::kSize;
  const int first = quarter_of_thread() * own;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t offset = place.offset(tokens, r) + first;
    if (!place.exists(r)) {
#pragma unroll
      for (int e = 0; e < own; ++e) rows.v[r][e] = 0;
    } else if (aligned && columns == n) {
#pragma unroll
      for (int e = 0; e < own; e += P::kSize)
        P::load(static_cast<const char*>(tokens.data) + (offset + e) * bytes,
                rows.v[r] + e);
    } else {
#pragma unroll
      for (int e = 0; e < own; ++e)
        rows.v[r][e] =
            first + e < columns ? P::load_one(tokens.data, offset + e) : 0.0f;
    }
  }
}

template <typename P, int n>
__device__ __forceinline__ void store_packets(const Rows<n>& rows, bool aligned,
                                              int columns, const Place& place,
                                              const Tokens& tokens) {
  constexpr int own = n / 4, bytes = 16 / P::kSize;
  const int first = quarter_of_thread() * own;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t offset = place.offset(tokens, r) + first;
    if (!place.exists(r)) continue;
    if (aligned && columns == n) {
#pragma unroll
      for (int e = 0; e < own; e += P::kSize)
        P::store(rows.v[r] + e, static_cast<char*>(tokens.data) + (offset + e) * bytes);
    } else {
#pragma unroll
      for (int e = 0; e < own; ++e)
        if (first + e < columns) P::store_one(rows.v[r][e], tokens.data, offset + e);
    }
  }
}

// Rows of tokens; those that do not exist become 0, or are not written.
template <typename C, int n>
__device__ __forceinline__ void load_tokens(const Tokens& tokens, Scalar scalar,
                                            bool aligned, int columns,
                                            const Place& place, Rows<n>& rows) {
  if constexpr (C::kExact)
    load_packets<Packet<float>>(tokens, aligned, columns, place, rows);
  else if (scalar == Scalar::kHalf)
    load_packets<Packet<HalfFormat>>(tokens, aligned, columns, place, rows);
  else
    load_packets<Packet<BFloat16Format>>(tokens, aligned, columns, place, rows);
}

template <typename C, int n>
__device__ __forceinline__ void store_tokens(const Rows<n>& rows, Scalar scalar,
                                             bool aligned, int columns,
                                             const Place& place, const Tokens& tokens) {
  if constexpr (C::kExact)
    store_packets<Packet<float>>(rows, aligned, columns, place, tokens);
  else if (scalar == Scalar::kHalf)
    store_packets<Packet<HalfFormat>>(rows, aligned, columns, place, tokens);
  else
    store_packets<Packet<BFloat16Format>>(rows, aligned, columns, place, tokens);
}

// Sums over the tokens of a block's tiles of left^T right, (rows, cols), shared out
// among its warps.
template <int rows, int cols>
struct TokenSums {
  static constexpr int kRowWarps = rows / 16 < kWarps ? rows / 16 : kWarps;
  static constexpr int kColWarps = kWarps / kRowWarps;
  static constexpr int kMyRows = rows / 16 / kRowWarps;  // blocks of 16
  static constexpr int kMyCols = cols / 8 / kColWarps;   // blocks of 8
  float v[kMyRows][kMyCols][4];

  __device__ __forceinline__ TokenSums() {
#pragma unroll
    for (int i = 0; i < kMyRows; ++i)
#pragma unroll
      for (int j = 0; j < kMyCols; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) v[i][j][e] = 0;
  }

  // Adds a tile in shared memory, of kTile rows each; whole warps take part, and the
  // block waits before (for what is read) and after (before it is written again).
  template <int left_parts, int right_parts>
  __device__ __forceinline__ void add(const float* left, int left_stride,
                                      const float* right, int right_stride) {
    const int g = row_of_thread(), c = quarter_of_thread();
    const int row_warp = warp_index() % kRowWarps, col_warp = warp_index() / kRowWarps;
#pragma unroll 1
    for (int step = 0; step < kTile / 8; ++step) {
      const float* const l = left + (8 * step + c) * left_stride;
      const float* const r = right + (8 * step + c) * right_stride;
#pragma unroll
      for (int i = 0; i < kMyRows; ++i) {
        const int row = 16 * (row_warp + i * kRowWarps) + g;
        const Split<left_parts> a[4] = {
            Split<left_parts>(l[row]), Split<left_parts>(l[row + 8]),
            Split<left_parts>(l[row + 4 * left_stride]),
            Split<left_parts>(l[row + 8 + 4 * left_stride])};
#pragma unroll
        for (int j = 0; j < kMyCols; ++j) {
          const int col = 8 * (col_warp + j * kColWarps) + g;
          const Split<right_parts> b[2] = {
              Split<right_parts>(r[col]),
              Split<right_parts>(r[col + 4 * right_stride])};
          multiply_split(v[i][j], a, b);
        }
      }
    }
  }

  // visit(row, col, sum) for the thread's elements.
  template <typename Visit>
  __device__ __forceinline__ void for_each(const Visit& visit) const {
    const int g = row_of_thread(), c = quarter_of_thread();
    const int row_warp = warp_index() % kRowWarps, col_warp = warp_index() / kRowWarps;
#pragma unroll
    for (int i = 0; i < kMyRows; ++i)
#pragma unroll
      for (int j = 0; j < kMyCols; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          visit(16 * (row_warp + i * kRowWarps) + g + 8 * (e / 2),
                8 * (col_warp + j * kColWarps) + 2 * c + e % 2, v[i][j][e]);
  }
};

// Rows of tokens in and out of the arithmetic's type. To be included inside the
// anonymous namespace of one instruction set.
#pragma once

template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

// The two 16-bit formats, as they lie in memory.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

inline float widen(float v) { return v; }
inline double widen(double v) { return v; }
inline float widen(BFloat16 v) { return bit_cast<float>(uint32_t(v.bits) << 16); }

inline float widen(Half v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000) << 16;
  const uint32_t magnitude = uint32_t(v.bits & 0x7fff) << 13;
  // The product moves the exponent from a bias of 15 to one of 127, subnormals
  // included.
  const uint32_t finite = bit_cast<uint32_t>(bit_cast<float>(magnitude) * 0x1p112f);
  const bool special = (v.bits & 0x7c00) == 0x7c00;
  return bit_cast<float>(sign | (special ? magnitude | 0x7f800000 : finite));
}

// Round to nearest, ties to even, in every narrowing.
template <typename T>
inline void narrow(T v, float* to) {
  *to = float(v);
}

template <typename T>
inline void narrow(T v, double* to) {
  *to = double(v);
}

template <typename T>
inline void narrow(T v, BFloat16* to) {
  const uint32_t bits = bit_cast<uint32_t>(float(v));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->bits = uint16_t(v != v ? 0x7fc0 : rounded);
}

template <typename T>
inline void narrow(T v, Half* to) {
  const uint32_t bits = bit_cast<uint32_t>(float(v));
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= 0x477ff000) {  // rounds to 65536 or more
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {  // below 2^-14: a multiple of 2^-24
    // Adding 0.5 leaves that multiple, rounded, in the last bits.
    half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  } else {
    half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  to->bits = uint16_t(half | (bits >> 16 & 0x8000));
}

// Calls visit(pointer) with the element type that `scalar` names.
template <typename Visit>
inline void with_type(Scalar scalar, void* data, Visit visit) {
  switch (scalar) {
    case Scalar::kFloat:
      return visit(static_cast<float*>(data));
    case Scalar::kDouble:
      return visit(static_cast<double*>(data));
    case Scalar::kBFloat16:
      return visit(static_cast<BFloat16*>(data));
    case Scalar::kHalf:
      return visit(static_cast<Half*>(data));
  }
}

// The tokens [begin, begin + count) of one head of one image, counted over the valid
// columns of its grid.
struct Rows {
  Tokens tokens;
  Scalar scalar;
  int64_t image, head, begin, count, valid_width, width;

  int64_t offset(int64_t row) const {
    int64_t token = begin + row;
    if (valid_width != width) token += token / valid_width * (width - valid_width);
    return image * tokens.batch_stride + head * tokens.head_stride +
           token * tokens.token_stride;
  }
};

// Reads `width` channels of each row into rows of `padded` elements; what lies beyond
// them, and rows from count to `rows`, become 0.
template <typename T>
void load_rows(const Rows& from, int64_t width, int64_t padded, int64_t rows, T* to) {
  with_type(from.scalar, from.tokens.data, [&](const auto* data) {
    for (int64_t i = 0; i < from.count; ++i) {
      const auto* __restrict row = data + from.offset(i);
      T* __restrict padded_row = to + i * padded;
      // The next tile's rows, which lie too far apart for the processor to foresee.
      for (int64_t d = 0; d < width; d += kPad)
        __builtin_prefetch(data + from.offset(i + kTile) + d);
      int64_t d = 0;
      // A constant count lets the compiler unroll what most rows consist of.
      for (; d + kPad <= width; d += kPad)
        for (int64_t lane = 0; lane < kPad; ++lane)
          padded_row[d + lane] = T(widen(row[d + lane]));
      for (; d < width; ++d) padded_row[d] = T(widen(row[d]));
      for (; d < padded; ++d) padded_row[d] = 0;
    }
  });
  for (int64_t i = from.count * padded; i < rows * padded; ++i) to[i] = 0;
}

template <typename T>
void store_rows(const T* from, int64_t width, int64_t padded, const Rows& to) {
  with_type(to.scalar, to.tokens.data, [&](auto* data) {
    for (int64_t i = 0; i < to.count; ++i) {
      auto* __restrict row = data + to.offset(i);
      const T* __restrict padded_row = from + i * padded;
      int64_t d = 0;
      for (; d + kPad <= width; d += kPad)
        for (int64_t lane = 0; lane < kPad; ++lane)
          narrow(padded_row[d + lane], row + d + lane);
      for (; d < width; ++d) narrow(padded_row[d], row + d);
    }
  });
}

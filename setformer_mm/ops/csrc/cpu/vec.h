// Vectors of the widest kind that this file is compiled for, in the vector extension of
// GCC and Clang. To be included inside the anonymous namespace of one instruction set.
#pragma once

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <typename T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t bits __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vec = typename VecOf<T>::type;
template <typename T>
using Bits = typename VecOf<T>::bits;
template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(T);

template <typename T>
inline Vec<T> load(const T* from) {
  Vec<T> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <typename T>
inline void store(T* to, Vec<T> v) {
  __builtin_memcpy(to, &v, sizeof v);
}

// One number from all lanes, by halving.
template <typename T, typename V, typename Combine>
inline T reduce_lanes(V v, Combine combine) {
  if constexpr (sizeof(V) == 2 * sizeof(T)) {
    return combine(v[0], v[1]);
  } else {
    typedef T Half __attribute__((vector_size(sizeof(V) / 2)));
    struct {
      Half low, high;
    } halves;
    __builtin_memcpy(&halves, &v, sizeof v);
    return reduce_lanes<T, Half>(combine(halves.low, halves.high), combine);
  }
}

template <typename T>
inline T sum_lanes(Vec<T> v) {
  return reduce_lanes<T>(v, [](auto a, auto b) { return a + b; });
}

// a > b ? a : b, by one instruction where the compiler would take two. (GCC warns of
// its own header at intrinsics without a mask.)
template <typename T>
inline Vec<T> max_vec(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_maskz_max_ps(-1, (__m512)a, (__m512)b);
  else
    return (Vec<T>)_mm512_maskz_max_pd(-1, (__m512d)a, (__m512d)b);
#else
  return a > b ? a : b;
#endif
}

template <typename T>
inline T max_lanes(Vec<T> v) {
  return reduce_lanes<T>(v, [](auto a, auto b) { return a > b ? a : b; });
}

template <typename T, int... kFrom>
inline Vec<T> shuffle(Vec<T> a, Vec<T> b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, kFrom...);
#else
  return __builtin_shuffle(a, b, Bits<T>{kFrom...});
#endif
}

// Exchanges the off-diagonal quarters of all blocks of 2 kStep x 2 kStep along the
// diagonal, in two of their rows that are kStep apart.
template <typename T, int kStep, int... kLane>
inline void exchange(Vec<T>* upper, Vec<T>* lower,
                     std::integer_sequence<int, kLane...>) {
  constexpr int kAll = kLanes<T>;
  const Vec<T> a = *upper, b = *lower;
  *upper = shuffle<T, (kLane & kStep ? kAll + kLane - kStep : kLane)...>(a, b);
  *lower = shuffle<T, (kLane & kStep ? kAll + kLane : kLane + kStep)...>(a, b);
}

// Transposes as many vectors as one has lanes.
template <typename T, int kStep = 1>
inline void transpose_lanes(Vec<T>* rows) {
  if constexpr (kStep < kLanes<T>) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i)
      if (!(i & kStep))
        exchange<T, kStep>(rows + i, rows + i + kStep,
                           std::make_integer_sequence<int, kLanes<T>>());
    transpose_lanes<T, 2 * kStep>(rows);
  }
}

// to[j][i] = from[i][j] for rows and cols that are multiples of the lanes.
template <typename T>
inline void transpose(const T* from, int64_t from_stride, int64_t rows, int64_t cols,
                      T* to, int64_t to_stride) {
  constexpr int kAll = kLanes<T>;
  for (int64_t i = 0; i < rows; i += kAll)
    for (int64_t j = 0; j < cols; j += kAll) {
      Vec<T> block[kAll];
#pragma GCC unroll 16
      for (int r = 0; r < kAll; ++r) block[r] = load(from + (i + r) * from_stride + j);
      transpose_lanes<T>(block);
#pragma GCC unroll 16
      for (int r = 0; r < kAll; ++r) store(to + (j + r) * to_stride + i, block[r]);
    }
}

// Stores v in the type of what `to` points to.
inline void store_rounded(double* to, Vec<double> v) { store(to, v); }

inline void store_rounded(float* to, Vec<double> v) {
  typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
  const Half rounded = __builtin_convertvector(v, Half);
  __builtin_memcpy(to, &rounded, sizeof rounded);
}

// to[0..lanes) += v, in double.
inline void add_to(double* to, Vec<double> v) { store(to, load(to) + v); }

inline void add_to(double* to, Vec<float> v) {
#if defined(__AVX512F__)  // GCC widens a half in six instructions, not one
  const __m256 low = _mm512_castps512_ps256((__m512)v);
  const __m256 high = _mm512_extractf32x8_ps((__m512)v, 1);
  add_to(to, (Vec<double>)_mm512_maskz_cvtps_pd(-1, low));
  add_to(to + kLanes<double>, (Vec<double>)_mm512_maskz_cvtps_pd(-1, high));
#else
  typedef float Half __attribute__((vector_size(kVectorBytes / 2)));
  struct {
    Half low, high;
  } halves;
  __builtin_memcpy(&halves, &v, sizeof v);
  add_to(to, __builtin_convertvector(halves.low, Vec<double>));
  add_to(to + kLanes<double>, __builtin_convertvector(halves.high, Vec<double>));
#endif
}

template <typename T>
struct Exp2Constants;

// Coefficients of (2^r - 1) / r, the highest first: least squares on Chebyshev's nodes,
// weighted until the largest error of 2^r in |r| <= 1/2 was least, 2e-9 of it.
template <>
struct Exp2Constants<float> {
  static constexpr float kLowest = -125.5f;
  static constexpr float kShifter = 12582912.0f;  // 1.5 * 2^23
  static constexpr int kMantissaBits = 23, kDegree = 6;
  static constexpr float kPolynomial[kDegree] = {1.5353347e-4f, 1.3398875e-3f,
                                                 9.6184378e-3f, 5.5503324e-2f,
                                                 2.4022648e-1f, 6.9314718e-1f};
};

// Taylor's, ln(2)^i / i!, whose error is below 1e-17.
template <>
struct Exp2Constants<double> {
  static constexpr double kLowest = -1021.5;
  static constexpr double kShifter = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissaBits = 52, kDegree = 13;
  static constexpr double kPolynomial[kDegree] = {
      1.36914888539041281e-12, 2.56784359934882055e-11, 4.44553827187081162e-10,
      7.05491162080112336e-09, 1.01780860092396999e-07, 1.32154867901443095e-06,
      1.52527338040598411e-05, 1.54035303933816088e-04, 1.33335581464284433e-03,
      9.61812910762847688e-03, 5.55041086648215831e-02, 2.40226506959100722e-01,
      6.93147180559945286e-01};
};

constexpr double kLog2E = 1.44269504088896340736;

// 2^x to about one unit in the last place for x below 115; 2^kLowest for anything
// smaller. NaN stays NaN.
template <typename T>
inline Vec<T> exp2_vec(Vec<T> x) {
  using C = Exp2Constants<T>;
  x = max_vec<T>(C::kLowest - Vec<T>{}, x);
  // Adding 1.5 * 2^mantissa rounds to an integer, which then stands in the low bits.
  const Vec<T> shifted = x + C::kShifter;
  const Vec<T> r = x - (shifted - C::kShifter);
  Vec<T> p = C::kPolynomial[0] - Vec<T>{};
  for (int i = 1; i < C::kDegree; ++i) p = p * r + C::kPolynomial[i];
  const Vec<T> y = p * r + T(1);
  return (Vec<T>)((Bits<T>)y + ((Bits<T>)shifted << C::kMantissaBits));
}

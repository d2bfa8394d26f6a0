// Vectors of the instruction set that a file is compiled for, in the compiler's own vector extension: one source for
// all of them. Everything lies in a namespace of that instruction set, and nothing here instantiates the standard
// library: the linker keeps one copy of an inline function, and it might keep the one that needs AVX-512.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#if NFKERN_VECTOR_BYTES >= 32
#include <immintrin.h>
#endif

namespace nfkern::NFKERN_ISA {

constexpr int kVectorBytes = NFKERN_VECTOR_BYTES;

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef int32_t integers __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
  typedef int64_t integers __attribute__((vector_size(kVectorBytes)));
};

template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
using IntVec = typename VectorOf<T>::integers;
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
inline Vec<T> load(const T* from) {
  Vec<T> value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
inline void store(T* to, Vec<T> value) {
  __builtin_memcpy(to, &value, sizeof value);
}

// The first `count` lanes; the others are zero.
#if NFKERN_VECTOR_BYTES == 64
inline Vec<float> load_some(const float* from, int count) {
  return reinterpret_cast<Vec<float>>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from));
}
#endif

template <class T>
inline Vec<T> load_some(const T* from, int count) {
  T lanes[kLanes<T>] = {};
  for (int i = 0; i < count; ++i) lanes[i] = from[i];
  return load(lanes);
}

template <class T>
inline void store_some(T* to, Vec<T> value, int count) {
  T lanes[kLanes<T>];
  store(lanes, value);
  for (int i = 0; i < count; ++i) to[i] = lanes[i];
}

template <class T>
inline Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // x - 0 is x, of -0 too
}

// The first halves (or the second) of x's and y's blocks of 2H lanes, next to each other.
template <class T, int H, bool Second, int... I>
inline Vec<T> halves(Vec<T> x, Vec<T> y, std::integer_sequence<int, I...>) {
  constexpr int shift = Second ? H : 0;
#if defined(__clang__)
  return __builtin_shufflevector(x, y, (I % (2 * H) < H ? I + shift : I - H + kLanes<T> + shift)...);
#else
  return __builtin_shuffle(x, y, IntVec<T>{(I % (2 * H) < H ? I + shift : I - H + kLanes<T> + shift)...});
#endif
}

template <class T, int H>
inline Vec<T> first_halves(Vec<T> x, Vec<T> y) {
  return halves<T, H, false>(x, y, std::make_integer_sequence<int, kLanes<T>>());
}

template <class T, int H>
inline Vec<T> second_halves(Vec<T> x, Vec<T> y) {
  return halves<T, H, true>(x, y, std::make_integer_sequence<int, kLanes<T>>());
}

// Sums over the lanes of `kLanes` vectors, as one vector: lane i is the sum of vectors[i]. Overwrites them.
template <class T, int H = kLanes<T> / 2>
inline Vec<T> sum_each(Vec<T>* vectors) {
#pragma GCC unroll 16
  for (int i = 0; i < H; ++i)
    vectors[i] = first_halves<T, H>(vectors[i], vectors[i + H]) + second_halves<T, H>(vectors[i], vectors[i + H]);
  if constexpr (H > 1) {
    return sum_each<T, H / 2>(vectors);
  } else {
    return vectors[0];
  }
}

// A square of `kLanes` vectors becomes its transpose.
template <class T, int H = kLanes<T> / 2>
inline void transpose(Vec<T>* vectors) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) {
    if (i & H) continue;
    const Vec<T> x = vectors[i], y = vectors[i + H];
    vectors[i] = first_halves<T, H>(x, y);
    vectors[i + H] = second_halves<T, H>(x, y);
  }
  if constexpr (H > 1) transpose<T, H / 2>(vectors);
}

template <class T>
inline T sum(Vec<T> value) {
  T lanes[kLanes<T>], total = 0;
  store(lanes, value);
  for (int i = 0; i < kLanes<T>; ++i) total += lanes[i];
  return total;
}

constexpr double kNegativeSlope = 0.01;

template <class T>
inline Vec<T> leaky_relu(Vec<T> x) {
  return x > 0 ? x : x * static_cast<T>(kNegativeSlope);
}

// e^x. float: Cephes' reduction and polynomial, at most 1.3 units in the last place from the exact value.
inline Vec<float> exponential(Vec<float> x) {
  x = x > 89.0f ? broadcast(89.0f) : x;
  x = x < -104.0f ? broadcast(-104.0f) : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec<float> n = (x * 1.44269504088896341f + magic) - magic;
  const Vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^n in two factors: n = 128 and denormal results have no single one. A NaN's n is whatever: p stays NaN.
  const Vec<float> bounded = n == n ? n : Vec<float>{};
  const IntVec<float> whole = __builtin_convertvector(bounded, IntVec<float>), half = whole >> 1;
  return p * reinterpret_cast<Vec<float>>((half + 127) << 23) *
         reinterpret_cast<Vec<float>>((whole - half + 127) << 23);
}

inline Vec<double> exponential(Vec<double> x) {
  double lanes[kLanes<double>];
  store(lanes, x);
  for (double& lane : lanes) lane = std::exp(lane);
  return load(lanes);
}

// 1 / (1 + e^-x), by `exponential`'s polynomial: where that needs two factors for 2^n, this is 0 or 1 to within 1e-38.
inline Vec<float> sigmoid(Vec<float> x) {
  x = x > 87.0f ? broadcast(87.0f) : x;
  x = x < -87.0f ? broadcast(-87.0f) : x;
  const float magic = 12582912.0f;
  const Vec<float> shifted = x * -1.44269504088896341f + magic, n = shifted - magic;
  const Vec<float> r = n * 2.12194440e-4f - (x + n * 0.693359375f);
  Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // n stands in the lowest bits of `shifted`; those above it are shifted out.
  const Vec<float> power = reinterpret_cast<Vec<float>>((reinterpret_cast<IntVec<float>>(shifted) + 127) << 23);
  return 1.0f / (p * power + 1.0f);
}

inline Vec<double> sigmoid(Vec<double> x) { return 1.0 / (exponential(-x) + 1.0); }

// e^(sign * x), in blocks of vectors.
template <class T>
void exponentials(int64_t count, const T* x, T sign, T* result) {
  constexpr int L = kLanes<T>;
  int64_t i = 0;
  for (; i + L <= count; i += L) store(result + i, exponential(load(x + i) * sign));
  if (i < count) {
    const int rest = static_cast<int>(count - i);
    store_some(result + i, exponential(load_some(x + i, rest) * sign), rest);
  }
}

// x / (1 + e^-x)
template <class T>
inline Vec<T> silu(Vec<T> x) {
  return x / (exponential(-x) + T(1));
}

template <class T>
inline Vec<T> square_root(Vec<T> x) {
  T lanes[kLanes<T>];
  store(lanes, x);
  for (T& lane : lanes) lane = std::sqrt(lane);
  return load(lanes);
}

}  // namespace nfkern::NFKERN_ISA

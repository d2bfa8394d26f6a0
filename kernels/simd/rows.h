// Products of a weight with one row: vectors run along the row's features, and a few weights' rows are read at a time.
#pragma once

#include "bf16.h"

namespace nfkern::NFKERN_ISA {

// R rows of a weight times x, each to be summed over lanes. One row after the other is what the hardware foresees: 90
// GB/s of the third cache's 98, where 16 side by side get 67. Of weights that only the memory holds, 16 side by side
// are better, if what is read some groups of rows later goes to the second cache, one line for each that is read now: a
// flow with 40 MB of weights takes 1.7 ms instead of 2.6 without, one with 25 MB, half in bf16, 0.9 instead of 2.3,
// or 1.0 row after row (Zen 4, 2026-11).
template <int R, class A>
inline void fetch_ahead(const A* from, int i) {
  if constexpr (R > 1)
    if (i * kVectorBytes % 64 == 0) __builtin_prefetch(from, 0, 2);
}
constexpr int64_t kGroupsAhead = 4;

template <class T>
constexpr int rows_at_a_time(bool far) {
  return far ? kLanes<T> : 1;
}

template <int R, class T>
inline void dot_rows(int64_t depth, const T* rows, const T* x, Vec<T>* result) {
  constexpr int L = kLanes<T>, U = R == 1 ? 2 : 1;  // two sums hide the additions' latency
  Vec<T> sums[U][R] = {};
  int64_t k = 0;
  for (; k + U * L <= depth; k += U * L)
#pragma GCC unroll 2
    for (int u = 0; u < U; ++u) {
      const Vec<T> part = load(x + k + u * L);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        fetch_ahead<R>(rows + (kGroupsAhead * depth + k + i) * L, i);
        sums[u][i] += load(rows + i * depth + k + u * L) * part;
      }
    }
  for (; k < depth; k += L) {
    const int count = static_cast<int>(depth - k < L ? depth - k : L);
    const Vec<T> part = load_some(x + k, count);
    for (int i = 0; i < R; ++i) sums[0][i] += load_some(rows + i * depth + k, count) * part;
  }
  for (int i = 0; i < R; ++i) result[i] = U == 1 ? sums[0][i] : sums[0][i] + sums[U - 1][i];
}

// result (outputs) = [bias or 0] + weight (outputs, depth) x (depth). Far: the weight is likely to be in memory.
template <class T, bool Far = false>
void dots(int64_t outputs, int64_t depth, const T* weight, const T* x, const T* bias, T* result) {
  constexpr int L = kLanes<T>, R = rows_at_a_time<T>(Far);
  Vec<T> sums[L];
  int64_t j = 0;
  for (; j + L <= outputs; j += L) {
    for (int i = 0; i < L; i += R) dot_rows<R>(depth, weight + (j + i) * depth, x, sums + i);
    const Vec<T> total = sum_each<T>(sums);
    store(result + j, bias ? total + load(bias + j) : total);
  }
  for (; j < outputs; ++j) {
    dot_rows<1>(depth, weight + j * depth, x, sums);
    result[j] = sum<T>(sums[0]) + (bias ? bias[j] : T(0));
  }
}

template <class T, int C, bool Add>
void add_scaled_rows(int64_t outputs, int64_t depth, const T* weight, const T* x, T* result) {
  constexpr int L = kLanes<T>;
  Vec<T> sums[C];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) sums[c] = Add ? load(result + c * L) : Vec<T>{};
  for (int64_t j = 0; j < depth; ++j)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sums[c] += load(weight + j * outputs + c * L) * x[j];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) store(result + c * L, sums[c]);
}

// result (outputs) = [result or 0] + weight^T x, for weight (depth, outputs) and x (depth).
template <class T, bool Add = false>
void dots_transposed(int64_t outputs, int64_t depth, const T* weight, const T* x, T* result) {
  constexpr int L = kLanes<T>;
  int64_t k = 0;
  for (; k + 8 * L <= outputs; k += 8 * L) add_scaled_rows<T, 8, Add>(outputs, depth, weight + k, x, result + k);
  for (; k + L <= outputs; k += L) add_scaled_rows<T, 1, Add>(outputs, depth, weight + k, x, result + k);
  for (; k < outputs; ++k) {
    T total = Add ? result[k] : T(0);
    for (int64_t j = 0; j < depth; ++j) total += weight[j * outputs + k] * x[j];
    result[k] = total;
  }
}

#if defined(NFKERN_BF16_DOT)

// A row as pairs of bfloat16, the last with a zero if the width is odd; room for one vector more than it needs.
inline void pair_row(int64_t depth, const float* x, uint16_t* pairs) {
  constexpr int L = kLanes<float>;
  for (int64_t k = 0; k < depth; k += L) {
    const int count = static_cast<int>(depth - k < L ? depth - k : L);
    const IntVec<float> upper = round_to_bf16(count == L ? load(x + k) : load_some(x + k, count)) >> 16;
    const HalfVec half = __builtin_convertvector(upper, HalfVec);
    __builtin_memcpy(pairs + k, &half, sizeof half);
  }
  for (int i = 0; i < 2 * L; ++i) pairs[(depth + L - 1) / L * L + i] = 0;
}

inline __m512bh load_pairs(const uint16_t* from, int64_t count) {
  const __mmask32 mask = count >= 32 ? ~0u : (1u << count) - 1;
  return reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(mask, from));
}

inline __m512bh all_pairs(const uint16_t* from) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from)); }

inline Vec<float> dot_pairs(Vec<float> sum, __m512bh a, __m512bh b) {
  return reinterpret_cast<Vec<float>>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), a, b));
}

template <int R>
inline void bf16_dot_rows(int64_t depth, const uint16_t* rows, const uint16_t* pairs, Vec<float>* result) {
  constexpr int L = kLanes<float>, U = R == 1 ? 2 : 1;
  Vec<float> sums[U][R] = {};
  int64_t k = 0;
  for (; k + 2 * U * L <= depth; k += 2 * U * L)
#pragma GCC unroll 2
    for (int u = 0; u < U; ++u) {
      const __m512bh part = all_pairs(pairs + k + 2 * u * L);
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i) {
        fetch_ahead<R>(rows + (kGroupsAhead * depth + k + 2 * i) * L, i);
        sums[u][i] = dot_pairs(sums[u][i], all_pairs(rows + i * depth + k + 2 * u * L), part);
      }
    }
  for (; k < depth; k += 2 * L)
    for (int i = 0; i < R; ++i)
      sums[0][i] = dot_pairs(sums[0][i], load_pairs(rows + i * depth + k, depth - k), load_pairs(pairs + k, depth - k));
  for (int i = 0; i < R; ++i) result[i] = U == 1 ? sums[0][i] : sums[0][i] + sums[U - 1][i];
}

template <bool Far = false>
void bf16_dots(int64_t outputs, int64_t depth, const uint16_t* weight, const float* x, const float* bias, float* result,
               float* scratch) {
  constexpr int L = kLanes<float>, R = rows_at_a_time<float>(Far);
  uint16_t* pairs = reinterpret_cast<uint16_t*>(scratch);
  pair_row(depth, x, pairs);
  Vec<float> sums[L];
  int64_t j = 0;
  for (; j + L <= outputs; j += L) {
    for (int i = 0; i < L; i += R) bf16_dot_rows<R>(depth, weight + (j + i) * depth, pairs, sums + i);
    store(result + j, sum_each<float>(sums) + load(bias + j));
  }
  for (; j < outputs; ++j) {
    bf16_dot_rows<1>(depth, weight + j * depth, pairs, sums);
    result[j] = sum<float>(sums[0]) + bias[j];
  }
}

// 32 * U columns of weight^T x: rows j and j + 1 are interleaved, which leaves columns in the order that `columns`
// mends.
template <int U>
inline void bf16_columns(int64_t outputs, int64_t depth, const uint16_t* weight, const uint16_t* pairs, float* result) {
  Vec<float> sums[2 * U] = {};
  for (int64_t j = 0; j < depth; j += 2) {
    int32_t pair;
    __builtin_memcpy(&pair, pairs + j, sizeof pair);
    const __m512bh x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const uint16_t* row = weight + j * outputs + u * 32;
      const __m512i first = _mm512_loadu_si512(row);
      const __m512i second = j + 1 < depth ? _mm512_loadu_si512(row + outputs) : _mm512_setzero_si512();
      sums[2 * u] = dot_pairs(sums[2 * u], reinterpret_cast<__m512bh>(_mm512_unpacklo_epi16(first, second)), x);
      sums[2 * u + 1] = dot_pairs(sums[2 * u + 1], reinterpret_cast<__m512bh>(_mm512_unpackhi_epi16(first, second)), x);
    }
  }
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    const __m512d low = reinterpret_cast<__m512d>(sums[2 * u]), high = reinterpret_cast<__m512d>(sums[2 * u + 1]);
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                  second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    store(result + u * 32, reinterpret_cast<Vec<float>>(_mm512_permutex2var_pd(low, first, high)));
    store(result + u * 32 + 16, reinterpret_cast<Vec<float>>(_mm512_permutex2var_pd(low, second, high)));
  }
}

inline void bf16_dots_transposed(int64_t outputs, int64_t depth, const uint16_t* weight, const float* x, float* result,
                                 float* scratch) {
  uint16_t* pairs = reinterpret_cast<uint16_t*>(scratch);
  pair_row(depth, x, pairs);
  int64_t k = 0;
  for (; k + 128 <= outputs; k += 128) bf16_columns<4>(outputs, depth, weight + k, pairs, result + k);
  for (; k + 32 <= outputs; k += 32) bf16_columns<1>(outputs, depth, weight + k, pairs, result + k);
  for (; k < outputs; ++k) {
    float total = 0;
    for (int64_t j = 0; j < depth; ++j) {
      const uint32_t w = static_cast<uint32_t>(weight[j * outputs + k]) << 16, v = static_cast<uint32_t>(pairs[j])
                                                                                   << 16;
      float a, b;
      __builtin_memcpy(&a, &w, sizeof a);
      __builtin_memcpy(&b, &v, sizeof b);
      total += a * b;
    }
    result[k] = total;
  }
}

#else

inline float widened(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}

template <bool Far = false>
void bf16_dots(int64_t outputs, int64_t depth, const uint16_t* weight, const float* x, const float* bias, float* result,
               float*) {
  constexpr int L = kLanes<float>;
  for (int64_t j = 0; j < outputs; ++j) {
    const uint16_t* row = weight + j * depth;
    Vec<float> sums[2] = {};
    int64_t k = 0;
    for (; k + 2 * L <= depth; k += 2 * L)
      for (int i = 0; i < 2; ++i)
        sums[i] += reinterpret_cast<Vec<float>>(upper_halves(row + k + i * L)) * load(x + k + i * L);
    float total = sum<float>(sums[0] + sums[1]) + bias[j];
    for (; k < depth; ++k) total += widened(row[k]) * x[k];
    result[j] = total;
  }
}

inline void bf16_dots_transposed(int64_t outputs, int64_t depth, const uint16_t* weight, const float* x, float* result,
                                 float*) {
  constexpr int L = kLanes<float>;
  int64_t k = 0;
  for (; k + 4 * L <= outputs; k += 4 * L) {
    Vec<float> sums[4] = {};
    for (int64_t j = 0; j < depth; ++j)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        sums[i] += reinterpret_cast<Vec<float>>(upper_halves(weight + j * outputs + k + i * L)) * x[j];
    for (int i = 0; i < 4; ++i) store(result + k + i * L, sums[i]);
  }
  for (; k < outputs; ++k) {
    float total = 0;
    for (int64_t j = 0; j < depth; ++j) total += widened(weight[j * outputs + k]) * x[j];
    result[k] = total;
  }
}

#endif

// `PanelLayer` on one row.
template <class T>
struct RowLayer {
  T* activation;
  T mean, rstd;

  Vec<T> normalized(int64_t unit) const { return (load(activation + unit) - mean) * rstd; }
  T normalized_one(int64_t unit) const { return (activation[unit] - mean) * rstd; }

  template <bool Leaky>
  void normalize(int64_t width, T eps) {
    constexpr int L = kLanes<T>;
    const int64_t whole = width / L * L;
    T* u = activation;
    Vec<T> sums = {}, squares = {};
    for (int64_t j = 0; j < whole; j += L) {
      Vec<T> part = load(u + j);
      if constexpr (Leaky) store(u + j, part = leaky_relu<T>(part));
      sums += part;
    }
    T total = sum<T>(sums), square = 0;
    for (int64_t j = whole; j < width; ++j) {
      if (Leaky && !(u[j] > 0)) u[j] *= static_cast<T>(kNegativeSlope);
      total += u[j];
    }
    mean = total / static_cast<T>(width);
    for (int64_t j = 0; j < whole; j += L) {
      const Vec<T> centred = load(u + j) - mean;
      squares += centred * centred;
    }
    for (int64_t j = whole; j < width; ++j) square += (u[j] - mean) * (u[j] - mean);
    rstd = T(1) / std::sqrt((sum<T>(squares) + square) / static_cast<T>(width) + eps);
  }

  void scale(int64_t width, const T* weight, const T* bias, T* scaled) const {
    constexpr int L = kLanes<T>;
    int64_t j = 0;
    for (; j + L <= width; j += L) {
      const Vec<T> unit = normalized(j);
      store(scaled + j, weight ? unit * load(weight + j) + load(bias + j) : unit);
    }
    for (; j < width; ++j) {
      const T unit = normalized_one(j);
      scaled[j] = weight ? unit * weight[j] + bias[j] : unit;
    }
  }
};

}  // namespace nfkern::NFKERN_ISA

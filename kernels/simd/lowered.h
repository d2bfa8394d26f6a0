// Products with weights of either lowered kind, on a panel or on a row. Those in int8 become float32 on the way, and
// activations and sums stay in float32: what is multiplied is exactly `scale * int8`.
#pragma once

#include "lowered_weight.h"
#include "rows.h"

namespace nfkern::NFKERN_ISA {

// `kLanes` numbers. GCC 12 takes such a conversion apart, number by number, and warns of an undefined operand without
// the mask.
inline Vec<float> from_int8(const int8_t* from) {
#if NFKERN_VECTOR_BYTES == 64
  const __m512i whole =
      _mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  return __builtin_convertvector(reinterpret_cast<IntVec<float>>(whole), Vec<float>);
#elif NFKERN_VECTOR_BYTES == 32
  const __m256i whole = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  return __builtin_convertvector(reinterpret_cast<IntVec<float>>(whole), Vec<float>);
#else
  Vec<float> numbers;
  for (int i = 0; i < kLanes<float>; ++i) numbers[i] = from[i];
  return numbers;
#endif
}

inline Vec<float> from_some_int8(const int8_t* from, int64_t count) {
  int8_t lanes[kLanes<float>] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = from[i];
  return from_int8(lanes);
}

// weight (rows, columns) in float32.
inline void widen(int64_t rows, int64_t columns, const int8_t* weight, const float* scale, float* to) {
  constexpr int L = kLanes<float>;
  for (int64_t j = 0; j < rows; ++j, weight += columns, to += columns) {
    int64_t k = 0;
    for (; k + L <= columns; k += L) store(to + k, from_int8(weight + k) * scale[j]);
    for (; k < columns; ++k) to[k] = static_cast<float>(weight[k]) * scale[j];
  }
}

// R rows times x, without scale, each to be summed over lanes: see `dot_rows`.
template <int R>
inline void int8_dot_rows(int64_t depth, const int8_t* rows, const float* x, Vec<float>* result) {
  constexpr int L = kLanes<float>, S = 4, U = R == 1 ? S : 1;
  Vec<float> sums[U][R] = {};
  int64_t k = 0;
  for (; k + S * L <= depth; k += S * L) {
    Vec<float> part[S];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) part[s] = load(x + k + s * L);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      fetch_ahead<R>(rows + (kGroupsAhead * depth + k + S * i) * L, i);
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) sums[s % U][i] += from_int8(rows + i * depth + k + s * L) * part[s];
    }
  }
  for (; k < depth; k += L) {
    const int count = static_cast<int>(depth - k < L ? depth - k : L);
    const Vec<float> part = load_some(x + k, count);
    for (int i = 0; i < R; ++i) sums[0][i] += from_some_int8(rows + i * depth + k, count) * part;
  }
  for (int i = 0; i < R; ++i) {
    result[i] = sums[0][i];
    for (int u = 1; u < U; ++u) result[i] += sums[u][i];
  }
}

// Four rows side by side, which share what is loaded of x, take 0.95 of the time back to back, but after a pause the
// paper's flow with its encoder took a quarter longer: the hardware does not foresee them (Zen 4, 2026-12).
template <bool Far = false>
void int8_dots(int64_t outputs, int64_t depth, const int8_t* weight, const float* scale, const float* x,
               const float* bias, float* result) {
  constexpr int L = kLanes<float>, R = rows_at_a_time<float>(Far);
  Vec<float> sums[L];
  int64_t j = 0;
  for (; j + L <= outputs; j += L) {
    for (int i = 0; i < L; i += R) int8_dot_rows<R>(depth, weight + (j + i) * depth, x, sums + i);
    store(result + j, sum_each<float>(sums) * load(scale + j) + load(bias + j));
  }
  for (; j < outputs; ++j) {
    int8_dot_rows<1>(depth, weight + j * depth, x, sums);
    result[j] = sum<float>(sums[0]) * scale[j] + bias[j];
  }
}

template <int C>
void int8_columns(int64_t outputs, int64_t depth, const int8_t* weight, const float* x, float* result) {
  constexpr int L = kLanes<float>;
  Vec<float> sums[C] = {};
  for (int64_t j = 0; j < depth; ++j)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sums[c] += from_int8(weight + j * outputs + c * L) * x[j];
#pragma GCC unroll 8
  for (int c = 0; c < C; ++c) store(result + c * L, sums[c]);
}

// scratch: depth floats
inline void int8_dots_transposed(int64_t outputs, int64_t depth, const int8_t* weight, const float* scale,
                                 const float* x, float* result, float* scratch) {
  constexpr int L = kLanes<float>;
  for (int64_t j = 0; j < depth; ++j) scratch[j] = x[j] * scale[j];
  int64_t k = 0;
  for (; k + 8 * L <= outputs; k += 8 * L) int8_columns<8>(outputs, depth, weight + k, scratch, result + k);
  for (; k + L <= outputs; k += L) int8_columns<1>(outputs, depth, weight + k, scratch, result + k);
  for (; k < outputs; ++k) {
    float total = 0;
    for (int64_t j = 0; j < depth; ++j) total += static_cast<float>(weight[j * outputs + k]) * scratch[j];
    result[k] = total;
  }
}

// bias + weight (rows, columns) times panel (columns, N vectors); scratch as of `bf16_product`.
template <int N>
void lowered_product(int64_t rows, int64_t columns, const LoweredWeight& weight, const float* panel, float* result,
                     int64_t result_row, const float* bias, float* scratch) {
  if (weight.bf16) return bf16_product<N>(rows, columns, weight.bf16, panel, result, result_row, bias, scratch);
  widen(rows, columns, weight.int8, weight.scale, scratch);
  multiply<float, float, N>(rows, columns, scratch, columns, 1, panel, result, result_row, bias, false);
}

// And its transpose times panel (rows, N vectors); scratch as of `bf16_product_transposed`.
template <int N>
void lowered_product_transposed(int64_t rows, int64_t columns, const LoweredWeight& weight, const float* panel,
                                float* result, float* scratch) {
  if (weight.bf16) return bf16_product_transposed<N>(rows, columns, weight.bf16, panel, result, scratch);
  widen(rows, columns, weight.int8, weight.scale, scratch);
  multiply<float, float, N>(columns, rows, scratch, 1, columns, panel, result, N * kLanes<float>, nullptr, false);
}

// bias + weight (outputs, depth) x (depth).
template <bool Far = false>
void lowered_dots(int64_t outputs, int64_t depth, const LoweredWeight& weight, const float* x, const float* bias,
                  float* result, float* scratch) {
  if (weight.bf16) return bf16_dots<Far>(outputs, depth, weight.bf16, x, bias, result, scratch);
  int8_dots<Far>(outputs, depth, weight.int8, weight.scale, x, bias, result);
}

// weight^T x, for weight (depth, outputs) and x (depth).
inline void lowered_dots_transposed(int64_t outputs, int64_t depth, const LoweredWeight& weight, const float* x,
                                    float* result, float* scratch) {
  if (weight.bf16) return bf16_dots_transposed(outputs, depth, weight.bf16, x, result, scratch);
  int8_dots_transposed(outputs, depth, weight.int8, weight.scale, x, result, scratch);
}

}  // namespace nfkern::NFKERN_ISA

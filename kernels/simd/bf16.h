// Products with weights in bfloat16, the upper half of a float32: where the machine multiplies pairs of them,
// activations are rounded too; elsewhere weights become float32 on the way, and only their storage is smaller.
#pragma once

#include "products.h"

namespace nfkern::NFKERN_ISA {

#if defined(NFKERN_BF16_DOT)
constexpr bool kBf16Dot = true;
#else
constexpr bool kBf16Dot = false;
#endif

typedef uint16_t HalfVec __attribute__((vector_size(kVectorBytes / 2)));

// `kLanes` bfloat16 as the upper halves of integers.
inline IntVec<float> upper_halves(const uint16_t* from) {
  HalfVec half;
  __builtin_memcpy(&half, from, sizeof half);
  return __builtin_convertvector(half, IntVec<float>) << 16;
}

// Rounded to the nearest bfloat16, ties to even; in the upper halves, the lower ones are zero.
inline IntVec<float> round_to_bf16(Vec<float> x) {
  const IntVec<float> bits = reinterpret_cast<IntVec<float>>(x);
  const IntVec<float> rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return (x == x ? rounded : bits | 0x400000) & static_cast<int32_t>(0xffff0000);
}

// Neighbours along the sum next to each other: (depth, N vectors) of float32 -> (depth / 2, N vectors) of pairs.
template <int N>
void pair_panel(int64_t depth, const float* panel, int32_t* pairs) {
  constexpr int L = kLanes<float>, P = N * L;
  for (int64_t k = 0; k < depth; k += 2)
    for (int n = 0; n < N; ++n) {
      const IntVec<float> low = round_to_bf16(load(panel + k * P + n * L));
      const IntVec<float> high = round_to_bf16(load(panel + (k + 1) * P + n * L));
      const IntVec<float> pair = high | ((low >> 16) & 0xffff);
      __builtin_memcpy(pairs + k / 2 * P + n * L, &pair, sizeof pair);
    }
}

// Pairs of a weight (rows, columns) whose transpose multiplies: rows 2i and 2i + 1 -> (rows / 2, columns).
inline void pair_rows(int64_t rows, int64_t columns, const uint16_t* weight, int32_t* pairs) {
  constexpr int L = kLanes<float>;
  for (int64_t j = 0; j < rows; j += 2, pairs += columns) {
    const uint16_t *low = weight + j * columns, *high = low + columns;
    int64_t k = 0;
    for (; k + L <= columns; k += L) {
      const IntVec<float> pair = upper_halves(high + k) | ((upper_halves(low + k) >> 16) & 0xffff);
      __builtin_memcpy(pairs + k, &pair, sizeof pair);
    }
    for (; k < columns; ++k) pairs[k] = static_cast<int32_t>(static_cast<uint32_t>(high[k]) << 16 | low[k]);
  }
}

inline void widen(int64_t count, const uint16_t* from, float* to) {
  constexpr int L = kLanes<float>;
  int64_t i = 0;
  for (; i + L <= count; i += L) store(to + i, reinterpret_cast<Vec<float>>(upper_halves(from + i)));
  for (; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    __builtin_memcpy(to + i, &bits, sizeof bits);
  }
}

// [result] + bias + weight (rows, columns) in bfloat16 times panel (columns, N vectors); scratch: rows * columns
// floats.
template <int N>
void bf16_product(int64_t rows, int64_t columns, const uint16_t* weight, const float* panel, float* result,
                  int64_t result_row, const float* bias, float* scratch, bool add = false) {
#if defined(NFKERN_BF16_DOT)
  if (columns % 2 == 0) {
    pair_panel<N>(columns, panel, reinterpret_cast<int32_t*>(scratch));
    multiply<float, Bf16Pair, N>(rows, columns / 2, reinterpret_cast<const Bf16Pair*>(weight), columns / 2, 1, scratch,
                                 result, result_row, bias, add);
    return;
  }
#endif
  widen(rows * columns, weight, scratch);
  multiply<float, float, N>(rows, columns, scratch, columns, 1, panel, result, result_row, bias, add);
}

// And its transpose (columns, rows) times panel (rows, N vectors); scratch: rows * (columns + P) floats.
template <int N>
void bf16_product_transposed(int64_t rows, int64_t columns, const uint16_t* weight, const float* panel, float* result,
                             float* scratch) {
  constexpr int P = N * kLanes<float>;
#if defined(NFKERN_BF16_DOT)
  if (rows % 2 == 0) {
    float* paired = scratch + rows / 2 * P;
    pair_panel<N>(rows, panel, reinterpret_cast<int32_t*>(scratch));
    pair_rows(rows, columns, weight, reinterpret_cast<int32_t*>(paired));
    multiply<float, Bf16Pair, N>(columns, rows / 2, reinterpret_cast<const Bf16Pair*>(paired), 1, columns, scratch,
                                 result, P, nullptr, false);
    return;
  }
#endif
  widen(rows * columns, weight, scratch);
  multiply<float, float, N>(columns, rows, scratch, 1, columns, panel, result, P, nullptr, false);
}

}  // namespace nfkern::NFKERN_ISA

// Matrix products. Weights are read in PyTorch's own layout, (out, in) row by row, so nothing is packed ahead of a call
// and nothing can be stale.
//
// Many rows: a *panel* holds N vectors of rows side by side, (features, N * lanes): a weight is broadcast and
// multiplies whole vectors of rows, so sums over features never leave their lanes. Few rows: vectors run along a row's
// features.
#pragma once

#include "vector.h"
#if defined(NFKERN_BF16_DOT)
#include <immintrin.h>
#endif

namespace nfkern::NFKERN_ISA {

// Rows of weights that a tile of a panel takes: as many sums as registers allow, of which there are 32 with AVX-512 and
// on ARM, 16 elsewhere. But with AVX-512 and one vector eight rows are enough to keep both units busy, and no more of
// them fit into the first cache's eight ways where rows lie 2 KiB apart: 24 rows of 512 weights took twice as long
// (Zen 4, 2026-11). On ARM 16 sums are enough for four units of four cycles, the most that its cores have; GCC 12 keeps
// some of 22 in memory, and addresses of 16 rows. That is what its code says: nothing was timed there.
template <int N>
#if NFKERN_VECTOR_BYTES == 64
constexpr int kTile = N == 1 ? 8 : 24 / N;
#elif defined(__aarch64__)
constexpr int kTile = N == 1 ? 12 : 16 / N;
#else
constexpr int kTile = 12 / N;
#endif

// Two neighbours along the sum; aligned as one of them is.
struct Bf16Pair {
  uint16_t halves[2];
};

template <class T, class A>
struct Multiply;

template <class T>
struct Multiply<T, T> {
  static Vec<T> weight(const T* a) { return broadcast(*a); }
  static void add(Vec<T>& sum, Vec<T> a, Vec<T> b) { sum += a * b; }
};

#if defined(NFKERN_BF16_DOT)
template <>
struct Multiply<float, Bf16Pair> {
  static Vec<float> weight(const Bf16Pair* a) {
    int32_t bits;
    __builtin_memcpy(&bits, a, sizeof bits);
    return reinterpret_cast<Vec<float>>(bits - IntVec<float>{});
  }
  static void add(Vec<float>& sum, Vec<float> a, Vec<float> b) {
    sum = reinterpret_cast<Vec<float>>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
  }
};
#endif

// One term of a tile's sums: A's column times B's row.
template <class T, class A, int M, int N>
__attribute__((always_inline)) inline void add_products(const A* a, int64_t a_row, const T* b, Vec<T> (&sums)[M][N]) {
  Vec<T> row[N];
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) row[n] = load(b + n * kLanes<T>);
#pragma GCC unroll 24
  for (int m = 0; m < M; ++m) {
    const Vec<T> weight = Multiply<T, A>::weight(a + m * a_row);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) Multiply<T, A>::add(sums[m][n], weight, row[n]);
  }
}

// C (M, N vectors) = [bias or C] + A (M, depth) B (depth, N vectors).
//
// The next tile's weights are fetched ahead: a tile's rows are too many and too short for the hardware to see them
// coming. With AVX-512 a line a step: without it the hidden weight's gradient took 5.2 ms of a training step instead of
// 4.2, and the other products 7.8 instead of 7.4 (Zen 4, paper's flow, batch 256, 2026-11). Elsewhere vectors are
// shorter, and instructions beside the multiplications count, most where another thread shares the core: the lines of
// so many steps are fetched together, none for a transpose, whose next tile mostly lies in the same lines. The inverse
// of 256 rows took 0.83 times as long as with a line a step, of 16 rows 0.86; without any fetching 16 rows took 1.1
// times as long (Zen 3, AVX2, 2026-11).
//
// Packed: A is a copy of rows at `source`, which are `source_row` apart.
template <class T, class A, int M, int N, bool Packed = false>
inline void tile(int64_t depth, const A* a, int64_t a_row, int64_t a_step, const T* b, T* c, int64_t c_row,
                 const T* bias, bool add, const A* source = nullptr, int64_t source_row = 0) {
  constexpr int L = kLanes<T>;
  Vec<T> sums[M][N];
#pragma GCC unroll 24
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) sums[m][n] = broadcast(bias && !add ? bias[m] : T(0));
  constexpr int64_t kLine = 64 / sizeof(A);
  const bool transposed = !Packed && a_row == 1;
  const A* ahead = Packed ? source + M * source_row : a + M * a_row;
  const int64_t next = Packed ? source_row : transposed ? a_step : a_row;
  if constexpr (kVectorBytes == 64) {
    const int64_t rewind = transposed ? 0 : kLine * (next - a_step);
    for (int64_t k = 0; k < depth; ++k, a += a_step, b += N * L) {
      __builtin_prefetch(ahead);
      ahead += next;
      if (k % kLine == kLine - 1) ahead -= rewind;
      add_products<T, A, M, N>(a, a_row, b, sums);
    }
  } else {
    const int64_t lines = transposed ? 0 : M;
    for (int64_t k = 0; k < depth; ahead += kLine * a_step) {
      for (int64_t i = 0; i < lines; ++i) __builtin_prefetch(ahead + i * next);
      const int64_t end = k + kLine < depth ? k + kLine : depth;
      for (; k < end; ++k, a += a_step, b += N * L) add_products<T, A, M, N>(a, a_row, b, sums);
    }
  }
#pragma GCC unroll 24
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      T* to = c + m * c_row + n * L;
      store(to, add ? load(to) + sums[m][n] : sums[m][n]);
    }
}

template <class T, class A, int M, int N>
void last_tile(int64_t rest, int64_t depth, const A* a, int64_t a_row, int64_t a_step, const T* b, T* c, int64_t c_row,
               const T* bias, bool add) {
  if constexpr (M > 0) {
    if (rest == M) return tile<T, A, M, N>(depth, a, a_row, a_step, b, c, c_row, bias, add);
    last_tile<T, A, M - 1, N>(rest, depth, a, a_row, a_step, b, c, c_row, bias, add);
  }
}

// Terms of a sum that are added one by one. Rounding errors grow with it; in stretches of 128 they are those of a
// library's product (1.1 times, not 1.4, for z of the paper's flow), and a stretch of a panel lies in the first cache.
constexpr int64_t kStretch = 128;

// A tile whose rows would evict each other: copied, a causal flow's products with 1024 inputs took its inverse of 32
// sequences from 73 to 63 ms, of 16 from 42 to 32 (Zen 4, 2026-11).
template <class T, class A, int M, int N>
__attribute__((noinline)) void packed_tile(int64_t depth, const A* a, int64_t a_row, const T* b, T* c, int64_t c_row,
                                           const T* bias, bool add) {
  alignas(64) A packed[M * kStretch];
  for (int m = 0; m < M; ++m)
    for (int64_t k = 0; k < depth; ++k) packed[m * kStretch + k] = a[m * a_row + k];
  tile<T, A, M, N, true>(depth, packed, kStretch, 1, b, c, c_row, bias, add, a, a_row);
}

// C (rows, N vectors), rows c_row apart = [bias (rows) or C] + A (rows, depth) B (depth, N vectors). A's rows are a_row
// apart and its columns a_step: a weight or its transpose.
template <class T, class A, int N>
void multiply(int64_t rows, int64_t depth, const A* a, int64_t a_row, int64_t a_step, const T* b, T* c, int64_t c_row,
              const T* bias, bool add) {
  constexpr int M = kTile<N>;
  // Rows 4 KiB apart share the first cache's set of eight lines.
  const bool packs = M >= 8 && a_step == 1 && a_row * static_cast<int64_t>(sizeof(A)) % 4096 == 0;
  for (int64_t m = 0; m < rows; m += M) {
    int64_t k = 0;
    do {
      const int64_t length = depth - k < kStretch ? depth - k : kStretch;
      const A* weights = a + m * a_row + k * a_step;
      const T *panel = b + k * N * kLanes<T>, *biases = bias ? bias + m : nullptr;
      T* to = c + m * c_row;
      const bool more = add || k > 0;
      if (packs && m + M <= rows)
        packed_tile<T, A, M, N>(length, weights, a_row, panel, to, c_row, biases, more);
      else if (m + M <= rows)
        tile<T, A, M, N>(length, weights, a_row, a_step, panel, to, c_row, biases, more);
      else
        last_tile<T, A, M - 1, N>(rows - m, length, weights, a_row, a_step, panel, to, c_row, biases, more);
    } while ((k += kStretch) < depth);
  }
}

}  // namespace nfkern::NFKERN_ISA

// Work on a panel of rows, (width, P) with P rows side by side, beside products.
#pragma once

#include "products.h"

namespace nfkern::NFKERN_ISA {

template <class T>
constexpr int kWidestPanel = 2 * kLanes<T>;

// Cuts `rest` rows: into panels of two vectors, then whatever is cheapest. A panel costs the same however many
// of its rows are in use: one of 16 rows with AVX-512 as much as eight single rows, or three where the weights are far;
// one of 8 with AVX2 as much as five, and one of 16 hardly more than that (Zen 4, 2026-11).
template <class T>
int next_vectors(int64_t rest, bool far) {
  constexpr int L = kLanes<T>;
  const int few = far ? 2 : L < 16 ? L / 2 : 7;
  if (rest <= few) return 0;
  return rest > (L < 16 ? L : L + few) ? 2 : 1;
}

template <class T>
inline int64_t columns_of(int vectors) {
  return vectors ? vectors * kLanes<T> : 1;
}

// A layer's activation with its statistics over the width, row by row.
template <class T, int N>
struct PanelLayer {
  static constexpr int L = kLanes<T>, P = N * L;

  T* activation;
  int64_t step = P;  // from one unit to the next
  Vec<T> mean[N], rstd[N];

  T* at(int64_t unit, int n) const { return activation + unit * step + n * L; }
  Vec<T> normalized(int64_t unit, int n) const { return (load(at(unit, n)) - mean[n]) * rstd[n]; }

  // Adds term(j, n) of all units j to sums[n], in groups: one long sum's rounding would move whole rows' statistics.
  template <class Term>
  static void sum_over(int64_t width, Vec<T> (&sums)[N], Term term) {
    constexpr int64_t kGroup = 16;
    for (int64_t j = 0; j < width;) {
      Vec<T> group[N] = {};
      for (const int64_t end = j + kGroup < width ? j + kGroup : width; j < end; ++j)
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) group[n] += term(j, n);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sums[n] += group[n];
    }
  }

  // Statistics of what `activation` holds; if Leaky, LeakyReLU is applied to it first.
  template <bool Leaky>
  void normalize(int64_t width, T eps) {
    Vec<T> sums[N] = {}, squares[N] = {};
    sum_over(width, sums, [&](int64_t j, int n) {
      Vec<T> u = load(at(j, n));
      if constexpr (Leaky) store(at(j, n), u = leaky_relu<T>(u));
      return u;
    });
    for (int n = 0; n < N; ++n) mean[n] = sums[n] / static_cast<T>(width);
    // A second pass over what lies in the first cache: the difference of large squares would lose digits.
    sum_over(width, squares, [&](int64_t j, int n) {
      const Vec<T> centred = load(at(j, n)) - mean[n];
      return centred * centred;
    });
    for (int n = 0; n < N; ++n) rstd[n] = T(1) / square_root<T>(squares[n] / static_cast<T>(width) + eps);
  }

  // weight * normalized + bias, or normalized alone where these are null.
  void scale(int64_t width, const T* weight, const T* bias, T* scaled) const {
    // A copy: what is stored might be the statistics, for all that the compiler knows.
    const PanelLayer layer = *this;
    for (int64_t j = 0; j < width; ++j)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const Vec<T> unit = layer.normalized(j, n);
        store(scaled + j * P + n * L, weight ? unit * weight[j] + bias[j] : unit);
      }
  }
};

// Rows of `width` elements, row i at rows(i), become a panel whose units are `step` apart.
template <class T, int N, class Rows>
void gather_rows(int64_t width, Rows rows, T* panel, int64_t step) {
  constexpr int L = kLanes<T>;
  for (int n = 0; n < N; ++n) {
    int64_t j = 0;
    for (; j + L <= width; j += L) {
      Vec<T> square[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) square[i] = load(rows(n * L + i) + j);
      transpose<T>(square);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(panel + (j + i) * step + n * L, square[i]);
    }
    for (; j < width; ++j)
      for (int i = 0; i < L; ++i) panel[j * step + n * L + i] = rows(n * L + i)[j];
  }
}

// The first `count` rows of a panel (width, P), row i to rows(i).
template <class T, int N, class Rows>
void scatter_rows(int64_t width, int64_t count, const T* panel, Rows rows) {
  constexpr int L = kLanes<T>, P = N * L;
  for (int n = 0; n < N && n * L < count; ++n) {
    const int64_t used = count - n * L < L ? count - n * L : L;
    int64_t j = 0;
    for (; j + L <= width; j += L) {
      Vec<T> square[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) square[i] = load(panel + (j + i) * P + n * L);
      transpose<T>(square);
      for (int i = 0; i < used; ++i) store(rows(n * L + i) + j, square[i]);
    }
    for (; j < width; ++j)
      for (int i = 0; i < used; ++i) rows(n * L + i)[j] = panel[j * P + n * L + i];
  }
}

}  // namespace nfkern::NFKERN_ISA

// Products and pointwise steps of a transformer on columns: `Columns` holds N vectors of them side by side, (width, P);
// with N = 0 it is one column, along whose features vectors run.
#pragma once

#include "../simd/bf16.h"
#include "../simd/panels.h"
#include "../simd/rows.h"
#include "../simd/team.h"
#include "cpu.h"

namespace nfkern::NFKERN_ISA {

// x * Phi(x), Phi the standard normal distribution: GELU in its exact form. float: log Phi(-u) + u^2 / 2 is a smooth
// function of u = |x|, here a polynomial on [0, 5.5], where it is off by 7e-8; further out Phi is 1 or negligible.
inline Vec<float> gelu(Vec<float> x) {
  const Vec<float> u = x < 0 ? -x : x, v = u < 5.5f ? u : broadcast(5.5f);
  Vec<float> p = v * 1.007610777e-7f - 2.505645398e-6f;
  p = p * v + 2.464352656e-5f;
  p = p * v - 1.014695299e-4f;
  p = p * v - 1.792440162e-4f;
  p = p * v + 5.017449614e-3f;
  p = p * v - 3.647400439e-2f;
  p = p * v + 1.817292273e-1f;
  p = p * v - 7.978886366e-1f;
  p = p * v - 6.931471229e-1f;
  const Vec<float> tail = exponential(p - u * u * 0.5f);
  return x * (x < 0 ? tail : 1.0f - tail);
}

inline Vec<double> gelu(Vec<double> x) {
  double lanes[kLanes<double>];
  store(lanes, x);
  for (double& lane : lanes) lane *= 0.5 * std::erfc(-lane * 0.70710678118654752440);
  return load(lanes);
}

template <class T, int N>
struct Columns {
  static constexpr int L = kLanes<T>, P = N * L;

  // result (outputs, P) = [result] + bias + weight (outputs, depth) x (depth, P), of one layer: the member's share of
  // the outputs. scratch: the weight's size and depth * P, where it is in bfloat16.
  template <bool Add>
  static void product(const Team& team, const LayerProduct<T>& product, int64_t layer, const T* x, T* result,
                      T* scratch) {
    const auto [first, outputs] = team.share(product.outputs, L);
    const int64_t depth = product.depth, at = layer * product.outputs + first;
    const T* bias = product.bias + at;
    result += first * P;
    if (Add) {
      for (int64_t j = 0; j < outputs; ++j)
        for (int n = 0; n < N; ++n) store(result + j * P + n * L, load(result + j * P + n * L) + bias[j]);
      bias = nullptr;
    }
    if constexpr (sizeof(T) == sizeof(float))
      if (product.bf16)
        return bf16_product<N>(outputs, depth, product.bf16 + at * depth, x, result, P, bias, scratch, Add);
    multiply<T, T, N>(outputs, depth, product.weight + at * depth, depth, 1, x, result, P, bias, Add);
  }

  template <bool Add>
  static void product(int64_t outputs, int64_t depth, const T* weight, const T* bias, const T* x, T* result) {
    multiply<T, T, N>(outputs, depth, weight, depth, 1, x, result, P, bias, Add);
  }

  static void layer_norm(int64_t width, const T* x, const T* weight, const T* bias, T eps, T* result) {
    PanelLayer<T, N> layer{const_cast<T*>(x), P, {}, {}};
    layer.template normalize<false>(width, eps);
    layer.scale(width, weight, bias, result);
  }

  static void activate(const Team& team, int64_t width, T* x) {
    const auto [first, count] = team.share(width, L);
    for (int64_t i = first * P; i < (first + count) * P; i += L) store(x + i, gelu(load(x + i)));
  }

  // From columns one after the other, (count, width), to side by side, and back. Columns past the last repeat it, so
  // that what they give is as finite.
  static const T* side_by_side(int64_t width, int64_t count, const T* columns, T* panel) {
    gather_rows<T, N>(width, [&](int64_t i) { return columns + (i < count ? i : count - 1) * width; }, panel, P);
    return panel;
  }
  static const T* one_by_one(int64_t width, const T* panel, T* columns) {
    scatter_rows<T, N>(width, P, panel, [&](int64_t i) { return columns + i * width; });
    return columns;
  }

  // The first `count` columns of the member's share of a panel, column c to to(c).
  template <class To>
  static void copy(const Team& team, int64_t width, int64_t count, const T* panel, To to) {
    const auto share = team.share(width, L);
    scatter_rows<T, N>(share.count, count, panel + share.first * P, [&](int64_t c) { return to(c) + share.first; });
  }
};

template <class T>
struct Columns<T, 0> {
  static constexpr int L = kLanes<T>, P = 1;

  template <bool Add>
  static void product(const Team& team, const LayerProduct<T>& product, int64_t layer, const T* x, T* result,
                      T* scratch) {
    const auto [first, outputs] = team.share(product.outputs, L);
    const int64_t depth = product.depth, at = layer * product.outputs + first;
    const T* bias = product.bias + at;
    result += first;
    T* to = Add ? scratch : result;
    bool done = false;
    if constexpr (sizeof(T) == sizeof(float))
      if ((done = product.bf16 != nullptr))
        bf16_dots(outputs, depth, product.bf16 + at * depth, x, bias, to, scratch + outputs + L);
    if (!done) dots<T>(outputs, depth, product.weight + at * depth, x, bias, to);
    if (Add)
      for (int64_t i = 0; i < outputs; ++i) result[i] += to[i];
  }

  template <bool Add>
  static void product(int64_t outputs, int64_t depth, const T* weight, const T* bias, const T* x, T* result) {
    dots<T>(outputs, depth, weight, x, Add ? result : bias, result);
  }

  static void layer_norm(int64_t width, const T* x, const T* weight, const T* bias, T eps, T* result) {
    RowLayer<T> layer{const_cast<T*>(x), 0, 0};
    layer.template normalize<false>(width, eps);
    layer.scale(width, weight, bias, result);
  }

  static void activate(const Team& team, int64_t width, T* x) {
    const auto [first, count] = team.share(width, L);
    const int64_t end = first + count;
    int64_t i = first;
    for (; i + L <= end; i += L) store(x + i, gelu(load(x + i)));
    if (i < end) {
      const int rest = static_cast<int>(end - i);
      store_some(x + i, gelu(load_some(x + i, rest)), rest);
    }
  }

  static const T* side_by_side(int64_t, int64_t, const T* columns, T*) { return columns; }
  static const T* one_by_one(int64_t, const T* panel, T*) { return panel; }

  template <class To>
  static void copy(const Team& team, int64_t width, int64_t, const T* column, To to) {
    const auto share = team.share(width, L);
    for (int64_t i = share.first; i < share.first + share.count; ++i) to(0)[i] = column[i];
  }
};

}  // namespace nfkern::NFKERN_ISA

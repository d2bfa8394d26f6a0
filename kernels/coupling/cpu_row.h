// The conditioner on one row: layers are (width).
#pragma once

#include "../simd/lowered.h"
#include "cpu.h"

namespace nfkern::NFKERN_ISA {

// See `Panel`, whose members these are for one row.
template <class T>
struct Row {
  static constexpr int P = 1;

  using Layer = RowLayer<T>;

  static int64_t scratch_size(const Coupling<T>& p) {
    return 3 * (p.width1 > p.width2 ? p.width1 : p.width2) + 8 * kLanes<T>;
  }

  static bool place(const Coupling<T>&, const KeptHidden<T>&, int64_t, int64_t, int64_t, Layer&, Layer&) {
    return false;
  }

  static void mix(int64_t features, const T* matrix, bool transposed, const T* x, T* result) {
    for (int64_t d = 0; d < features; ++d) {
      T total = 0;
      for (int64_t i = 0; i < features; ++i) total += matrix[transposed ? d * features + i : i * features + d] * x[i];
      result[d] = total;
    }
  }

  // The first layer's preactivations.
  static void first_product(const Coupling<T>& p, int64_t net, int64_t row, const T* context, const T* kept,
                            T* result, T* scratch) {
    const int64_t count = p.kept();
    const T* term = result;
    if (context) {
      product(p.far(), p.width1, p.context_features, p.context_weight, p.context_lowered, net, context, p.input_bias,
              result, scratch);
    } else {
      term = p.context_term + (row / (p.rows / p.groups) * p.blocks * 2 + net) * p.width1;
    }
    const T* weight = p.input_weight + net * p.width1 * count;
    switch (count) {
      case 1:
        return add_columns<1>(p.width1, weight, kept, term, result);
      case 2:
        return add_columns<2>(p.width1, weight, kept, term, result);
      case 3:
        return add_columns<3>(p.width1, weight, kept, term, result);
      case 4:
        return add_columns<4>(p.width1, weight, kept, term, result);
      default:
        return dots<T>(p.width1, count, weight, kept, term, result);
    }
  }

  // result (outputs) = bias + weight (outputs, depth) x, of one network's part of stacked weights, lowered or not.
  static void product(bool far, int64_t outputs, int64_t depth, const T* weight, const LoweredWeight& lowered,
                      int64_t net, const T* x, const T* bias, T* result, T* scratch) {
    if constexpr (sizeof(T) == sizeof(float))
      if (lowered) {
        const auto run = far ? lowered_dots<true> : lowered_dots<>;
        return run(outputs, depth, lowered.from(net * outputs, depth), x, bias + net * outputs, result, scratch);
      }
    const auto run = far ? dots<T, true> : dots<T>;
    run(outputs, depth, weight + net * outputs * depth, x, bias + net * outputs, result);
  }

  // result = term + weight (width, C) x, for a C so small that the compiler takes apart whole vectors of weights.
  template <int C>
  static void add_columns(int64_t width, const T* weight, const T* x, const T* term, T* result) {
    T kept[C];
    for (int i = 0; i < C; ++i) kept[i] = x[i];
    for (int64_t j = 0; j < width; ++j) {
      T total = term[j];
#pragma GCC unroll 4
      for (int i = 0; i < C; ++i) total += weight[j * C + i] * kept[i];
      result[j] = total;
    }
  }

  static void conditioner(const Coupling<T>& p, int64_t net, int64_t row, int64_t, const T* context, const T* kept,
                          Layer& first, Layer& second, T* scratch, T* output) {
    T *scaled = scratch, *rest = scratch + (p.width1 > p.width2 ? p.width1 : p.width2) + kLanes<T>;
    const auto at = [net](const T* norm, int64_t width) { return norm ? norm + net * width : nullptr; };
    first_product(p, net, row, context, kept, first.activation, rest);
    first.template normalize<true>(p.width1, p.norm_eps);
    first.scale(p.width1, at(p.norm1_weight, p.width1), at(p.norm1_bias, p.width1), scaled);
    product(p.far(), p.width2, p.width1, p.hidden_weight, p.hidden_lowered, net, scaled, p.hidden_bias,
            second.activation, rest);
    second.template normalize<true>(p.width2, p.norm_eps);
    second.scale(p.width2, at(p.norm2_weight, p.width2), at(p.norm2_bias, p.width2), scaled);
    dots<T>(p.transformed(), p.width2, p.output_weight + net * p.transformed() * p.width2, scaled,
            p.output_bias + net * p.transformed(), output);
  }

  // Gradient of weight * normalized + bias, or of normalized alone, in `grad`, becomes that of the preactivations.
  static void activate_backward(const Layer& layer, int64_t width, const T* weight, T* grad) {
    constexpr int L = kLanes<T>;
    const int64_t whole = width / L * L;
    Vec<T> sums = {}, products = {};
    T sum_rest = 0, product_rest = 0;
    for (int64_t j = 0; j < whole; j += L) {
      Vec<T> g = load(grad + j);
      if (weight) g *= load(weight + j);
      store(grad + j, g);
      sums += g;
      products += g * layer.normalized(j);
    }
    for (int64_t j = whole; j < width; ++j) {
      if (weight) grad[j] *= weight[j];
      sum_rest += grad[j];
      product_rest += grad[j] * layer.normalized_one(j);
    }
    const T mean = (sum<T>(sums) + sum_rest) / static_cast<T>(width);
    const T product = (sum<T>(products) + product_rest) / static_cast<T>(width);
    for (int64_t j = 0; j < whole; j += L) {
      const Vec<T> g = (load(grad + j) - mean - layer.normalized(j) * product) * layer.rstd;
      store(grad + j, load(layer.activation + j) > 0 ? g : g * static_cast<T>(kNegativeSlope));
    }
    for (int64_t j = whole; j < width; ++j) {
      const T g = (grad[j] - mean - layer.normalized_one(j) * product) * layer.rstd;
      grad[j] = layer.activation[j] > 0 ? g : g * static_cast<T>(kNegativeSlope);
    }
  }

  // grad (transformed) of the output -> added to grad_kept (kept).
  static void conditioner_backward(const Coupling<T>& p, int64_t net, int64_t, const Layer& first, const Layer& second,
                                   const T* grad, T* scratch, T* grad_kept) {
    const int64_t size = p.width1 * p.width2, wide = (p.width1 > p.width2 ? p.width1 : p.width2) + kLanes<T>;
    T *grad2 = scratch, *grad1 = scratch + wide, *rest = scratch + 2 * wide;
    const auto at = [net](const T* norm, int64_t width) { return norm ? norm + net * width : nullptr; };
    dots_transposed<T>(p.width2, p.transformed(), p.output_weight + net * p.transformed() * p.width2, grad, grad2);
    activate_backward(second, p.width2, at(p.norm2_weight, p.width2), grad2);
    bool done = false;
    if constexpr (sizeof(T) == sizeof(float))
      if ((done = bool(p.hidden_lowered)))
        lowered_dots_transposed(p.width1, p.width2, p.hidden_lowered.from(net * p.width2, p.width1), grad2, grad1, rest);
    if (!done) dots_transposed<T>(p.width1, p.width2, p.hidden_weight + net * size, grad2, grad1);
    activate_backward(first, p.width1, at(p.norm1_weight, p.width1), grad1);
    first_product_transposed(p, net, grad1, grad_kept);
  }

  static void first_product_transposed(const Coupling<T>& p, int64_t net, const T* grad, T* grad_kept) {
    const int64_t count = p.kept();
    const T* weight = p.input_weight + net * p.width1 * count;
    switch (count) {
      case 1:
        return add_transposed_columns<1>(p.width1, weight, grad, grad_kept);
      case 2:
        return add_transposed_columns<2>(p.width1, weight, grad, grad_kept);
      case 3:
        return add_transposed_columns<3>(p.width1, weight, grad, grad_kept);
      case 4:
        return add_transposed_columns<4>(p.width1, weight, grad, grad_kept);
      default:
        return dots_transposed<T, true>(count, p.width1, weight, grad, grad_kept);
    }
  }

  // result (C) += weight^T (width, C) x.
  template <int C>
  static void add_transposed_columns(int64_t width, const T* weight, const T* x, T* result) {
    constexpr int L = kLanes<T>;
    T sums[C][L] = {};
    int64_t j = 0;
    for (; j + L <= width; j += L)
#pragma GCC unroll 4
      for (int i = 0; i < C; ++i)
        for (int l = 0; l < L; ++l) sums[i][l] += weight[(j + l) * C + i] * x[j + l];
    for (int i = 0; i < C; ++i) {
      T total = sum<T>(load(sums[i]));
      for (int64_t k = j; k < width; ++k) total += weight[k * C + i] * x[k];
      result[i] += total;
    }
  }
};

}  // namespace nfkern::NFKERN_ISA

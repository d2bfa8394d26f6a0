// The conditioner on one row: layers are (width).
#pragma once

#include "../native/rows.h"
#include "cpu.h"

namespace nfkern::NFKERN_ISA {

// See `Panel`, whose members these are for one row.
template <class T>
struct Row {
  static constexpr int P = 1;

  struct Layer {
    T* activation;
    T mean, rstd;

    Vec<T> normalized(int64_t unit) const { return (load(activation + unit) - mean) * rstd; }
    T normalized_one(int64_t unit) const { return (activation[unit] - mean) * rstd; }
  };

  static int64_t scratch_size(const Coupling<T>& p) {
    return 3 * (p.width1 > p.width2 ? p.width1 : p.width2) + 8 * kLanes<T>;
  }

  static void mix(int64_t features, const T* matrix, bool transposed, const T* x, T* result) {
    for (int64_t d = 0; d < features; ++d) {
      T total = 0;
      for (int64_t i = 0; i < features; ++i)
        total += matrix[transposed ? d * features + i : i * features + d] * x[i];
      result[d] = total;
    }
  }

  static void activate(Layer& layer, int64_t width, T eps) {
    constexpr int L = kLanes<T>;
    const int64_t whole = width / L * L;
    T* u = layer.activation;
    Vec<T> sums = {}, squares = {};
    for (int64_t j = 0; j < whole; j += L) {
      const Vec<T> part = leaky_relu<T>(load(u + j));
      store(u + j, part);
      sums += part;
    }
    T total = sum<T>(sums), square = 0;
    for (int64_t j = whole; j < width; ++j) total += u[j] = u[j] > 0 ? u[j] : u[j] * static_cast<T>(kNegativeSlope);
    layer.mean = total / static_cast<T>(width);
    for (int64_t j = 0; j < whole; j += L) {
      const Vec<T> centred = load(u + j) - layer.mean;
      squares += centred * centred;
    }
    for (int64_t j = whole; j < width; ++j) square += (u[j] - layer.mean) * (u[j] - layer.mean);
    layer.rstd = T(1) / std::sqrt((sum<T>(squares) + square) / static_cast<T>(width) + eps);
  }

  static void scale(const Layer& layer, int64_t width, const T* weight, const T* bias, T* scaled) {
    constexpr int L = kLanes<T>;
    int64_t j = 0;
    for (; j + L <= width; j += L) {
      const Vec<T> unit = layer.normalized(j);
      store(scaled + j, weight ? unit * load(weight + j) + load(bias + j) : unit);
    }
    for (; j < width; ++j) {
      const T unit = layer.normalized_one(j);
      scaled[j] = weight ? unit * weight[j] + bias[j] : unit;
    }
  }

  // The first layer's preactivations: few kept features, so that weights are gathered into vectors along the width.
  static void first_product(const Coupling<T>& p, int64_t net, int64_t row, const T* kept, T* result) {
    constexpr int L = kLanes<T>;
    const int64_t count = p.kept(), share = p.rows / p.groups;
    const T* term = p.context_term + ((row / share) * p.blocks * 2 + net) * p.width1;
    const T* weight = p.input_weight + net * p.width1 * count;
    if (count >= L) return dots<T>(p.width1, count, weight, kept, term, result);
    int64_t j = 0;
    for (; j + L <= p.width1; j += L) {
      Vec<T> total = load(term + j);
      for (int64_t i = 0; i < count; ++i) {
        T column[L];
        for (int l = 0; l < L; ++l) column[l] = weight[(j + l) * count + i];
        total += load(column) * kept[i];
      }
      store(result + j, total);
    }
    for (; j < p.width1; ++j) {
      T total = term[j];
      for (int64_t i = 0; i < count; ++i) total += weight[j * count + i] * kept[i];
      result[j] = total;
    }
  }

  static void conditioner(const Coupling<T>& p, int64_t net, int64_t row, int64_t, const T* kept, Layer& first,
                          Layer& second, T* scratch, T* output) {
    const int64_t size = p.width1 * p.width2;
    T *scaled = scratch, *rest = scratch + (p.width1 > p.width2 ? p.width1 : p.width2) + kLanes<T>;
    const auto at = [net](const T* norm, int64_t width) { return norm ? norm + net * width : nullptr; };
    first_product(p, net, row, kept, first.activation);
    activate(first, p.width1, p.norm_eps);
    scale(first, p.width1, at(p.norm1_weight, p.width1), at(p.norm1_bias, p.width1), scaled);
    const T* bias = p.hidden_bias + net * p.width2;
    bool done = false;
    if constexpr (sizeof(T) == sizeof(float))
      if ((done = p.hidden_bf16 != nullptr))
        bf16_dots(p.width2, p.width1, p.hidden_bf16 + net * size, scaled, bias, second.activation, rest);
    if (!done) dots<T>(p.width2, p.width1, p.hidden_weight + net * size, scaled, bias, second.activation);
    activate(second, p.width2, p.norm_eps);
    scale(second, p.width2, at(p.norm2_weight, p.width2), at(p.norm2_bias, p.width2), scaled);
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
  static void conditioner_backward(const Coupling<T>& p, int64_t net, int64_t, const Layer& first,
                                   const Layer& second, const T* grad, T* scratch, T* grad_kept) {
    const int64_t size = p.width1 * p.width2, wide = (p.width1 > p.width2 ? p.width1 : p.width2) + kLanes<T>;
    T *grad2 = scratch, *grad1 = scratch + wide, *rest = scratch + 2 * wide;
    const auto at = [net](const T* norm, int64_t width) { return norm ? norm + net * width : nullptr; };
    dots_transposed<T>(p.width2, p.transformed(), p.output_weight + net * p.transformed() * p.width2, grad, grad2);
    activate_backward(second, p.width2, at(p.norm2_weight, p.width2), grad2);
    bool done = false;
    if constexpr (sizeof(T) == sizeof(float))
      if ((done = p.hidden_bf16 != nullptr))
        bf16_dots_transposed(p.width1, p.width2, p.hidden_bf16 + net * size, grad2, grad1, rest);
    if (!done) dots_transposed<T>(p.width1, p.width2, p.hidden_weight + net * size, grad2, grad1);
    activate_backward(first, p.width1, at(p.norm1_weight, p.width1), grad1);
    first_product_transposed(p, net, grad1, grad_kept);
  }

  static void first_product_transposed(const Coupling<T>& p, int64_t net, const T* grad, T* grad_kept) {
    constexpr int L = kLanes<T>;
    const int64_t count = p.kept(), whole = p.width1 / L * L;
    const T* weight = p.input_weight + net * p.width1 * count;
    if (count >= L) return dots_transposed<T, true>(count, p.width1, weight, grad, grad_kept);
    for (int64_t i = 0; i < count; ++i) {
      Vec<T> sums = {};
      for (int64_t j = 0; j < whole; j += L) {
        T column[L];
        for (int l = 0; l < L; ++l) column[l] = weight[(j + l) * count + i];
        sums += load(column) * load(grad + j);
      }
      T total = sum<T>(sums);
      for (int64_t j = whole; j < p.width1; ++j) total += weight[j * count + i] * grad[j];
      grad_kept[i] += total;
    }
  }
};

}  // namespace nfkern::NFKERN_ISA

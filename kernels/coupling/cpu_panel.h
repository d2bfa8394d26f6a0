// The conditioner and its derivative on a panel of rows: layers are (width, P) with P rows side by side.
#pragma once

#include "../simd/lowered.h"
#include "../simd/panels.h"
#include "cpu.h"

namespace nfkern::NFKERN_ISA {

// Results of a panel's derivative that parameters' gradients are made of; sums are over the panel's rows.
template <class T>
struct PanelSums {
  T *norm1_weight, *norm1_bias;    // (width1)
  T* hidden_bias;                  // (width2)
  T *norm2_weight, *norm2_bias;    // (width2)
  T *output_weight, *output_bias;  // (transformed, width2), (transformed)
  T* input_weight;                 // (width1, kept)
  T* scaled1;     // (ceil(width1 / 2 lanes), chunk, 2 lanes): factors of the hidden weight's gradient, of a chunk of
  T* grad2;       // (width2, chunk)                           rows among which the panel has its place
  T* grad1;       // the context term's gradient, a row each...
  int64_t step1;  // ...so far apart
  int64_t chunk;
};

template <class T, int N>
struct Panel {
  static constexpr int L = kLanes<T>, P = N * L;

  using Layer = PanelLayer<T, N>;

  // Lets both layers lie where they are kept, if the panel's rows lie side by side there.
  template <class Kept>
  static bool place(const Coupling<T>& p, const Kept& hidden, int64_t block, int64_t net, int64_t row, Layer& first,
                    Layer& second) {
    if (!hidden.together(row, P)) return false;
    first.step = second.step = hidden.lanes();
    first.activation = const_cast<T*>(hidden.row(block, net, row));  // a derivative does not write to it
    second.activation = first.activation + p.width1 * first.step;
    return true;
  }

  static int64_t wide(const Coupling<T>& p) { return (p.width1 > p.width2 ? p.width1 : p.width2) * P; }
  static int64_t scratch_size(const Coupling<T>& p) {
    const int64_t widest = p.context_lowered && p.context_features > p.width2 ? p.context_features : p.width2;
    return 2 * wide(p) + (p.hidden_lowered ? p.width1 * widest + wide(p) : 0);
  }

  static void mix(int64_t features, const T* matrix, bool transposed, const T* x, T* result) {
    multiply<T, T, N>(features, features, matrix, transposed ? features : 1, transposed ? 1 : features, x, result, P,
                      nullptr, false);
  }

  // The first layer's preactivations begin as each row's context term. Rows past the end repeat the last one, so that
  // what they give is as finite.
  static void context(const Coupling<T>& p, int64_t net, int64_t row, int64_t count, const T* contexts,
                      const Layer& layer, T* scratch) {
    if constexpr (sizeof(T) == sizeof(float))
      if (contexts && p.context_lowered)
        return lowered_product<N>(p.width1, p.context_features,
                                  p.context_lowered.from(net * p.width1, p.context_features), contexts,
                                  layer.activation, layer.step, p.input_bias + net * p.width1, scratch);
    if (contexts)
      return multiply<T, T, N>(p.width1, p.context_features, p.context_weight + net * p.width1 * p.context_features,
                               p.context_features, 1, contexts, layer.activation, layer.step,
                               p.input_bias + net * p.width1, false);
    const int64_t share = p.rows / p.groups, stride = p.blocks * 2 * p.width1;
    const T* terms[P];
    for (int i = 0; i < P; ++i)
      terms[i] = p.context_term + (row + (i < count ? i : count - 1)) / share * stride + net * p.width1;
    if (terms[0] == terms[P - 1]) {
      for (int64_t j = 0; j < p.width1; ++j)
        for (int n = 0; n < N; ++n) store(layer.at(j, n), broadcast(terms[0][j]));
      return;
    }
    gather_rows<T, N>(p.width1, [&](int64_t i) { return terms[i]; }, layer.activation, layer.step);
  }

  // One network of a block: kept (kept, P) -> output (transformed, P), leaving both hidden layers. contexts:
  // (context_features, P) where they are projected here, or null.
  static void conditioner(const Coupling<T>& p, int64_t net, int64_t row, int64_t count, const T* contexts,
                          const T* kept, Layer& first, Layer& second, T* scratch, T* output) {
    T *scaled = scratch, *rest = scratch + 2 * wide(p);
    context(p, net, row, count, contexts, first, rest);
    multiply<T, T, N>(p.width1, p.kept(), p.input_weight + net * p.width1 * p.kept(), p.kept(), 1, kept,
                      first.activation, first.step, nullptr, true);
    first.template normalize<true>(p.width1, p.norm_eps);
    first.scale(p.width1, of(p.norm1_weight, net, p.width1), of(p.norm1_bias, net, p.width1), scaled);
    hidden_product(p, net, scaled, second, rest);
    second.template normalize<true>(p.width2, p.norm_eps);
    output_product(p, net, second, scaled, output);
  }

  // Reads kept activations instead.
  static void restore(const Coupling<T>& p, const KeptHidden<const T>& hidden, int64_t block, int64_t net, int64_t row,
                      int64_t count, Layer& first, Layer& second, T* scratch, T* output) {
    if (!place(p, hidden, block, net, row, first, second)) {
      for (int64_t c = 0; c < P; ++c) {
        const T* from = hidden.row(block, net, row + (c < count ? c : count - 1));
        for (int64_t j = 0; j < p.width1; ++j, from += hidden.lanes()) first.activation[j * P + c] = *from;
        for (int64_t j = 0; j < p.width2; ++j, from += hidden.lanes()) second.activation[j * P + c] = *from;
      }
    }
    first.template normalize<false>(p.width1, p.norm_eps);
    second.template normalize<false>(p.width2, p.norm_eps);
    output_product(p, block * 2 + net, second, scratch, output);
  }

  static void output_product(const Coupling<T>& p, int64_t net, const Layer& second, T* scaled, T* output) {
    second.scale(p.width2, of(p.norm2_weight, net, p.width2), of(p.norm2_bias, net, p.width2), scaled);
    multiply<T, T, N>(p.transformed(), p.width2, p.output_weight + net * p.transformed() * p.width2, p.width2, 1,
                      scaled, output, P, p.output_bias + net * p.transformed(), false);
  }

  // A network's own part of a stacked vector, which may be null.
  static const T* of(const T* stacked, int64_t net, int64_t width) { return stacked ? stacked + net * width : nullptr; }

  static void hidden_product(const Coupling<T>& p, int64_t net, const T* scaled, const Layer& result, T* scratch) {
    const int64_t size = p.width1 * p.width2;
    const T* bias = p.hidden_bias + net * p.width2;
    if constexpr (sizeof(T) == sizeof(float))
      if (p.hidden_lowered)
        return lowered_product<N>(p.width2, p.width1, p.hidden_lowered.from(net * p.width2, p.width1), scaled,
                                  result.activation, result.step, bias, scratch);
    multiply<T, T, N>(p.width2, p.width1, p.hidden_weight + net * size, p.width1, 1, scaled, result.activation,
                      result.step, bias, false);
  }

  static void hidden_product_transposed(const Coupling<T>& p, int64_t net, const T* grad, T* result, T* scratch) {
    const int64_t size = p.width1 * p.width2;
    if constexpr (sizeof(T) == sizeof(float))
      if (p.hidden_lowered)
        return lowered_product_transposed<N>(p.width2, p.width1, p.hidden_lowered.from(net * p.width2, p.width1), grad,
                                             result, scratch);
    multiply<T, T, N>(p.width1, p.width2, p.hidden_weight + net * size, 1, p.width1, grad, result, P, nullptr, false);
  }

  // grad (transformed, P) of the output -> added to grad_kept (kept, P).
  static void conditioner_backward(const Coupling<T>& p, int64_t net, int64_t count, const Layer& first,
                                   const Layer& second, const T* grad, T* scratch, T* grad_kept,
                                   const T* kept = nullptr, const PanelSums<T>* sums = nullptr) {
    T *grad2 = scratch, *grad1 = scratch + wide(p), *rest = scratch + 2 * wide(p);
    const T *norm1 = of(p.norm1_weight, net, p.width1), *norm2 = of(p.norm2_weight, net, p.width2);
    if (sums && sums->scaled1) {
      first.scale(p.width1, norm1, of(p.norm1_bias, net, p.width1), grad1);
      keep_scaled(p, grad1, *sums);
      const T* bias = of(p.norm2_bias, net, p.width2);
      for (int64_t t = 0; t < p.transformed(); ++t) {
        sum_rows(p.width2, sums->output_weight + t * p.width2, 1, [&](int64_t j, int n) {
          return (second.normalized(j, n) * norm2[j] + bias[j]) * load(grad + t * P + n * L);
        });
        T total = 0;
        for (int i = 0; i < P; ++i) total += grad[t * P + i];
        sums->output_bias[t] = total;
      }
    }
    multiply<T, T, N>(p.width2, p.transformed(), p.output_weight + net * p.transformed() * p.width2, 1, p.width2, grad,
                      grad2, P, nullptr, false);
    activate_backward(second, p.width2, norm2, grad2, sums ? sums->norm2_weight : nullptr,
                      sums ? sums->norm2_bias : nullptr);
    if (sums && sums->grad2) {
      sum_rows(p.width2, sums->hidden_bias, 1, [&](int64_t j, int n) { return load(grad2 + j * P + n * L); });
      for (int64_t j = 0; j < p.width2; ++j)
        for (int n = 0; n < N; ++n) store(sums->grad2 + j * sums->chunk + n * L, load(grad2 + j * P + n * L));
    }
    hidden_product_transposed(p, net, grad2, grad1, rest);
    activate_backward(first, p.width1, norm1, grad1, sums ? sums->norm1_weight : nullptr,
                      sums ? sums->norm1_bias : nullptr);
    if (sums && sums->input_weight)
      for (int64_t i = 0; i < p.kept(); ++i)
        sum_rows(p.width1, sums->input_weight + i, p.kept(),
                 [&](int64_t j, int n) { return load(grad1 + j * P + n * L) * load(kept + i * P + n * L); });
    if (sums) scatter_rows<T, N>(p.width1, count, grad1, [&](int64_t i) { return sums->grad1 + i * sums->step1; });
    multiply<T, T, N>(p.kept(), p.width1, p.input_weight + net * p.width1 * p.kept(), 1, p.kept(), grad1, grad_kept, P,
                      nullptr, true);
  }

  // Gradient of weight * normalized + bias, or of normalized alone, in `grad`, becomes that of the preactivations.
  static void activate_backward(const Layer& layer, int64_t width, const T* weight, T* grad, T* weight_sums,
                                T* bias_sums) {
    if (weight_sums) {
      sum_rows(width, weight_sums, 1,
               [&](int64_t j, int n) { return load(grad + j * P + n * L) * layer.normalized(j, n); });
      sum_rows(width, bias_sums, 1, [&](int64_t j, int n) { return load(grad + j * P + n * L); });
    }
    Vec<T> sums[N] = {}, products[N] = {};
    for (int64_t j = 0; j < width; ++j)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        Vec<T> g = load(grad + j * P + n * L);
        if (weight) g *= weight[j];
        store(grad + j * P + n * L, g);
        sums[n] += g;
        products[n] += g * layer.normalized(j, n);
      }
    for (int n = 0; n < N; ++n) {
      sums[n] /= static_cast<T>(width);
      products[n] /= static_cast<T>(width);
    }
    for (int64_t j = 0; j < width; ++j)
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const Vec<T> g = (load(grad + j * P + n * L) - sums[n] - layer.normalized(j, n) * products[n]) * layer.rstd[n];
        store(grad + j * P + n * L, load(layer.at(j, n)) > 0 ? g : g * static_cast<T>(kNegativeSlope));
      }
  }

  // result[j * step] = the sum over the panel's rows of value(j, n).
  template <class Value>
  static void sum_rows(int64_t width, T* result, int64_t step, Value value) {
    const auto over_vectors = [&](int64_t j) {
      Vec<T> total = value(j, 0);
      for (int n = 1; n < N; ++n) total += value(j, n);
      return total;
    };
    int64_t j = 0;
    for (; j + L <= width; j += L) {
      Vec<T> totals[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) totals[i] = over_vectors(j + i);
      T lanes[L];
      store(lanes, sum_each<T>(totals));
      for (int i = 0; i < L; ++i) result[(j + i) * step] = lanes[i];
    }
    for (; j < width; ++j) result[j * step] = sum<T>(over_vectors(j));
  }

  // A panel's rows among a chunk's, as the right factor of the hidden weight's gradient wants them: panels of columns.
  static void keep_scaled(const Coupling<T>& p, const T* panel, const PanelSums<T>& sums) {
    constexpr int C = 2 * L;  // the columns of a panel of columns, whatever N is
    for (int64_t j = 0; j < p.width1; j += L) {
      T* to = sums.scaled1 + j / C * sums.chunk * C + j % C;
      const int count = static_cast<int>(p.width1 - j < L ? p.width1 - j : L);
      for (int n = 0; n < N; ++n) {
        Vec<T> square[L] = {};
        for (int i = 0; i < count; ++i) square[i] = load(panel + (j + i) * P + n * L);
        transpose<T>(square);
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store(to + (n * L + i) * C, square[i]);
      }
    }
  }
};

}  // namespace nfkern::NFKERN_ISA

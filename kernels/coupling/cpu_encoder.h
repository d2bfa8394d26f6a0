// From observations to contexts, on a panel of rows or on one row.
#pragma once

#include "cpu_panel.h"
#include "cpu_row.h"

namespace nfkern::NFKERN_ISA {

// A layer of an encoder, (inputs, P) -> (outputs, P); scratch: the weight's size, and inputs * P. The first argument
// only says on what.
template <class T, int N>
void encode_layer(Panel<T, N>, const EncoderLayer<T>& layer, const T* inputs, T* outputs, T* scratch) {
  using E = Panel<T, N>;
  constexpr int L = E::L, P = E::P;
  if constexpr (sizeof(T) == sizeof(float))
    if (layer.lowered)
      lowered_product<N>(layer.outputs, layer.inputs, layer.lowered, inputs, outputs, P, layer.bias, scratch);
  if (!layer.lowered)
    multiply<T, T, N>(layer.outputs, layer.inputs, layer.weight, layer.inputs, 1, inputs, outputs, P, layer.bias,
                      false);
  if (!layer.norm_weight) return;
  typename E::Layer norm{outputs, P, {}, {}};
  norm.template normalize<false>(layer.outputs, layer.norm_eps);
  for (int64_t j = 0; j < layer.outputs; ++j)
    for (int n = 0; n < N; ++n)
      store(outputs + j * P + n * L, silu<T>(norm.normalized(j, n) * layer.norm_weight[j] + layer.norm_bias[j]));
}

template <class T>
void encode_layer(Row<T>, const EncoderLayer<T>& layer, const T* inputs, T* outputs, T* scratch) {
  constexpr int L = kLanes<T>;
  if constexpr (sizeof(T) == sizeof(float))
    if (layer.lowered) lowered_dots(layer.outputs, layer.inputs, layer.lowered, inputs, layer.bias, outputs, scratch);
  if (!layer.lowered) dots<T>(layer.outputs, layer.inputs, layer.weight, inputs, layer.bias, outputs);
  if (!layer.norm_weight) return;
  typename Row<T>::Layer norm{outputs, 0, 0};
  norm.template normalize<false>(layer.outputs, layer.norm_eps);
  for (int64_t j = 0; j < layer.outputs; j += L) {
    const int count = static_cast<int>(layer.outputs - j < L ? layer.outputs - j : L);
    const Vec<T> units = (load_some(outputs + j, count) - norm.mean) * norm.rstd;
    const Vec<T> scaled = units * load_some(layer.norm_weight + j, count) + load_some(layer.norm_bias + j, count);
    store_some(outputs + j, silu<T>(scaled), count);
  }
}

// Contexts (context_features, P) of `count` rows from `row` on; both buffers take the widest layer.
template <class T, class E>
void encode(const Contexts<T>& c, int64_t row, int64_t count, T* inputs, T* outputs, T* result, T* scratch) {
  constexpr int P = E::P;
  T* first = c.layers ? inputs : result;
  for (int64_t i = 0; i < P; ++i) {
    const T* from = c.observations + (row + (i < count ? i : count - 1)) * c.observed;
    for (int64_t d = 0; d < c.observed; ++d) first[d * P + i] = from[d];
  }
  for (int64_t i = 0; i < c.layers; ++i) {
    T* to = i + 1 < c.layers ? outputs : result;
    encode_layer(E(), c.layer[i], inputs, to, scratch);
    outputs = inputs, inputs = to;
  }
}

}  // namespace nfkern::NFKERN_ISA

// The coupling flow's derivative: chunks of rows, block by block, in two phases. First each panel of the chunk computes
// its hidden units again, or takes what the map kept of them, and its gradients go through the block, leaving sums over
// its rows and the factors of the hidden weight's gradient; then that gradient is their product over the chunk's rows,
// each thread owning some of its rows. Sums are taken panel by panel and chunk by chunk, whichever thread was first.
// See `reference.py` for the formulas.
#pragma once

#include "cpu_maps.h"

namespace nfkern::NFKERN_ISA {

// A chunk's rows and memory.
template <class T>
struct Chunk {
  static constexpr int L = kLanes<T>, P = 2 * L;
  int64_t row, count;  // of the chunk
  int64_t panels, padded;
  T* grads;  // (panels, features, P), then (panels, P) for log_det
  T* log_det_grads;
  T *scaled1, *grad2, *grad1;  // for each network, see PanelSums
  T* sums;                     // (panels, sums_size)

  static int64_t scaled1_size(const Coupling<T>& p, int64_t padded) { return (p.width1 + P - 1) / P * P * padded; }

  // Sums over a panel's rows: for each network in the order of `panel_sums`, then the mixing matrix.
  static int64_t network_size(const Coupling<T>& p) {
    return (2 + p.kept()) * p.width1 + (3 + p.transformed()) * p.width2 + p.transformed();
  }
  static int64_t sums_size(const Coupling<T>& p) { return 2 * network_size(p) + p.features * p.features; }

  static int64_t size(const Coupling<T>& p, int64_t rows, bool parameter_grads) {
    const int64_t panels = (rows + P - 1) / P, padded = panels * P;
    const int64_t flowing = padded * (p.features + 1);
    if (!parameter_grads) return flowing;
    return flowing + 2 * (scaled1_size(p, padded) + (p.width2 + p.width1) * padded) + panels * sums_size(p);
  }

  Chunk(const Coupling<T>& p, const Derivative<T>& d, int64_t first, int64_t rows, T* memory)
      : row(first), count(rows), panels((rows + P - 1) / P), padded(panels * P) {
    grads = memory, memory += padded * p.features;
    log_det_grads = memory, memory += padded;
    scaled1 = memory;
    if (!d.context_term) return;
    memory += 2 * scaled1_size(p, padded);
    grad2 = memory, memory += 2 * p.width2 * padded;
    grad1 = memory, memory += 2 * p.width1 * padded;
    sums = memory;
  }

  int64_t rows_of(int64_t panel) const { return count - panel * P < P ? count - panel * P : P; }
};

template <class T>
void load_grads(const Coupling<T>& p, const Derivative<T>& d, const Chunk<T>& chunk, int64_t panel) {
  constexpr int P = Chunk<T>::P;
  T *grad = chunk.grads + panel * p.features * P, *log_det = chunk.log_det_grads + panel * P;
  for (int64_t c = 0; c < P; ++c) {
    const int64_t row = chunk.row + panel * P + c;
    const bool there = c < chunk.rows_of(panel);
    log_det[c] = there ? d.grad_log_det[row] : T(0);
    for (int64_t i = 0; i < p.features; ++i) grad[i * P + c] = there ? d.grad[row * p.features + i] : T(0);
  }
}

template <class T>
void store_grads(const Coupling<T>& p, const Derivative<T>& d, const Chunk<T>& chunk, int64_t panel) {
  constexpr int P = Chunk<T>::P;
  const T* grad = chunk.grads + panel * p.features * P;
  for (int64_t c = 0; c < chunk.rows_of(panel); ++c)
    for (int64_t i = 0; i < p.features; ++i) d.x[(chunk.row + panel * P + c) * p.features + i] = grad[i * P + c];
}

// Pointers to a network's sums of a panel.
template <class T>
PanelSums<T> panel_sums(const Coupling<T>& p, const Derivative<T>& d, const Chunk<T>& chunk, int64_t block, int net,
                        int64_t panel) {
  constexpr int P = Chunk<T>::P;
  PanelSums<T> s{};
  s.chunk = chunk.padded;
  const int64_t row = panel * P;
  if (p.groups == p.rows) {
    s.grad1 = d.context_term + ((chunk.row + row) * p.blocks * 2 + block * 2 + net) * p.width1;
    s.step1 = p.blocks * 2 * p.width1;
  } else {
    s.grad1 = chunk.grad1 + (net * chunk.padded + row) * p.width1;
    s.step1 = p.width1;
  }
  if (!d.hidden_weight) return s;
  T* at = chunk.sums + panel * Chunk<T>::sums_size(p) + net * Chunk<T>::network_size(p);
  s.input_weight = at, at += p.width1 * p.kept();
  s.norm1_weight = at, at += p.width1;
  s.norm1_bias = at, at += p.width1;
  s.hidden_bias = at, at += p.width2;
  s.norm2_weight = at, at += p.width2;
  s.norm2_bias = at, at += p.width2;
  s.output_weight = at, at += p.transformed() * p.width2;
  s.output_bias = at;
  s.scaled1 = chunk.scaled1 + net * Chunk<T>::scaled1_size(p, chunk.padded) + row * P;
  s.grad2 = chunk.grad2 + net * p.width2 * chunk.padded + row;
  return s;
}

// Elements of scratch that a panel's derivative needs.
template <class T>
int64_t panel_scratch(const Coupling<T>& p) {
  constexpr int P = Chunk<T>::P;
  return Panel<T, 2>::scratch_size(p) + 8 * p.features * P + 2 * (p.width1 + p.width2) * P;
}

// One panel of a chunk through one block.
template <class T>
void derive_panel(const Coupling<T>& p, const Derivative<T>& d, const Chunk<T>& chunk, int64_t block, int64_t panel,
                  T* scratch) {
  using E = Panel<T, 2>;
  constexpr int P = E::P, L = E::L;
  const int64_t split = p.kept() * P, rest = p.transformed() * P, size = p.features * p.features;
  const T* mixing = p.mixing + block * size;
  const int64_t row = chunk.row + panel * P, count = chunk.rows_of(panel);
  T *grad = chunk.grads + panel * p.features * P, *log_det_grad = chunk.log_det_grads + panel * P;
  T *state = scratch, *mixed = state + split + rest, *next = mixed + split + rest, *parameters = next + split + rest;
  T *factor = parameters + 2 * rest, *parameter_grads = factor + rest;
  T* rest_of_scratch = scratch + 8 * p.features * P;
  for (int64_t c = 0; c < P; ++c)
    for (int64_t i = 0; i < p.features; ++i)
      state[i * P + c] = d.inputs[(block * p.rows + row + (c < count ? c : count - 1)) * p.features + i];

  typename E::Layer layers[2][2];
  PanelSums<T> sums[2];
  for (int net = 0; net < 2; ++net)
    for (int layer = 0; layer < 2; ++layer) {
      layers[net][layer].activation = rest_of_scratch;
      rest_of_scratch += (layer ? p.width2 : p.width1) * P;
    }
  const T* entering = state;
  if (!d.to_data) {
    E::mix(p.features, mixing, false, state, mixed);
    entering = mixed;
  }
  const T* kept = entering;
  for (int net = 0; net < 2; ++net) {
    if (d.context_term) sums[net] = panel_sums(p, d, chunk, block, net, panel);
    const int64_t which = block * 2 + net;
    T* output = parameters + net * rest;
    if (d.hidden.memory) {
      E::restore(p, d.hidden, block, net, row, count, layers[net][0], layers[net][1], rest_of_scratch, output);
    } else {
      E::conditioner(p, which, row, count, nullptr, kept, layers[net][0], layers[net][1], rest_of_scratch, output);
    }
  }
  const AffineMaps<T> affine{p.scale_bound, rest, parameters, factor};
  affine.bound_parameters();
  affine.prepare(d.to_data);
  const T* transformed = entering + split;
  T* mixing_sums =
      d.context_term ? chunk.sums + panel * Chunk<T>::sums_size(p) + 2 * Chunk<T>::network_size(p) : nullptr;
  const auto sum_mixing = [&](const T* left, const T* right) {
    if (!mixing_sums) return;
    for (int64_t i = 0; i < p.features; ++i)
      E::sum_rows(p.features, mixing_sums + i * p.features, 1,
                  [&](int64_t j, int n) { return load(left + i * P + n * L) * load(right + j * P + n * L); });
  };
  if (d.to_data) {
    for (int64_t i = 0; i < split; ++i) next[i] = kept[i];
    affine.inverse(transformed, next + split);
    sum_mixing(next, grad);
    E::mix(p.features, mixing, true, grad, mixed);
    affine.pull_back(mixed + split, parameter_grads, [&](AffineMap<T> map, int64_t i) {
      return map.inverse_vjp(transformed[i], mixed[split + i], log_det_grad[i % P]);
    });
    for (int64_t i = 0; i < split + rest; ++i) grad[i] = mixed[i];
  } else {
    affine.pull_back(grad + split, parameter_grads, [&](AffineMap<T> map, int64_t i) {
      return map.forward_vjp(transformed[i], grad[split + i], log_det_grad[i % P]);
    });
  }
  for (int net = 0; net < 2; ++net)
    E::conditioner_backward(p, block * 2 + net, count, layers[net][0], layers[net][1],
                            parameter_grads + net * rest, rest_of_scratch, grad, kept,
                            d.context_term ? &sums[net] : nullptr);
  if (!d.to_data) {
    sum_mixing(state, grad);
    E::mix(p.features, mixing, true, grad, next);
    for (int64_t i = 0; i < split + rest; ++i) grad[i] = next[i];
  }
}

// result (size) = [result or 0] + the panels' sums.
template <class T>
void add_panels(const Coupling<T>& p, const Chunk<T>& chunk, bool add, int64_t offset, int64_t size, T* result) {
  const T* sums = chunk.sums + offset;
  for (int64_t i = 0; i < size; ++i) result[i] = (add ? result[i] : T(0)) + sums[i];
  for (int64_t panel = 1; panel < chunk.panels; ++panel) {
    sums += Chunk<T>::sums_size(p);
    for (int64_t i = 0; i < size; ++i) result[i] += sums[i];
  }
}

// The context term's gradient where rows share a context: each row's, added to its group's.
template <class T>
void add_terms(const Coupling<T>& p, const Derivative<T>& d, const Chunk<T>& chunk, int64_t block, int net) {
  const int64_t share = p.rows / p.groups;
  const T* grad1 = chunk.grad1 + net * chunk.padded * p.width1;
  for (int64_t c = 0; c < chunk.count; ++c, grad1 += p.width1) {
    T* to = d.context_term + ((chunk.row + c) / share * p.blocks * 2 + block * 2 + net) * p.width1;
    for (int64_t j = 0; j < p.width1; ++j) to[j] += grad1[j];
  }
}

// The second phase: one part of many, half of them for each network.
constexpr int kProductParts = kReduceParts / 2;

template <class T>
void reduce_chunk(const Coupling<T>& p, const Derivative<T>& d, const Chunk<T>& chunk, int64_t block, int part,
                  T* scratch) {
  constexpr int P = Chunk<T>::P;
  const int net = part / kProductParts, slice = part % kProductParts;
  const int64_t which = block * 2 + net, network = Chunk<T>::network_size(p);
  const bool add = chunk.row > 0;
  if (slice == 0) {
    if (net == 0)
      add_panels(p, chunk, add, 2 * network, p.features * p.features, d.mixing + block * p.features * p.features);
    if (p.groups < p.rows) add_terms(p, d, chunk, block, net);
  }
  if (!d.hidden_weight) return;
  if (slice == 0) {
    int64_t offset = net * network;
    const auto take = [&](T* result, int64_t size) {
      add_panels(p, chunk, add, offset, size, result + which * size);
      offset += size;
    };
    take(d.input_weight, p.width1 * p.kept());
    take(d.norm1_weight, p.width1);
    take(d.norm1_bias, p.width1);
    take(d.hidden_bias, p.width2);
    take(d.norm2_weight, p.width2);
    take(d.norm2_bias, p.width2);
    take(d.output_weight, p.transformed() * p.width2);
    take(d.output_bias, p.transformed());
  }
  // Whole tiles of rows for each part, so that none is cut.
  constexpr int64_t tile_rows = kTile<2>;
  const int64_t tiles = (p.width2 + tile_rows - 1) / tile_rows, each = (tiles + kProductParts - 1) / kProductParts;
  const int64_t begin = slice * each * tile_rows, limit = begin + each * tile_rows;
  const int64_t end = limit < p.width2 ? limit : p.width2;
  if (begin >= end) return;
  const T* grad2 = chunk.grad2 + (net * p.width2 + begin) * chunk.padded;
  const T* scaled1 = chunk.scaled1 + net * Chunk<T>::scaled1_size(p, chunk.padded);
  T* result = d.hidden_weight + (which * p.width2 + begin) * p.width1;
  for (int64_t j = 0; j < p.width1; j += P, scaled1 += chunk.padded * P) {
    if (j + P <= p.width1) {
      multiply<T, T, 2>(end - begin, chunk.padded, grad2, chunk.padded, 1, scaled1, result + j, p.width1, nullptr, add);
      continue;
    }
    multiply<T, T, 2>(end - begin, chunk.padded, grad2, chunk.padded, 1, scaled1, scratch, P, nullptr, false);
    for (int64_t i = 0; i < end - begin; ++i)
      for (int64_t c = 0; j + c < p.width1; ++c) {
        T& to = result[i * p.width1 + j + c];
        to = (add ? to : T(0)) + scratch[i * P + c];
      }
  }
}

template <class T>
void derive(ChunkStep step, const Coupling<T>& p, const Derivative<T>& d, ChunkRows<T> rows, int64_t block,
            int64_t index, T* scratch) {
  const Chunk<T> chunk(p, d, rows.row, rows.count, rows.memory);
  switch (step) {
    case ChunkStep::kLoad:
      return load_grads(p, d, chunk, index);
    case ChunkStep::kPanel:
      return derive_panel(p, d, chunk, block, index, scratch);
    case ChunkStep::kReduce:
      return reduce_chunk(p, d, chunk, block, static_cast<int>(index), scratch);
    case ChunkStep::kStore:
      return store_grads(p, d, chunk, index);
  }
}

template <class T>
constexpr CouplingKernels<T> coupling_kernels() {
  return {map_scratch<T>, map_rows<T>, Chunk<T>::size, panel_scratch<T>, derive<T>};
}

}  // namespace nfkern::NFKERN_ISA

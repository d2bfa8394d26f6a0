// One block's transformer on some columns, each a position of a sequence, with cached keys and values.
#pragma once

#include "cpu_columns.h"

namespace nfkern::NFKERN_ISA {

// Keys and values of `rows` sequences: (rows, layers, 2, heads, length, head width), filled from the first position on.
template <class T>
struct KeyValueCache {
  T* memory;
  int64_t first_row;

  T* at(const Causal<T>& p, int64_t row, int64_t layer, bool values) const {
    return memory + (((row - first_row) * p.layers + layer) * 2 + values) * p.length() * p.width;
  }
  static int64_t size(const Causal<T>& p, int64_t rows) { return rows * p.layers * 2 * p.length() * p.width; }
};

// Columns that go through the transformer together.
template <class T>
struct Positions {
  int vectors;  // as `next_vectors` says
  int64_t count;
  int64_t row[kWidestPanel<T>], position[kWidestPanel<T>];
};

template <class T>
struct TransformerScratch {
  T *hidden, *normed;  // (width, P)
  T* wide;             // (max(3 width, MLP's width), P)
  T* columns;          // (P, 3 width)
  T* attended;         // (P, width)
  T* tokens;           // (features, P)
  T* weights;          // (length)
  T* product;          // what products need
};

// Fills `scratch` from memory, and returns what comes after it; with null, how much that is.
template <class T>
int64_t place(const Causal<T>& p, T* memory, TransformerScratch<T>& scratch) {
  constexpr int64_t P = kWidestPanel<T>, L = kLanes<T>;
  int64_t used = 0;
  const auto take = [&](T*& pointer, int64_t size) {
    pointer = memory ? memory + used : nullptr;
    used += (size + L) / L * L;
  };
  const int64_t widest = 3 * p.width > p.up.outputs ? 3 * p.width : p.up.outputs;
  take(scratch.hidden, p.width * P);
  take(scratch.normed, p.width * P);
  take(scratch.wide, widest * P);
  take(scratch.columns, 3 * p.width * P);
  take(scratch.attended, p.width * P);
  take(scratch.tokens, p.features * P);
  take(scratch.weights, p.length());
  take(scratch.product, (p.qkv.bf16 ? widest * p.width : 0) + widest * P + 4 * L);
  return used;
}

// A query (width) against the first `count` positions of a sequence -> result (width).
template <class T>
void attend(const Causal<T>& p, int64_t count, const T* query, const T* keys, const T* values, T* weights, T* result) {
  constexpr int L = kLanes<T>;
  const int64_t size = p.head_width(), whole = count / L * L;
  const T scale = T(1) / std::sqrt(static_cast<T>(size));
  for (int64_t head = 0; head < p.heads; ++head) {
    const int64_t at = head * p.length() * size;
    dots<T>(count, size, keys + at, query + head * size, nullptr, weights);
    T most = weights[0], total = 0;
    for (int64_t i = 1; i < count; ++i) most = weights[i] > most ? weights[i] : most;
    for (int64_t i = 0; i < whole; i += L) {
      const Vec<T> each = exponential((load(weights + i) - most) * scale);
      store(weights + i, each);
      total += sum<T>(each);
    }
    for (int64_t i = whole; i < count; ++i) total += weights[i] = std::exp((weights[i] - most) * scale);
    dots_transposed<T>(size, count, values + at, weights, result + head * size);
    for (int64_t i = 0; i < size; ++i) result[head * size + i] /= total;
  }
}

// Block `block`'s transformer: tokens (rows, tokens, features) in the data's order, of which only those before a
// column's position are read -> pairs (2, features, P). Keys and values of the columns are added to the cache, in
// order.
template <class T, class C>
void transform(const Causal<T>& p, int64_t block, const Positions<T>& at, const T* tokens,
               const KeyValueCache<T>& cache, const TransformerScratch<T>& s, T* pairs) {
  constexpr int P = C::P;
  const int64_t width = p.width, size = p.head_width();
  // Columns past the last repeat it, so that what they give is as finite.
  const auto clamped = [&](int64_t c) { return c < at.count ? c : at.count - 1; };

  for (int64_t c = 0; c < P; ++c) {
    const int64_t row = at.row[clamped(c)], position = at.position[clamped(c)];
    const T* term = p.context_term + (row / (p.rows / p.groups) * p.blocks + block) * width;
    T* embedded = s.columns + c * width;
    if (p.prefix && position == 0) {
      for (int64_t j = 0; j < width; ++j) embedded[j] = term[j];
      for (int64_t d = 0; d < p.features; ++d) s.tokens[d * P + c] = 0;
      continue;
    }
    const int64_t token = p.place(block, position - (p.prefix ? 1 : 0));
    const T *place = p.position + (block * p.positions + token) * width,
            *value = tokens + (row * p.tokens + token) * p.features;
    for (int64_t j = 0; j < width; ++j) embedded[j] = p.prefix ? place[j] : place[j] + term[j];
    for (int64_t d = 0; d < p.features; ++d) s.tokens[d * P + c] = value[d];
  }
  if constexpr (P == 1) {
    for (int64_t j = 0; j < width; ++j) s.hidden[j] = s.columns[j];
  } else {
    C::side_by_side(width, s.columns, s.hidden);
  }
  C::template product<true>(width, p.features, p.input_weight + block * width * p.features, nullptr, s.tokens,
                            s.hidden);

  for (int64_t i = 0; i < p.layers; ++i) {
    const int64_t layer = block * p.layers + i;
    const auto of = [&](const T* vectors) { return vectors + layer * width; };
    C::layer_norm(width, s.hidden, of(p.attention_norm_weight), of(p.attention_norm_bias), p.norm_eps, s.normed);
    C::template product<false>(p.qkv, layer, s.normed, s.wide, s.product);
    const T* columns = C::one_by_one(3 * width, s.wide, s.columns);
    for (int64_t c = 0; c < at.count; ++c) {
      const int64_t row = at.row[c], position = at.position[c];
      const T* query = columns + c * 3 * width;
      T *keys = cache.at(p, row, i, false), *values = cache.at(p, row, i, true);
      for (int64_t head = 0; head < p.heads; ++head)
        for (int64_t d = 0; d < size; ++d) {
          const int64_t to = (head * p.length() + position) * size + d;
          keys[to] = query[width + head * size + d];
          values[to] = query[2 * width + head * size + d];
        }
      attend(p, position + 1, query, keys, values, s.weights, s.attended + c * width);
    }
    for (int64_t c = at.count; c < P; ++c)
      for (int64_t j = 0; j < width; ++j) s.attended[c * width + j] = s.attended[(at.count - 1) * width + j];
    const T* attended = C::side_by_side(width, s.attended, s.normed);
    C::template product<true>(p.projection, layer, attended, s.hidden, s.product);
    C::layer_norm(width, s.hidden, of(p.mlp_norm_weight), of(p.mlp_norm_bias), p.norm_eps, s.normed);
    C::template product<false>(p.up, layer, s.normed, s.wide, s.product);
    C::activate(p.up.outputs, s.wide);
    C::template product<true>(p.down, layer, s.wide, s.hidden, s.product);
  }
  C::template product<false>(2 * p.features, width, p.output_weight + block * 2 * p.features * width,
                             p.output_bias + block * 2 * p.features, s.hidden, pairs);
}

}  // namespace nfkern::NFKERN_ISA

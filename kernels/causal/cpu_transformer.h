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

// Scratch of columns in the transformer; the first four are the team's, the others each member's own.
template <class T>
struct TransformerScratch {
  T* hidden;    // (width, P)
  T* wide;      // (max(3 width, MLP's width), P)
  T* attended;  // (P, width)
  T* tokens;    // (features, P)
  T* normed;    // (width, P)
  T* columns;   // (P, 3 width)
  T* weights;   // (length)
  T* product;   // what products need
};

// Fills a member's `scratch` from memory; returns how much of that all members of a team of `members` need.
template <class T>
int64_t place(const Causal<T>& p, T* memory, int64_t index, int64_t members, TransformerScratch<T>& scratch) {
  constexpr int64_t P = kWidestPanel<T>, L = kLanes<T>;
  int64_t used = 0;
  const auto take = [&](T*& pointer, int64_t size) {
    pointer = memory ? memory + used : nullptr;
    used += (size + L) / L * L;
  };
  const int64_t widest = 3 * p.width > p.up.outputs ? 3 * p.width : p.up.outputs;
  take(scratch.hidden, p.width * P);
  take(scratch.wide, widest * P);
  take(scratch.attended, p.width * P);
  take(scratch.tokens, p.features * P);
  const int64_t shared = used;
  take(scratch.normed, p.width * P);
  take(scratch.columns, 3 * p.width * P);
  take(scratch.weights, p.length());
  take(scratch.product, (p.qkv.bf16 ? widest * p.width : 0) + widest * P + 4 * L);
  const int64_t own = used - shared;
  for (T** pointer : {&scratch.normed, &scratch.columns, &scratch.weights, &scratch.product})
    if (memory) *pointer += index * own;
  return shared + members * own;
}

// A column's query against the first `count` positions of its sequence, one head's -> result (head width).
template <class T>
void attend(const Causal<T>& p, int64_t count, const T* query, const T* keys, const T* values, T* weights, T* result) {
  constexpr int L = kLanes<T>;
  const int64_t size = p.head_width(), whole = count / L * L;
  const T scale = T(1) / std::sqrt(static_cast<T>(size));
  dots<T>(count, size, keys, query, nullptr, weights);
  T most = weights[0], total = 0;
  for (int64_t i = 1; i < count; ++i) most = weights[i] > most ? weights[i] : most;
  for (int64_t i = 0; i < whole; i += L) {
    const Vec<T> each = exponential((load(weights + i) - most) * scale);
    store(weights + i, each);
    total += sum<T>(each);
  }
  for (int64_t i = whole; i < count; ++i) total += weights[i] = std::exp((weights[i] - most) * scale);
  dots_transposed<T>(size, count, values, weights, result);
  for (int64_t i = 0; i < size; ++i) result[i] /= total;
}

// Embeds the columns' tokens and contexts for the first layer -> s.hidden.
template <class T, class C>
void embed(const Causal<T>& p, int64_t block, const Positions<T>& at, const T* tokens, const TransformerScratch<T>& s) {
  constexpr int P = C::P;
  const int64_t width = p.width;
  T* columns = P == 1 ? s.hidden : s.columns;
  for (int64_t c = 0; c < at.count; ++c) {
    const int64_t row = at.row[c], position = at.position[c];
    const T* term = p.context_term + (row / (p.rows / p.groups) * p.blocks + block) * width;
    T* embedded = columns + c * width;
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
  for (int64_t d = 0; d < p.features; ++d)
    for (int64_t c = at.count; c < P; ++c) s.tokens[d * P + c] = s.tokens[d * P + at.count - 1];
  C::side_by_side(width, at.count, columns, s.hidden);
  C::template product<true>(width, p.features, p.input_weight + block * width * p.features, nullptr, s.tokens,
                            s.hidden);
}

// Block `block`'s transformer: tokens (rows, tokens, features) in the data's order, of which only those before a
// column's position are read -> pairs (2, features, P), which the leader has. Keys and values of the columns are added
// to the cache, in order. Only the leader reads tokens. kept: as in `CausalResults`.
template <class T, class C>
void transform(const Team& team, const Causal<T>& p, int64_t block, const Positions<T>& at, const T* tokens,
               const KeyValueCache<T>& cache, const TransformerScratch<T>& s, T* pairs, T* kept) {
  const int64_t width = p.width, size = p.head_width();
  const auto heads = team.share(p.heads, 1);
  if (team.leads()) embed<T, C>(p, block, at, tokens, s);
  team.wait();
  for (int64_t i = 0; i < p.layers; ++i) {
    const int64_t layer = block * p.layers + i;
    const auto of = [&](const T* vectors) { return vectors + layer * width; };
    // Kept results lie one after the other, each (rows, length, its width).
    T* next = kept ? kept + layer * p.rows * p.length() * p.kept_width() : nullptr;
    const auto keep = [&](int64_t count, const T* from) {
      if (!kept) return;
      C::copy(team, count, at.count, from,
              [&](int64_t c) { return next + (at.row[c] * p.length() + at.position[c]) * count; });
      next += p.rows * p.length() * count;
    };
    C::layer_norm(width, s.hidden, of(p.attention_norm_weight), of(p.attention_norm_bias), p.norm_eps, s.normed);
    C::template product<false>(team, p.qkv, layer, s.normed, s.wide, s.product);
    keep(3 * width, s.wide);
    team.wait();
    const T* columns = C::one_by_one(3 * width, s.wide, s.columns);
    for (int64_t c = 0; c < at.count; ++c) {
      const int64_t row = at.row[c], position = at.position[c];
      for (int64_t head = heads.first; head < heads.first + heads.count; ++head) {
        const T* query = columns + c * 3 * width + head * size;
        const int64_t first = head * p.length() * size;
        T *keys = cache.at(p, row, i, false) + first, *values = cache.at(p, row, i, true) + first;
        for (int64_t d = 0; d < size; ++d) {
          keys[position * size + d] = query[width + d];
          values[position * size + d] = query[2 * width + d];
        }
        attend(p, position + 1, query, keys, values, s.weights, s.attended + c * width + head * size);
      }
    }
    team.wait();
    const T* attended = C::side_by_side(width, at.count, s.attended, s.normed);
    C::template product<true>(team, p.projection, layer, attended, s.hidden, s.product);
    keep(width, s.hidden);
    team.wait();
    C::layer_norm(width, s.hidden, of(p.mlp_norm_weight), of(p.mlp_norm_bias), p.norm_eps, s.normed);
    C::template product<false>(team, p.up, layer, s.normed, s.wide, s.product);
    keep(p.up.outputs, s.wide);
    C::activate(team, p.up.outputs, s.wide);
    team.wait();
    C::template product<true>(team, p.down, layer, s.wide, s.hidden, s.product);
    keep(width, s.hidden);
    team.wait();
  }
  if (team.leads())
    C::template product<false>(2 * p.features, width, p.output_weight + block * 2 * p.features * width,
                               p.output_bias + block * 2 * p.features, s.hidden, pairs);
}

}  // namespace nfkern::NFKERN_ISA

// The causal flow's maps over a range of rows. See `reference.py` and `sampling.py`, whose formulas these are.
#pragma once

#include "../affine/cpu_transform.h"
#include "cpu_transformer.h"

namespace nfkern::NFKERN_ISA {

// Rows whose keys and values are held at a time: enough to fill panels, of rows or of all their positions.
template <class T>
int64_t rows_together(const Causal<T>& p, bool to_data) {
  const int64_t length = p.length() ? p.length() : 1, columns = 8 * kWidestPanel<T>;
  const int64_t rows = to_data ? kWidestPanel<T> : columns > length ? columns / length : 1;
  return rows < p.rows ? rows : p.rows;
}

// Scratch of a range of rows beside the transformer's; all members of a team share it.
template <class T>
struct BlocksScratch {
  T *keys_values, *unconditional_keys_values;
  T *pairs, *unconditional_pairs;  // (2, features, P)
  T* factor;                       // (features, P)
};

// Elements of scratch that `causal_rows` needs for any number of rows, all members of a team together. With memory,
// fills what is given.
template <class T>
int64_t place(const Causal<T>& p, bool to_data, T* memory, const Team& team, TransformerScratch<T>& transformer,
              BlocksScratch<T>& blocks) {
  int64_t used = place<T>(p, memory, team.index, team.size, transformer);
  const auto take = [&](T*& pointer, int64_t size) {
    pointer = memory ? memory + used : nullptr;
    used += size;
  };
  const int64_t cached = KeyValueCache<T>::size(p, rows_together(p, to_data)), pairs = 2 * p.features * kWidestPanel<T>;
  const bool guided = p.unconditional_term != nullptr;
  take(blocks.keys_values, cached);
  take(blocks.pairs, pairs);
  take(blocks.factor, pairs);
  take(blocks.unconditional_keys_values, guided ? cached : 0);
  take(blocks.unconditional_pairs, guided ? pairs : 0);
  return used + kLanes<T>;
}

template <class T>
int64_t causal_scratch(const Causal<T>& p, bool to_data, int64_t members) {
  TransformerScratch<T> transformer;
  BlocksScratch<T> blocks;
  return place<T>(p, to_data, nullptr, {0, static_cast<int>(members), nullptr}, transformer, blocks);
}

// The leader moves tokens; the other members only help with the transformer.
template <class T>
struct Blocks {
  const Team& team;
  const Causal<T>& p;
  const Causal<T> unconditional;
  const CausalResults<T>& out;
  const TransformerScratch<T> scratch;
  const BlocksScratch<T> own;
  int64_t first_row;

  void transform_all(int64_t block, const Positions<T>& at, const T* tokens) {
    const auto run = at.vectors == 2   ? transform<T, Columns<T, 2>>
                     : at.vectors == 1 ? transform<T, Columns<T, 1>>
                                       : transform<T, Columns<T, 0>>;
    run(team, p, block, at, tokens, {own.keys_values, first_row}, scratch, own.pairs, out.kept);
    if (!p.unconditional_term) return;
    run(team, unconditional, block, at, tokens, {own.unconditional_keys_values, first_row}, scratch,
        own.unconditional_pairs, static_cast<T*>(nullptr));
    if (team.leads()) lean(at);
  }

  // Pairs lean away from those without context.
  void lean(const Positions<T>& at) {
    const int64_t P = columns_of<T>(at.vectors);
    for (int64_t c = 0; c < at.count; ++c) {
      const T growth = p.annealed ? static_cast<T>(at.position[c] + 1) / static_cast<T>(p.length()) : T(1);
      for (int64_t i = c; i < 2 * p.features * P; i += P)
        own.pairs[i] += p.guidance * growth * (own.pairs[i] - own.unconditional_pairs[i]);
    }
  }

  // Moves the token after each column by its pair; from and to (rows, tokens, features).
  void move(bool to_data, int64_t block, const Positions<T>& at, const T* from, T* to) {
    if (!team.leads()) return;
    const int64_t P = columns_of<T>(at.vectors), count = p.features * P;
    const AffineMaps<T> maps{p.scale_bound, count, own.pairs, own.factor};
    maps.bound_parameters();
    maps.prepare(to_data);
    for (int64_t c = 0; c < at.count; ++c) {
      const int64_t token = p.place(block, at.position[c] + (p.prefix ? 0 : 1));
      const int64_t first = (at.row[c] * p.tokens + token) * p.features;
      T total = 0;
      for (int64_t d = 0; d < p.features; ++d) {
        const AffineMap<T> map = maps[d * P + c];
        to[first + d] = to_data ? map.inverse(from[first + d]) : map.forward(from[first + d]);
        total += map.log_det();
      }
      out.log_det[at.row[c]] += to_data ? -total : total;
    }
  }

  // All columns of rows [begin, end), position after position of each.
  void density(int64_t block, int64_t begin, int64_t end, const T* from, T* to) {
    const int64_t length = p.length(), total = (end - begin) * length;
    if (!p.prefix && team.leads()) {
      const int64_t first = p.place(block, 0) * p.features;
      for (int64_t row = begin; row < end; ++row)
        for (int64_t d = 0; d < p.features; ++d) {
          const int64_t i = row * p.tokens * p.features + first + d;
          to[i] = from[i];
        }
    }
    for (int64_t column = 0; column < total;) {
      Positions<T> at;
      at.vectors = next_vectors<T>(total - column, false);
      const int64_t most = columns_of<T>(at.vectors);
      at.count = total - column < most ? total - column : most;
      for (int64_t c = 0; c < at.count; ++c) {
        at.row[c] = begin + (column + c) / length;
        at.position[c] = (column + c) % length;
      }
      transform_all(block, at, from);
      move(false, block, at, from, to);
      column += at.count;
    }
  }

  // Rows [begin, end) token by token, in place.
  void sample(int64_t block, int64_t begin, int64_t end, T* tokens) {
    for (int64_t position = 0; position < p.length(); ++position)
      for (int64_t row = begin; row < end;) {
        Positions<T> at;
        at.vectors = next_vectors<T>(end - row, false);
        const int64_t most = columns_of<T>(at.vectors);
        at.count = end - row < most ? end - row : most;
        for (int64_t c = 0; c < at.count; ++c) at.row[c] = row + c, at.position[c] = position;
        transform_all(block, at, tokens);
        move(true, block, at, tokens, tokens);
        row += at.count;
      }
  }
};

// Rows [begin, end) through all blocks.
template <class T>
void causal_rows(bool to_data, const Causal<T>& p, const T* x, const CausalResults<T>& out, int64_t begin, int64_t end,
                 T* memory, const Team& team) {
  TransformerScratch<T> scratch;
  BlocksScratch<T> own;
  place(p, to_data, memory, team, scratch, own);
  Causal<T> unconditional = p;
  unconditional.context_term = p.unconditional_term, unconditional.groups = 1;
  Blocks<T> blocks{team, p, unconditional, out, scratch, own, begin};
  const int64_t together = rows_together(p, to_data), size = p.tokens * p.features;
  for (; begin < end; begin += together) {
    const int64_t last = begin + together < end ? begin + together : end;
    blocks.first_row = begin;
    if (team.leads())
      for (int64_t row = begin; row < last; ++row) out.log_det[row] = 0;
    const auto copy = [&](const T* from, T* to) {
      if (!team.leads()) return;
      for (int64_t i = begin * size; i < last * size; ++i) to[i] = from[i];
    };
    if (to_data) {
      copy(x, out.result);
      for (int64_t block = p.blocks - 1; block >= 0; --block) {
        blocks.sample(block, begin, last, out.result);
        copy(out.result, out.inputs + block * p.rows * size);
      }
    } else {
      copy(x, out.inputs);
      for (int64_t block = 0; block < p.blocks; ++block) {
        T* next = block + 1 < p.blocks ? out.inputs + (block + 1) * p.rows * size : out.result;
        blocks.density(block, begin, last, out.inputs + block * p.rows * size, next);
      }
    }
  }
}

template <class T>
constexpr CausalKernels<T> causal_kernels() {
  return {causal_scratch<T>, causal_rows<T>};
}

}  // namespace nfkern::NFKERN_ISA

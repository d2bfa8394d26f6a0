// The coupling flow's maps over a range of rows, block by block. See `reference.py`, whose formulas these are.
#pragma once

#include "../affine/cpu_transform.h"
#include "cpu_encoder.h"

namespace nfkern::NFKERN_ISA {

// Rows that are mapped together: 2 or 1 vectors of them, or a single row (0).
template <class T>
struct Piece {
  int vectors;
  int64_t row, count;
  T *state, *score;   // (features, P)
  T* log_det;         // (P)
  const T* contexts;  // (context_features, P), or null
};

template <class T>
struct StepScratch {
  T *mixed, *parameters, *factor, *grads, *layers, *engine;
};

// One block of a map, on one piece; E is `Panel` or `Row`.
template <class T, class E>
struct Step {
  using Layer = typename E::Layer;
  static constexpr int P = E::P;

  static void run(Map map, const Coupling<T>& p, const MapResults<T>& out, int64_t block, const Piece<T>& piece,
                  const StepScratch<T>& scratch) {
    const int64_t split = p.kept() * P, rest = p.transformed() * P, size = p.features * p.features;
    const T* mixing = p.mixing + block * size;
    const AffineMaps<T> affine{p.scale_bound, rest, scratch.parameters, scratch.factor};
    if (out.inputs) keep_state(p, piece, out.inputs + block * p.rows * p.features);
    if (map == Map::kToLatent) {
      E::mix(p.features, mixing, false, piece.state, scratch.mixed);
      Layer layers[2][2];
      condition(p, out, block, piece, scratch.mixed, scratch, affine, layers);
      affine.prepare(false);
      affine.template add_log_det<P>(false, piece.log_det);
      affine.forward(scratch.mixed + split);
      for (int64_t i = 0; i < split + rest; ++i) piece.state[i] = scratch.mixed[i];
      return;
    }
    Layer layers[2][2];
    condition(p, out, block, piece, piece.state, scratch, affine, layers);
    if (map == Map::kScore) carry_score(p, out, block, piece, scratch, affine, layers);
    affine.prepare(true);
    affine.template add_log_det<P>(true, piece.log_det);
    affine.inverse(piece.state + split, piece.state + split);
    E::mix(p.features, mixing, false, piece.state, scratch.mixed);
    for (int64_t i = 0; i < split + rest; ++i) piece.state[i] = scratch.mixed[i];
  }

  static void condition(const Coupling<T>& p, const MapResults<T>& out, int64_t block, const Piece<T>& piece,
                        const T* kept, const StepScratch<T>& scratch, const AffineMaps<T>& affine,
                        Layer (&layers)[2][2]) {
    const int64_t both = (p.width1 + p.width2) * P + 2 * kLanes<T>;
    for (int net = 0; net < 2; ++net) {
      Layer &first = layers[net][0], &second = layers[net][1];
      first.activation = scratch.layers + net * both;
      second.activation = first.activation + p.width1 * P + kLanes<T>;
      const bool whole = out.hidden.memory && piece.count == P;
      const bool in_place = whole && E::place(p, out.hidden, block, net, piece.row, first, second);
      E::conditioner(p, block * 2 + net, piece.row, piece.count, piece.contexts, kept, first, second, scratch.engine,
                     affine.parameters + net * affine.count);
      if (out.hidden.memory && !in_place) keep_hidden(out.hidden, block, net, piece, first, second);
    }
    affine.bound_parameters();
  }

  static void keep_hidden(const KeptHidden<T>& hidden, int64_t block, int64_t net, const Piece<T>& piece,
                          const Layer& first, const Layer& second) {
    const int64_t lanes = hidden.lanes();
    for (int64_t c = 0; c < piece.count; ++c) {
      T* to = hidden.row(block, net, piece.row + c);
      for (int64_t j = 0; j < hidden.width1; ++j, to += lanes) *to = first.activation[j * P + c];
      for (int64_t j = 0; j < hidden.width2; ++j, to += lanes) *to = second.activation[j * P + c];
    }
  }

  // The score of the block's output from that of its input.
  static void carry_score(const Coupling<T>& p, const MapResults<T>& out, int64_t block, const Piece<T>& piece,
                          const StepScratch<T>& scratch, const AffineMaps<T>& affine, const Layer (&layers)[2][2]) {
    const int64_t split = p.kept() * P, rest = affine.count;
    const T* latent = piece.state + split;
    T* score = piece.score + split;
    affine.prepare(false);
    affine.pull_back(score, scratch.grads, [&](AffineMap<T> map, int64_t i) {
      return map.forward_vjp_from_latent(latent[i], score[i], T(1));
    });
    for (int net = 0; net < 2; ++net)
      E::conditioner_backward(p, block * 2 + net, piece.count, layers[net][0], layers[net][1],
                              scratch.grads + net * rest, scratch.engine, piece.score);
    E::mix(p.features, out.density_mixing + block * p.features * p.features, true, piece.score, scratch.mixed);
    for (int64_t i = 0; i < split + rest; ++i) piece.score[i] = scratch.mixed[i];
  }

  static void keep_state(const Coupling<T>& p, const Piece<T>& piece, T* rows) {
    for (int64_t c = 0; c < piece.count; ++c)
      for (int64_t d = 0; d < p.features; ++d) rows[(piece.row + c) * p.features + d] = piece.state[d * P + c];
  }
};

template <class T>
void step(Map map, const Coupling<T>& p, const MapResults<T>& out, int64_t block, const Piece<T>& piece,
          const StepScratch<T>& scratch) {
  if (piece.vectors == 2) return Step<T, Panel<T, 2>>::run(map, p, out, block, piece, scratch);
  if (piece.vectors == 1) return Step<T, Panel<T, 1>>::run(map, p, out, block, piece, scratch);
  return Step<T, Row<T>>::run(map, p, out, block, piece, scratch);
}

constexpr int kMaxPieces = 16;

// Elements of scratch that `map_rows` needs for any number of rows.
template <class T>
int64_t map_scratch(const Coupling<T>& p, const Contexts<T>* contexts) {
  constexpr int P = kWidestPanel<T>;
  const int64_t encoder = !contexts
                              ? 0
                              : kMaxPieces * (p.context_features + kLanes<T>)*P + 3 * (contexts->widest + kLanes<T>)*P +
                                    (contexts->lowered ? contexts->largest : 0);
  const int64_t engine =
      Panel<T, 2>::scratch_size(p) > Row<T>::scratch_size(p) ? Panel<T, 2>::scratch_size(p) : Row<T>::scratch_size(p);
  return encoder + engine + kMaxPieces * (2 * p.features + 1) * P + 7 * p.features * P + 2 * (p.width1 + p.width2) * P +
         16 * kLanes<T>;
}

// Rows [begin, end) through all blocks. Every piece takes a block before the next block begins, so that a block's
// weights are read from the second cache by all pieces but the first.
template <class T>
void map_rows(Map map, const Coupling<T>& p, const Contexts<T>* contexts, const T* x, const MapResults<T>& out,
              int64_t begin, int64_t end, T* scratch) {
  constexpr int W = kWidestPanel<T>;
  StepScratch<T> buffers;
  const int64_t wide = p.features * W;
  buffers.mixed = scratch, scratch += wide;
  buffers.parameters = scratch, scratch += 2 * wide;
  buffers.factor = scratch, scratch += wide;
  buffers.grads = scratch, scratch += wide;
  buffers.layers = scratch, scratch += 2 * ((p.width1 + p.width2) * W + 2 * kLanes<T>);
  T* states = scratch;
  scratch += kMaxPieces * (2 * p.features + 1) * W;
  T *encoded = nullptr, *inputs = nullptr, *outputs = nullptr;
  if (contexts) {
    encoded = scratch, scratch += kMaxPieces * (p.context_features + kLanes<T>)*W;
    inputs = scratch, scratch += (contexts->widest + kLanes<T>)*W;
    outputs = scratch, scratch += (contexts->widest + kLanes<T>)*W;
  }
  buffers.engine = scratch;
  while (begin < end) {
    Piece<T> pieces[kMaxPieces];
    int found = 0;
    for (T* at = states; begin < end && found < kMaxPieces; at += (2 * p.features + 1) * W) {
      Piece<T>& piece = pieces[found++];
      piece.vectors = next_vectors<T>(end - begin, p.far());
      const int64_t columns = columns_of<T>(piece.vectors);
      piece.row = begin;
      piece.count = end - begin < columns ? end - begin : columns;
      piece.state = at, piece.score = at + p.features * W, piece.log_det = at + 2 * p.features * W;
      begin += piece.count;
      for (int64_t c = 0; c < columns; ++c) {
        const T* from = x + (piece.row + (c < piece.count ? c : piece.count - 1)) * p.features;
        for (int64_t d = 0; d < p.features; ++d) {
          piece.state[d * columns + c] = from[d];
          piece.score[d * columns + c] = -from[d];
        }
        piece.log_det[c] = out.mixing_log_det;
      }
      piece.contexts = nullptr;
      if (contexts) {
        T* result = encoded + (found - 1) * (p.context_features + kLanes<T>)*W;
        const auto run = piece.vectors == 2   ? encode<T, Panel<T, 2>>
                         : piece.vectors == 1 ? encode<T, Panel<T, 1>>
                                              : encode<T, Row<T>>;
        run(*contexts, piece.row, piece.count, inputs, outputs, result, buffers.engine);
        piece.contexts = result;
      }
    }
    for (int64_t i = 0; i < p.blocks; ++i)
      for (int n = 0; n < found; ++n)
        step(map, p, out, map == Map::kToLatent ? i : p.blocks - 1 - i, pieces[n], buffers);
    for (int n = 0; n < found; ++n) {
      const Piece<T>& piece = pieces[n];
      const int64_t columns = columns_of<T>(piece.vectors);
      for (int64_t c = 0; c < piece.count; ++c) {
        const int64_t row = piece.row + c;
        for (int64_t d = 0; d < p.features; ++d) {
          out.result[row * p.features + d] = piece.state[d * columns + c];
          if (out.score) out.score[row * p.features + d] = piece.score[d * columns + c];
        }
        out.log_det[row] = piece.log_det[c];
      }
    }
  }
}

}  // namespace nfkern::NFKERN_ISA

// Arguments of the coupling flow's kernels: plain pointers to contiguous tensors.
#pragma once

#include "../simd/lowered_weight.h"

namespace nfkern {

// A flow's tensors, laid out as `CouplingParameters` says; one element type, but for lowered weights.
template <class T>
struct Coupling {
  int64_t rows, groups, blocks, features, width1, width2;
  const T* context_term;  // (groups, blocks, 2, width1); null where contexts are projected on the way:
  int64_t context_features;
  const T* context_weight;  // (blocks, 2, width1, context_features), null if lowered
  LoweredWeight context_lowered;
  const T* input_bias;      // (blocks, 2, width1)
  const T* mixing;          // (blocks, features, features): of to_latent, or the inverses for to_data
  const T* input_weight;
  const T *norm1_weight, *norm1_bias;  // null in a folded set
  const T* hidden_weight;              // null if lowered
  LoweredWeight hidden_lowered;
  const T* hidden_bias;
  const T *norm2_weight, *norm2_bias;
  const T *output_weight, *output_bias;
  T norm_eps;
  T scale_bound;  // 0 for none

  // True if the large weights are more than caches are likely to hold.
  bool far() const {
    const auto bytes = [](const LoweredWeight& lowered) {
      return lowered ? lowered.element_bytes() : static_cast<int64_t>(sizeof(T));
    };
    const int64_t row = width2 * bytes(hidden_lowered) + context_features * bytes(context_lowered);
    return blocks * 2 * width1 * row > (int64_t{8} << 20);
  }
  int64_t kept() const { return (features + 1) / 2; }
  int64_t transformed() const { return features / 2; }
};

// A layer of an encoder: Linear, then LayerNorm and SiLU but for the last.
template <class T>
struct EncoderLayer {
  int64_t inputs, outputs;
  const T* weight;  // (outputs, inputs), null if lowered
  LoweredWeight lowered;
  const T* bias;
  const T *norm_weight, *norm_bias;  // null for the last layer
  T norm_eps;
};

// The source of contexts that are projected on the way: observations, and the encoder's layers if there are any.
template <class T>
struct Contexts {
  const T* observations;  // (rows, observed)
  int64_t observed, layers;
  const EncoderLayer<T>* layer;
  bool lowered;             // some layer is
  int64_t widest, largest;  // of all layers' widths, and of their weights' sizes
};

// Both hidden layers' activations as a map keeps them for its derivative: (blocks, 2, panels, width1 + width2, lanes),
// in panels of `lanes` rows side by side. See `conditioner.py`.
template <class T>
struct KeptHidden {
  T* memory;  // null where nothing is kept
  int64_t rows, width1, width2;

  int64_t lanes() const {
    constexpr int64_t most = 128 / sizeof(T);
    return rows < most ? rows : most;
  }
  int64_t panels() const { return (rows + lanes() - 1) / lanes(); }

  // A row's activations of the first layer, `lanes` apart; the second layer's follow them.
  T* row(int64_t block, int64_t net, int64_t row) const {
    const int64_t panel = (block * 2 + net) * panels() + row / lanes();
    return memory + panel * (width1 + width2) * lanes() + row % lanes();
  }

  // True if the rows [row, row + count) exist and lie side by side.
  bool together(int64_t row, int64_t count) const { return row + count <= rows && row % lanes() + count <= lanes(); }
};

template <class T>
struct MapResults {
  T* result;   // (rows, features)
  T* log_det;  // (rows)
  T* inputs;   // (blocks, rows, features), or null
  T* score;    // (rows, features), or null
  KeptHidden<T> hidden;
  T mixing_log_det;
  const T* density_mixing;  // for the score: to_latent's matrices
};

// A map's derivative: gradients of its results, and where those of its arguments go. Without `context_term`, only that
// of x is wanted; without `hidden_weight`, the set is folded and its weights have none.
template <class T>
struct Derivative {
  bool to_data;
  const T* inputs;             // (blocks, rows, features)
  const T* grad;               // (rows, features)
  const T* grad_log_det;       // (rows)
  KeptHidden<const T> hidden;  // computed again where nothing is kept
  T* x;                        // (rows, features)
  T* context_term;             // (groups, blocks, 2, width1); zeros where groups < rows
  T* mixing;                   // (blocks, features, features)
  T *input_weight, *norm1_weight, *norm1_bias, *hidden_weight, *hidden_bias, *norm2_weight, *norm2_bias;
  T *output_weight, *output_bias;
};

enum class Map { kToLatent, kToData, kScore };

// Steps of a derivative: those before and after all blocks and the first of each block take panels of rows, of two
// vectors each; the second of each block takes `kReduceParts` parts.
enum class ChunkStep { kLoad, kPanel, kReduce, kStore };
constexpr int kReduceParts = 32;

template <class T>
struct ChunkRows {
  int64_t row, count;
  T* memory;
};

// The kernels of one instruction set.
template <class T>
struct CouplingKernels {
  int64_t (*scratch)(const Coupling<T>&, const Contexts<T>*);
  void (*rows)(Map, const Coupling<T>&, const Contexts<T>*, const T* x, const MapResults<T>&, int64_t begin,
               int64_t end, T* scratch);
  int64_t (*chunk_size)(const Coupling<T>&, int64_t rows, bool parameter_grads);
  int64_t (*panel_scratch)(const Coupling<T>&);
  // A step of a chunk's derivative; what `index` counts depends on it.
  void (*derive)(ChunkStep, const Coupling<T>&, const Derivative<T>&, ChunkRows<T>, int64_t block, int64_t index,
                 T* scratch);
};

}  // namespace nfkern

// Arguments of the causal flow's kernels: plain pointers to contiguous tensors.
#pragma once

#include <cstdint>

#include "../simd/team.h"

namespace nfkern {

// A product of every layer of every block, y = weight x + bias.
template <class T>
struct LayerProduct {
  int64_t outputs, depth;
  const T* weight;       // (blocks, layers, outputs, depth), null if in bfloat16
  const uint16_t* bf16;  // the same
  const T* bias;         // (blocks, layers, outputs)
};

// A flow's tensors, laid out as `CausalParameters` says.
template <class T>
struct Causal {
  int64_t rows, groups, tokens, positions, features, blocks, layers, width, heads;
  bool prefix;
  const T* context_term;  // (groups, blocks, width)
  const T* input_weight;
  const T* position;  // (blocks, positions, width)
  const T *attention_norm_weight, *attention_norm_bias;
  LayerProduct<T> qkv, projection;
  const T *mlp_norm_weight, *mlp_norm_bias;
  LayerProduct<T> up, down;
  const T *output_weight, *output_bias;
  T norm_eps;
  T scale_bound;                // 0 for none
  const T* unconditional_term;  // (blocks, width), null without guidance
  T guidance;
  bool annealed;

  // Positions that the transformer sees: nobody reads the last token.
  int64_t length() const { return tokens - (prefix ? 0 : 1); }
  int64_t head_width() const { return width / heads; }
  int64_t kept_width() const { return 5 * width + up.outputs; }
  // From a token's place in a block's order to its place in the data, or back.
  int64_t place(int64_t block, int64_t token) const { return block % 2 ? tokens - 1 - token : token; }
};

template <class T>
struct CausalResults {
  T* result;   // (rows, tokens, features)
  T* log_det;  // (rows)
  T* inputs;   // (blocks, rows, tokens, features): each block's side nearer to the data
  T* kept;     // (blocks, layers, rows * length * kept_width()), see `Kept`, or null
};

// The kernels of one instruction set.
template <class T>
struct CausalKernels {
  int64_t (*scratch)(const Causal<T>&, bool to_data, int64_t members);
  void (*rows)(bool to_data, const Causal<T>&, const T* x, const CausalResults<T>&, int64_t begin, int64_t end,
               T* scratch, const Team&);
};

}  // namespace nfkern

// One table of kernels for each instruction set; the machine's best is chosen at run time.
#pragma once

#include "../causal/cpu.h"
#include "../causal_affine/cpu.h"
#include "../coupling/cpu.h"
#include "../linear/cpu.h"
#include "team.h"

namespace nfkern {

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

template <class T>
struct Kernels {
  int64_t (*map_scratch)(const Coupling<T>&, const Contexts<T>*);
  void (*map_rows)(Map, const Coupling<T>&, const Contexts<T>*, const T* x, const MapResults<T>&, int64_t begin,
                   int64_t end, T* scratch);
  int64_t (*chunk_size)(const Coupling<T>&, int64_t rows, bool parameter_grads);
  int64_t (*panel_scratch)(const Coupling<T>&);
  // A step of a chunk's derivative; what `index` counts depends on it.
  void (*derive)(ChunkStep, const Coupling<T>&, const Derivative<T>&, ChunkRows<T>, int64_t block, int64_t index,
                 T* scratch);
  int64_t (*linear_scratch)(const Linear<T>&);
  void (*linear_rows)(const Linear<T>&, int64_t begin, int64_t end, T* scratch);
  void (*causal_affine_rows)(const CausalAffine<T>&, int64_t begin, int64_t end);
  void (*causal_affine_backward_rows)(const CausalAffine<T>&, int64_t begin, int64_t end);
  int64_t (*causal_scratch)(const Causal<T>&, bool to_data, int64_t members);
  void (*causal_rows)(bool to_data, const Causal<T>&, const T* x, const CausalResults<T>&, int64_t begin, int64_t end,
                      T* scratch, const Team&);
};

struct InstructionSet {
  const char* name;
  bool (*supported)();
  int vector_bytes;
  Kernels<float> float32;
  Kernels<double> float64;
};

// Best first; the last, which any machine supports, ends the list.
extern const InstructionSet* const kInstructionSets[];

}  // namespace nfkern

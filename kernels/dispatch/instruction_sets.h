// One table of kernels for each instruction set; the machine's best is chosen at run time.
#pragma once

#include "ops.h"

namespace nfkern {

template <class T>
struct Kernels {
#define NFKERN_MEMBER(Name, name) Name##Kernels<T> name;
  NFKERN_OPS(NFKERN_MEMBER)
#undef NFKERN_MEMBER
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

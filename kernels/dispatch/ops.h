// The one list of the ops with kernels for each instruction set. An op has its arguments and a table of its kernels in a
// header of its own; another, with the kernels themselves, is compiled once for each set, which defines NFKERN_ISA.
#ifndef NFKERN_OPS
#define NFKERN_OPS(OP)              \
  OP(Coupling, coupling)            \
  OP(Linear, linear)                \
  OP(CausalAffine, causal_affine)   \
  OP(Causal, causal)

#include "../affine/cpu.h"
#include "../causal/cpu.h"
#include "../coupling/cpu.h"
#include "../linear/cpu.h"
#endif

#ifdef NFKERN_ISA
#include "../affine/cpu_rows.h"
#include "../causal/cpu_maps.h"
#include "../coupling/cpu_backward.h"
#include "../linear/cpu_rows.h"
#endif

// The list of ops with kernels for each instruction set. Each op has a header with its arguments and the table of its
// kernels, and one with the kernels themselves, compiled once for each set, which defines NFKERN_ISA.
#ifndef NFKERN_OPS
#define NFKERN_OPS(OP)                    \
  OP(Coupling, coupling)                  \
  OP(Linear, linear)                      \
  OP(HiddenActivation, hidden_activation) \
  OP(CausalAffine, causal_affine)         \
  OP(Causal, causal)

#include "../activation/cpu.h"
#include "../affine/cpu.h"
#include "../causal/cpu.h"
#include "../coupling/cpu.h"
#include "../linear/cpu.h"
#endif

#ifdef NFKERN_ISA
#include "../activation/cpu_rows.h"
#include "../affine/cpu_rows.h"
#include "../causal/cpu_maps.h"
#include "../coupling/cpu_backward.h"
#include "../linear/cpu_rows.h"
#endif

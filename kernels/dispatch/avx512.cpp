// 64-byte vectors: AVX-512 F, BW, VL and DQ.
#include <cmath>
#include <utility>

#include "instruction_sets.h"
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
// After the standard library: nothing of it may be compiled for this instruction set, see vector.h.
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")
#define NFKERN_ISA avx512
#define NFKERN_VECTOR_BYTES 64
#include "instruction_set.inc"

namespace nfkern {
namespace {
bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
}  // namespace
extern const InstructionSet kAvx512 = {"avx512", supported, NFKERN_VECTOR_BYTES, avx512::kernels<float>(),
                                       avx512::kernels<double>()};
}  // namespace nfkern
#endif

// 32-byte vectors: AVX2 with fused multiply-add.
#include <cmath>
#include <utility>

#include "instruction_sets.h"
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
// After the standard library: nothing of it may be compiled for this instruction set, see vector.h.
#pragma GCC target("avx2,fma")
#define NFKERN_ISA avx2
#define NFKERN_VECTOR_BYTES 32
#include "instruction_set.inc"

namespace nfkern {
namespace {
bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
}  // namespace
extern const InstructionSet kAvx2 = {"avx2", supported, NFKERN_VECTOR_BYTES, avx2::kernels<float>(),
                                     avx2::kernels<double>()};
}  // namespace nfkern
#endif

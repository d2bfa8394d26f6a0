// 64-byte vectors, and products of pairs of bfloat16: AVX-512 with BF16.
#include <cmath>
#include <utility>

#include "instruction_sets.h"
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
// After the standard library: nothing of it may be compiled for this instruction set, see vector.h.
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
#define NFKERN_ISA avx512_bf16
#define NFKERN_VECTOR_BYTES 64
#define NFKERN_BF16_DOT
#include "instruction_set.inc"

namespace nfkern {
namespace {
bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
}
}  // namespace
extern const InstructionSet kAvx512Bf16 = {"avx512_bf16", supported, NFKERN_VECTOR_BYTES, avx512_bf16::kernels<float>(),
                                           avx512_bf16::kernels<double>()};
}  // namespace nfkern
#endif

// 16-byte vectors, which every compiler maps to what the target has: SSE2, NEON, or scalars.
#define NFKERN_ISA portable
#define NFKERN_VECTOR_BYTES 16
#include "instruction_set.inc"

namespace nfkern {
namespace {
bool supported() { return true; }
}  // namespace
extern const InstructionSet kPortable = {"portable", supported, NFKERN_VECTOR_BYTES, portable::kernels<float>(),
                                         portable::kernels<double>()};
}  // namespace nfkern

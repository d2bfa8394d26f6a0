// Weights that are stored in fewer bits than they are multiplied in.
#pragma once

#include <cstdint>

namespace nfkern {

// A weight (outputs, inputs) in bfloat16, or in int8 with a scale for each output: `scale * int8`. Null for none.
struct LoweredWeight {
  const uint16_t* bf16;
  const int8_t* int8;
  const float* scale;  // (outputs)

  explicit operator bool() const { return bf16 || int8; }
  int64_t element_bytes() const { return bf16 ? 2 : 1; }

  // The same without its first outputs.
  LoweredWeight from(int64_t output, int64_t inputs) const {
    if (bf16) return {bf16 + output * inputs, nullptr, nullptr};
    return {nullptr, int8 + output * inputs, scale + output};
  }
};

}  // namespace nfkern

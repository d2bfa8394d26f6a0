// Memory that is kept from call to call: the system takes a page back with every large tensor that is freed, and to map
// it again and clear it costs more than to fill it.
#pragma once

#include <ATen/ATen.h>

namespace nfkern {

// A thread's own, 64-byte aligned.
enum class Scratch { kRows, kChunk };
void* scratch(Scratch which, int64_t bytes);

// As at::empty; a large tensor's memory, once freed, serves the next one of about its size.
at::Tensor recycled(at::IntArrayRef sizes, const at::TensorOptions& options);

}  // namespace nfkern

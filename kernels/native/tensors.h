// From tensors to the pointers that kernels are called with.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/SmallVector.h>

#include <optional>
#include <vector>

#include "memory.h"

namespace nfkern {

// Kernels rely on shapes: a tensor that is too small would be read past its end.
inline void check_shape(const char* name, const at::Tensor& tensor, at::IntArrayRef expected) {
  TORCH_CHECK_VALUE(tensor.is_cpu() && tensor.sizes() == expected, name, ": expected shape ", expected,
                    " on the CPU, got ", tensor.sizes(), " on ", tensor.device());
}

// Keeps contiguous tensors while their pointers are in use.
template <class T>
class Pointers {
 public:
  const T* pointer(const std::optional<at::Tensor>& tensor) {
    return tensor ? keep(*tensor).template const_data_ptr<T>() : nullptr;
  }

  // Null for other dtypes.
  const uint16_t* bf16_pointer(const at::Tensor& tensor) {
    if (tensor.scalar_type() != at::kBFloat16) return nullptr;
    return reinterpret_cast<const uint16_t*>(keep(tensor).template const_data_ptr<at::BFloat16>());
  }

 private:
  const at::Tensor& keep(const at::Tensor& tensor) { return kept_.emplace_back(tensor.contiguous()); }

  // Room for an encoder's tensors beside a flow's, without the heap.
  c10::SmallVector<at::Tensor, 48> kept_;
};

template <class T>
T* memory(Scratch which, int64_t elements) {
  return static_cast<T*>(scratch(which, elements * static_cast<int64_t>(sizeof(T))));
}

}  // namespace nfkern

// From tensors to the pointers that kernels are called with.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/SmallVector.h>

#include <cmath>
#include <optional>
#include <vector>

#include "../simd/lowered_weight.h"
#include "memory.h"

namespace nfkern {

// Keeps contiguous tensors while their pointers are in use. Kernels rely on what is checked here: a tensor of another
// kind or size would be read past its end. The ops' own checks, in Python, say the same in their words.
template <class T>
class Pointers {
 public:
  const T* pointer(const char* name, const at::Tensor& tensor, at::IntArrayRef expected) {
    return data<T>(name, tensor, c10::CppTypeToScalarType<T>::value, expected);
  }

  // Null where there is none.
  const T* pointer(const char* name, const std::optional<at::Tensor>& tensor, at::IntArrayRef expected) {
    return tensor ? pointer(name, *tensor, expected) : nullptr;
  }

  // Null for other dtypes.
  const uint16_t* bf16_pointer(const char* name, const at::Tensor& tensor, at::IntArrayRef expected) {
    if (sizeof(T) != sizeof(float) || !tensor.defined() || tensor.scalar_type() != at::kBFloat16) return nullptr;
    return reinterpret_cast<const uint16_t*>(data<at::BFloat16>(name, tensor, at::kBFloat16, expected));
  }

  // A weight in int8 if it has a scale for each output, in bfloat16 if it is in that; none for other dtypes.
  LoweredWeight lowered(const char* name, const at::Tensor& tensor, const char* scale_name,
                        const std::optional<at::Tensor>& scale, at::IntArrayRef expected) {
    if (!scale) return {bf16_pointer(name, tensor, expected), nullptr, nullptr};
    return {nullptr, data<int8_t>(name, tensor, at::kChar, expected),
            data<float>(scale_name, *scale, at::kFloat, expected.slice(0, expected.size() - 1))};
  }

 private:
  template <class E>
  const E* data(const char* name, const at::Tensor& tensor, at::ScalarType dtype, at::IntArrayRef expected) {
    TORCH_CHECK_TYPE(tensor.defined(), name, ": expected a tensor, got None");
    TORCH_CHECK_TYPE(tensor.scalar_type() == dtype && tensor.is_cpu() && tensor.layout() == at::kStrided, name,
                     ": expected dense ", dtype, " on cpu, got ", tensor.layout(), " ", tensor.scalar_type(), " on ",
                     tensor.device());
    TORCH_CHECK_VALUE(tensor.sizes() == expected, name, ": expected shape ", expected, ", got ", tensor.sizes());
    const at::Tensor& kept = kept_.emplace_back((tensor.is_neg() ? tensor.resolve_neg() : tensor).contiguous());
    const E* found = kept.const_data_ptr<E>();
    // Zero tensors and those of a fake mode have none.
    TORCH_CHECK_TYPE(found || !kept.numel(), name, ": expected a tensor with data");
    return found;
  }

  // Room for an encoder's tensors beside a flow's, without the heap.
  c10::SmallVector<at::Tensor, 48> kept_;
};

// The settings that every map has, in the kernels' type; where there is no bound, 0 stands for it.
template <class T>
T checked_norm_eps(double norm_eps) {
  TORCH_CHECK_VALUE(std::isfinite(norm_eps) && norm_eps > 0, "norm_eps: expected a finite number > 0, got ", norm_eps);
  return static_cast<T>(norm_eps);
}

template <class T>
T checked_scale_bound(std::optional<double> scale_bound) {
  const T bound = static_cast<T>(scale_bound.value_or(0));
  TORCH_CHECK_VALUE(!scale_bound || (std::isnormal(bound) && bound > 0),
                    "scale_bound: expected None or a number > 0, got ", *scale_bound);
  return bound;
}

template <class T>
T* memory(Scratch which, int64_t elements) {
  return static_cast<T*>(scratch(which, elements * static_cast<int64_t>(sizeof(T))));
}

}  // namespace nfkern

// The smooth bound of an affine map's log_scale.
#pragma once

#include "../simd/vector.h"

namespace nfkern::NFKERN_ISA {

// raw -> bound * tanh(raw / bound), if the bound is not 0, which stands for none.
template <class T>
void bound_log_scale(T bound, int64_t count, T* log_scale) {
  if (bound == 0) return;
  for (int64_t i = 0; i < count; ++i) log_scale[i] = bound * std::tanh(log_scale[i] / bound);
}

// A gradient of the bounded log_scale becomes that of the raw one.
template <class T>
void bound_gradient(T bound, int64_t count, const T* log_scale, T* grad) {
  if (bound == 0) return;
  for (int64_t i = 0; i < count; ++i) {
    const T ratio = log_scale[i] / bound;
    grad[i] *= 1 - ratio * ratio;
  }
}

}  // namespace nfkern::NFKERN_ISA

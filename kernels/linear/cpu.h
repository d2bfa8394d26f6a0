// Arguments of the linear kernels.
#pragma once

#include <cstdint>

namespace nfkern {

template <class T>
struct Linear {
  int64_t outputs, depth;
  const T *x, *weight, *bias;  // (rows, depth), (outputs, depth), (outputs)
  T* result;                   // (rows, outputs)

  // True if the weight is more than caches are likely to hold.
  bool far() const { return outputs * depth * static_cast<int64_t>(sizeof(T)) > (int64_t{8} << 20); }
};

// The kernels of one instruction set.
template <class T>
struct LinearKernels {
  int64_t (*scratch)(const Linear<T>&);
  void (*rows)(const Linear<T>&, int64_t begin, int64_t end, T* scratch);
};

}  // namespace nfkern

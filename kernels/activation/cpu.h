// Arguments of the kernels of a hidden layer's activation.
#pragma once

#include <cstdint>

namespace nfkern {

enum class Activation { kSilu, kGelu };
enum class Norm { kNone, kFirst, kLast };

template <class T>
struct HiddenActivation {
  int64_t rows, width;  // of each member
  Activation activation;
  Norm norm;
  T eps;
  // Rows in bfloat16, the upper half of a float32, lie behind the second pointer of each pair.
  const T* x;
  const uint16_t* x_bf16;
  const T* grad;
  const uint16_t* grad_bf16;
  T* result;
  uint16_t* result_bf16;
  const T *bias, *norm_weight, *norm_bias;  // (members, width)
};

// The kernels of one instruction set. `member` says whose parameters rows [begin, end) of all members have.
template <class T>
struct HiddenActivationKernels {
  int64_t (*scratch)(const HiddenActivation<T>&);
  void (*rows)(const HiddenActivation<T>&, int64_t member, int64_t begin, int64_t end, T* scratch);
  // The result is the gradient of x; sums (3, width) are those of bias, norm_weight and norm_bias over these rows.
  void (*backward_rows)(const HiddenActivation<T>&, int64_t member, int64_t begin, int64_t end, T* sums, T* scratch);
};

}  // namespace nfkern

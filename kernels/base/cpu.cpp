// The base density on tensors: see `reference.py`.
#include <ATen/ATen.h>

#include "../dispatch/bindings.h"
#include "../dispatch/runtime.h"
#include "../dispatch/tensors.h"

namespace nfkern {
namespace {

using at::Tensor;

constexpr double kLogTwoPi = 1.8378770664093453;
// Rows that are worth a thread of their own.
constexpr int64_t kRows = 1024;

template <class T>
Tensor log_prob_of(const Tensor& z) {
  const int64_t features = z.size(-1);
  Pointers<T> tensors;
  const T* from = tensors.pointer("z", z, z.sizes());
  Tensor result = recycled(z.sizes().slice(0, z.dim() - 1), z.options());
  T* to = result.data_ptr<T>();
  const T constant = static_cast<T>(static_cast<double>(features) * kLogTwoPi);
  const pybind11::gil_scoped_release unlocked;
  over_rows(result.numel(), kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T square = 0;
      for (int64_t i = 0; i < features; ++i) square += from[row * features + i] * from[row * features + i];
      to[row] = static_cast<T>(-0.5) * (square + constant);
    }
  });
  return result;
}

template <class T>
Tensor backward_of(const Tensor& grad, const Tensor& z) {
  const int64_t features = z.size(-1);
  Pointers<T> tensors;
  const T* from = tensors.pointer("z", z, z.sizes());
  const T* grads = tensors.pointer("grad", grad, z.sizes().slice(0, z.dim() - 1));
  Tensor result = recycled(z.sizes(), z.options());
  T* to = result.data_ptr<T>();
  const pybind11::gil_scoped_release unlocked;
  over_rows(grad.numel(), kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < features; ++i) to[row * features + i] = -grads[row] * from[row * features + i];
  });
  return result;
}

Tensor log_prob(const Tensor& z) {
  return z.scalar_type() == at::kDouble ? log_prob_of<double>(z) : log_prob_of<float>(z);
}

Tensor backward(const Tensor& grad, const Tensor& z) {
  return z.scalar_type() == at::kDouble ? backward_of<double>(grad, z) : backward_of<float>(grad, z);
}

}  // namespace

NFKERN_BINDINGS {
  module.def("standard_normal_log_prob", log_prob);
  module.def("standard_normal_log_prob_backward", backward);
}

}  // namespace nfkern

// A product of rows with a weight, on tensors.
#include <ATen/ATen.h>

#include "../dispatch/bindings.h"
#include "../dispatch/runtime.h"
#include "../dispatch/tensors.h"

namespace nfkern {
namespace {

using at::Tensor;

template <class T>
Tensor linear_of(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const int64_t rows = x.size(0), depth = x.size(1), outputs = weight.size(0);
  Pointers<T> tensors;
  Linear<T> p{outputs,
              depth,
              tensors.pointer("x", x, {rows, depth}),
              tensors.pointer("weight", weight, {outputs, depth}),
              tensors.pointer("bias", bias, {outputs}),
              nullptr};
  Tensor result = recycled({rows, outputs}, x.options());
  p.result = result.template data_ptr<T>();
  const pybind11::gil_scoped_release unlocked;
  const InstructionSet& set = instruction_set();
  const LinearKernels<T>& k = kernels<T>(set).linear;
  const int64_t size = k.scratch(p);
  over_rows(rows, set.vector_bytes / static_cast<int64_t>(sizeof(T)),
            [&](int64_t begin, int64_t end) { k.rows(p, begin, end, memory<T>(Scratch::kRows, size)); });
  return result;
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const auto run = x.scalar_type() == at::kDouble ? linear_of<double> : linear_of<float>;
  return run(x, weight, bias);
}

}  // namespace

NFKERN_BINDINGS { module.def("linear", linear); }

}  // namespace nfkern

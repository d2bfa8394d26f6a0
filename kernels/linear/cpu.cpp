// A product of rows with a weight, on tensors.
#include <ATen/ATen.h>

#include "../native/bindings.h"
#include "../native/runtime.h"
#include "../native/tensors.h"

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
  const Kernels<T>& k = kernels<T>(set);
  const int64_t size = k.linear_scratch(p);
  over_rows(rows, set.vector_bytes / static_cast<int64_t>(sizeof(T)),
            [&](int64_t begin, int64_t end) { k.linear_rows(p, begin, end, memory<T>(Scratch::kRows, size)); });
  return result;
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const auto run = x.scalar_type() == at::kDouble ? linear_of<double> : linear_of<float>;
  return run(x, weight, bias);
}

}  // namespace

void bind_linear(pybind11::module_& module) { module.def("linear", linear); }

}  // namespace nfkern

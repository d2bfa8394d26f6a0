// A hidden layer's activation on tensors. Arguments are those of the ops (see `op.py`).
#include <ATen/ATen.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>

#include "../dispatch/bindings.h"
#include "../dispatch/runtime.h"
#include "../dispatch/tensors.h"

namespace nfkern {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// A part's sums over its rows are one number a column. Parts follow from the rows alone: threads change no sum.
constexpr int64_t kSmallestPart = 32, kMostParts = 64;

// T is what is computed in: float for rows in bfloat16, too.
template <class T>
struct Call : Pointers<T> {
  HiddenActivation<T> p{};
  at::ScalarType dtype;
  int64_t members = 1, part_rows, parts;
  at::DimVector parameter_sizes;

  Call(const Tensor& x, const Tensor& bias, const MaybeTensor& norm_weight, const MaybeTensor& norm_bias,
       double norm_eps, const std::string& activation, bool norm_first)
      : dtype(x.scalar_type()) {
    TORCH_CHECK_VALUE(x.dim() >= 2, "x: expected shape (..., rows, width), got ", x.sizes());
    TORCH_CHECK_VALUE(norm_weight.has_value() == norm_bias.has_value(), "norm_bias: expected it with norm_weight alone");
    TORCH_CHECK_VALUE(activation == "silu" || activation == "gelu", "activation: expected silu or gelu, got ",
                      activation);
    p.rows = x.size(-2), p.width = x.size(-1);
    for (const int64_t size : x.sizes().slice(0, x.dim() - 2)) parameter_sizes.push_back(size), members *= size;
    parameter_sizes.push_back(p.width);
    p.activation = activation == "silu" ? Activation::kSilu : Activation::kGelu;
    p.norm = !norm_weight ? Norm::kNone : norm_first ? Norm::kFirst : Norm::kLast;
    p.eps = checked_norm_eps<T>(norm_eps);
    rows("x", x, x, p.x, p.x_bf16);
    p.bias = parameter("bias", bias);
    if (norm_weight) p.norm_weight = parameter("norm_weight", *norm_weight);
    if (norm_bias) p.norm_bias = parameter("norm_bias", *norm_bias);
    part_rows = std::max(kSmallestPart, (p.rows + kMostParts - 1) / kMostParts);
    parts = (p.rows + part_rows - 1) / part_rows;
  }

  void rows(const char* name, const Tensor& tensor, const Tensor& x, const T*& wide, const uint16_t*& bf16) {
    TORCH_CHECK_TYPE(tensor.defined() && tensor.scalar_type() == dtype, name, ": expected ", dtype, " as x");
    bf16 = this->bf16_pointer(name, tensor, x.sizes());
    if (!bf16) wide = this->pointer(name, tensor, x.sizes());
  }

  const T* parameter(const char* name, const Tensor& tensor) {
    const bool widens = dtype == at::kBFloat16 && tensor.defined() && tensor.scalar_type() == dtype;
    return this->pointer(name, widens ? tensor.to(at::kFloat) : tensor, parameter_sizes);
  }

  // The tensor that the kernels write rows to.
  Tensor result_like(const Tensor& x) {
    Tensor made = recycled(x.sizes(), x.options());
    if (dtype == at::kBFloat16) {
      p.result_bf16 = static_cast<uint16_t*>(made.data_ptr());
    } else {
      p.result = made.data_ptr<T>();
    }
    return made;
  }

  // Calls run(kernels, member, part, begin, end, scratch) for every part of every member.
  template <class Run>
  void over_members(Run run) {
    const auto& k = kernels<T>().hidden_activation;
    const int64_t size = k.scratch(p);
    const pybind11::gil_scoped_release unlocked;
    over_parts(members * parts, [&](int64_t i) {
      const int64_t member = i / parts, first = member * p.rows, part = i % parts;
      run(k, member, i, first + part * part_rows, first + std::min(p.rows, (part + 1) * part_rows),
          memory<T>(Scratch::kRows, size));
    });
  }
};

template <class T>
Tensor forward_of(const Tensor& x, const Tensor& bias, const MaybeTensor& norm_weight, const MaybeTensor& norm_bias,
                  double norm_eps, const std::string& activation, bool norm_first) {
  Call<T> call(x, bias, norm_weight, norm_bias, norm_eps, activation, norm_first);
  Tensor result = call.result_like(x);
  call.over_members([&](const auto& k, int64_t member, int64_t, int64_t begin, int64_t end, T* scratch) {
    k.rows(call.p, member, begin, end, scratch);
  });
  return result;
}

template <class T>
Gradients backward_of(const Tensor& grad, const Tensor& x, const Tensor& bias, const MaybeTensor& norm_weight,
                      const MaybeTensor& norm_bias, double norm_eps, const std::string& activation, bool norm_first) {
  Call<T> call(x, bias, norm_weight, norm_bias, norm_eps, activation, norm_first);
  call.rows("grad", grad, x, call.p.grad, call.p.grad_bf16);
  Tensor grad_x = call.result_like(x);
  const int64_t width = call.p.width, size = 3 * width;
  const at::TensorOptions options(c10::CppTypeToScalarType<T>::value);
  const Tensor sums = recycled({call.members, call.parts, size}, options);
  T* to = sums.data_ptr<T>();
  call.over_members([&](const auto& k, int64_t member, int64_t part, int64_t begin, int64_t end, T* scratch) {
    k.backward_rows(call.p, member, begin, end, to + part * size, scratch);
  });
  // Part after part, whatever the threads.
  const auto of = [&](int64_t index, const MaybeTensor& parameter) {
    at::DimVector sizes = call.parameter_sizes;
    if (!parameter) sizes.back() = 0;
    const Tensor total = at::empty(sizes, options);
    T* column = total.data_ptr<T>();
    for (int64_t member = 0; parameter && member < call.members; ++member, column += width) {
      const T* from = to + member * call.parts * size + index * width;
      std::copy_n(from, width, column);
      for (int64_t part = 1; part < call.parts; ++part)
        for (int64_t j = 0; j < width; ++j) column[j] += from[part * size + j];
    }
    const at::ScalarType wanted = parameter ? parameter->scalar_type() : call.dtype;
    return wanted == total.scalar_type() ? total : total.to(wanted);
  };
  return {grad_x, of(0, bias), of(1, norm_weight), of(2, norm_bias)};
}

Tensor forward(const Tensor& x, const Tensor& bias, const MaybeTensor& norm_weight, const MaybeTensor& norm_bias,
               double norm_eps, const std::string& activation, bool norm_first) {
  const auto run = x.scalar_type() == at::kDouble ? forward_of<double> : forward_of<float>;
  return run(x, bias, norm_weight, norm_bias, norm_eps, activation, norm_first);
}

Gradients backward(const Tensor& grad, const Tensor& x, const Tensor& bias, const MaybeTensor& norm_weight,
                   const MaybeTensor& norm_bias, double norm_eps, const std::string& activation, bool norm_first) {
  const auto run = x.scalar_type() == at::kDouble ? backward_of<double> : backward_of<float>;
  return run(grad, x, bias, norm_weight, norm_bias, norm_eps, activation, norm_first);
}

}  // namespace

NFKERN_BINDINGS {
  module.def("hidden_activation", forward);
  module.def("hidden_activation_backward", backward);
}

}  // namespace nfkern

// Causal affine coupling on tensors. Arguments are those of the ops (see `op.py`).
#include <ATen/ATen.h>
#include <pybind11/stl.h>

#include "../dispatch/bindings.h"
#include "../dispatch/runtime.h"
#include "../dispatch/tensors.h"

namespace nfkern {
namespace {

using at::Tensor;

template <class T>
struct Affine : Pointers<T> {
  CausalAffine<T> p{};
  int64_t rows;

  Affine(const Tensor& x, const Tensor& pairs, bool flipped, std::optional<double> scale_bound) : rows(x.size(0)) {
    p.tokens = x.size(1), p.features = x.size(2), p.given = pairs.size(1), p.flipped = flipped;
    TORCH_CHECK_VALUE(p.given == p.tokens || p.given == p.tokens - 1, "pairs: expected ", p.tokens,
                      " or one less per row, got ", p.given);
    p.scale_bound = checked_scale_bound<T>(scale_bound);
    p.x = this->pointer("x", x, {rows, p.tokens, p.features});
    p.pairs = this->pointer("pairs", pairs, {rows, p.given, 2, p.features});
  }

  void run(void (*kernel)(const CausalAffine<T>&, int64_t, int64_t)) {
    const pybind11::gil_scoped_release unlocked;
    over_rows(rows, 64, [&](int64_t begin, int64_t end) { kernel(p, begin, end); });
  }
};

template <class T>
std::tuple<Tensor, Tensor> forward_of(const Tensor& x, const Tensor& pairs, const Tensor& log_det, bool flipped,
                                      std::optional<double> scale_bound) {
  Affine<T> affine(x, pairs, flipped, scale_bound);
  affine.p.log_det = affine.pointer("log_det", log_det, {affine.rows});
  Tensor z = at::empty(x.sizes(), x.options()), total = at::empty(log_det.sizes(), x.options());
  affine.p.z = z.template data_ptr<T>(), affine.p.total = total.template data_ptr<T>();
  affine.run(kernels<T>().causal_affine.rows);
  return {z, total};
}

template <class T>
std::tuple<Tensor, Tensor> backward_of(const Tensor& grad, const Tensor& grad_log_det, const Tensor& x,
                                       const Tensor& pairs, bool flipped, std::optional<double> scale_bound) {
  Affine<T> affine(x, pairs, flipped, scale_bound);
  affine.p.grad = affine.pointer("grad", grad, x.sizes());
  affine.p.grad_total = affine.pointer("grad_log_det", grad_log_det, {affine.rows});
  Tensor grad_x = at::empty(x.sizes(), x.options()), grad_pairs = at::empty(pairs.sizes(), x.options());
  affine.p.grad_x = grad_x.template data_ptr<T>(), affine.p.grad_pairs = grad_pairs.template data_ptr<T>();
  affine.run(kernels<T>().causal_affine.backward_rows);
  return {grad_x, grad_pairs};
}

std::tuple<Tensor, Tensor> forward(const Tensor& x, const Tensor& pairs, const Tensor& log_det, bool flipped,
                                   std::optional<double> scale_bound) {
  const auto run = x.scalar_type() == at::kDouble ? forward_of<double> : forward_of<float>;
  return run(x, pairs, log_det, flipped, scale_bound);
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& grad_log_det, const Tensor& x,
                                    const Tensor& pairs, bool flipped, std::optional<double> scale_bound) {
  const auto run = x.scalar_type() == at::kDouble ? backward_of<double> : backward_of<float>;
  return run(grad, grad_log_det, x, pairs, flipped, scale_bound);
}

}  // namespace

NFKERN_BINDINGS {
  module.def("causal_affine", forward);
  module.def("causal_affine_backward", backward);
}

}  // namespace nfkern

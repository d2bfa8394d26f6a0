// The coupling flow's kernels as functions on tensors. Arguments are those of the ops (see `op.py`), which has checked
// shapes, dtypes and devices; `cpu_registration.py` has sent elsewhere what is not supported.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <pybind11/stl.h>

#include <optional>

#include "../native/runtime.h"
#include "cpu_binding.h"

namespace nfkern {
namespace {

using at::Tensor;
using Parameters = std::vector<std::optional<Tensor>>;

// Tensors that a problem points into, contiguous.
template <class T>
class Problem {
 public:
  Coupling<T> sizes{};

  Problem(const Tensor& x, const Tensor& context_term, const Tensor& mixing, const Parameters& parameters,
          double norm_eps, std::optional<double> scale_bound) {
    Coupling<T>& p = sizes;
    const Tensor& hidden = *parameters[3];
    p.rows = x.size(0), p.features = x.size(1), p.groups = context_term.size(0), p.blocks = mixing.size(0);
    p.width1 = hidden.size(3), p.width2 = hidden.size(2);
    p.context_term = pointer(context_term), p.mixing = pointer(mixing);
    p.input_weight = pointer(parameters[0]);
    p.norm1_weight = pointer(parameters[1]), p.norm1_bias = pointer(parameters[2]);
    if (hidden.scalar_type() == at::kBFloat16) {
      p.hidden_bf16 = reinterpret_cast<const uint16_t*>(keep(hidden).template const_data_ptr<at::BFloat16>());
    } else {
      p.hidden_weight = pointer(hidden);
    }
    p.hidden_bias = pointer(parameters[4]);
    p.norm2_weight = pointer(parameters[5]), p.norm2_bias = pointer(parameters[6]);
    p.output_weight = pointer(parameters[7]), p.output_bias = pointer(parameters[8]);
    p.norm_eps = static_cast<T>(norm_eps), p.scale_bound = static_cast<T>(scale_bound.value_or(0));
  }

  const T* pointer(const std::optional<Tensor>& tensor) {
    return tensor ? keep(*tensor).template const_data_ptr<T>() : nullptr;
  }

 private:
  const Tensor& keep(const Tensor& tensor) { return kept_.emplace_back(tensor.contiguous()); }

  std::vector<Tensor> kept_;
};

template <class T>
T* memory(Scratch which, int64_t elements) {
  return static_cast<T*>(scratch(which, elements * static_cast<int64_t>(sizeof(T))));
}

template <class T>
void run(Map map, Problem<T>& problem, const Tensor& x, const MapResults<T>& results) {
  const Coupling<T>& p = problem.sizes;
  const T* from = problem.pointer(x);
  const pybind11::gil_scoped_release unlocked;
  const Kernels<T>& k = kernels<T>();
  const int64_t size = k.map_scratch(p);
  over_rows(p.rows, instruction_set().vector_bytes / static_cast<int64_t>(sizeof(T)), [&](int64_t begin, int64_t end) {
    k.map_rows(map, p, from, results, begin, end, memory<T>(Scratch::kRows, size));
  });
}

template <class T>
std::tuple<Tensor, Tensor, Tensor> run_map(Map map, const Tensor& x, const Tensor& context_term, const Tensor& mixing,
                                           const Tensor& mixing_log_det, const Parameters& parameters, double norm_eps,
                                           std::optional<double> scale_bound) {
  Problem<T> problem(x, context_term, mixing, parameters, norm_eps, scale_bound);
  const Coupling<T>& p = problem.sizes;
  Tensor result = at::empty({p.rows, p.features}, x.options()), log_det = at::empty({p.rows}, x.options());
  Tensor inputs = at::empty({p.blocks, p.rows, p.features}, x.options());
  const MapResults<T> results{result.data_ptr<T>(), log_det.data_ptr<T>(), inputs.data_ptr<T>(), nullptr,
                              mixing_log_det.item<T>(), nullptr};
  run(map, problem, x, results);
  return {result, log_det, inputs};
}

std::tuple<Tensor, Tensor, Tensor> map(bool to_data, const Tensor& x, const Tensor& context_term, const Tensor& mixing,
                                       const Tensor& mixing_log_det, const Parameters& parameters, double norm_eps,
                                       std::optional<double> scale_bound) {
  const Map which = to_data ? Map::kToData : Map::kToLatent;
  const auto run = x.scalar_type() == at::kDouble ? run_map<double> : run_map<float>;
  return run(which, x, context_term, mixing, mixing_log_det, parameters, norm_eps, scale_bound);
}

template <class T>
std::tuple<Tensor, Tensor, Tensor> run_score(const Tensor& z, const Tensor& context_term, const Tensor& mixing,
                                             const Tensor& inverse_mixing, const Tensor& inverse_log_det,
                                             const Parameters& parameters, double norm_eps,
                                             std::optional<double> scale_bound) {
  Problem<T> problem(z, context_term, inverse_mixing, parameters, norm_eps, scale_bound);
  Tensor result = at::empty(z.sizes(), z.options()), log_det = at::empty({z.size(0)}, z.options());
  Tensor score = at::empty(z.sizes(), z.options());
  const MapResults<T> results{result.data_ptr<T>(),       log_det.data_ptr<T>(), nullptr, score.data_ptr<T>(),
                              inverse_log_det.item<T>(), problem.pointer(mixing)};
  run(Map::kScore, problem, z, results);
  return {result, log_det, score};
}

std::tuple<Tensor, Tensor, Tensor> score(const Tensor& z, const Tensor& context_term, const Tensor& mixing,
                                         const Tensor& inverse_mixing, const Tensor& inverse_log_det,
                                         const Parameters& parameters, double norm_eps,
                                         std::optional<double> scale_bound) {
  const auto run = z.scalar_type() == at::kDouble ? run_score<double> : run_score<float>;
  return run(z, context_term, mixing, inverse_mixing, inverse_log_det, parameters, norm_eps, scale_bound);
}

// Rows whose factors of the hidden weights' gradient are held at a time: they should stay in the last cache.
constexpr int64_t kChunkRows = 256;

template <class T>
void run_derivative(const Coupling<T>& p, const Derivative<T>& d) {
  const pybind11::gil_scoped_release unlocked;
  const Kernels<T>& k = kernels<T>();
  const int64_t panel = 2 * instruction_set().vector_bytes / static_cast<int64_t>(sizeof(T));
  const bool parameter_grads = d.context_term != nullptr;
  const int64_t most = std::max(kChunkRows, panel * at::get_num_threads());
  const int64_t size = k.panel_scratch(p);
  for (int64_t row = 0; row < p.rows; row += most) {
    const int64_t count = std::min(most, p.rows - row), panels = (count + panel - 1) / panel;
    const ChunkRows<T> rows{row, count, memory<T>(Scratch::kChunk, k.chunk_size(p, count, parameter_grads))};
    const auto step = [&](ChunkStep which, int64_t block, int64_t index) {
      k.derive(which, p, d, rows, block, index, memory<T>(Scratch::kRows, size));
    };
    const auto block_of = [&](int64_t i) { return d.to_data ? i : p.blocks - 1 - i; };
    if (!parameter_grads) {
      // Nothing is shared between panels: each goes its way through all blocks.
      over_parts(panels, [&](int64_t i) {
        step(ChunkStep::kLoad, 0, i);
        for (int64_t k = 0; k < p.blocks; ++k) step(ChunkStep::kPanel, block_of(k), i);
        step(ChunkStep::kStore, 0, i);
      });
      continue;
    }
    over_parts(panels, [&](int64_t i) { step(ChunkStep::kLoad, 0, i); });
    for (int64_t k = 0; k < p.blocks; ++k) {
      over_parts(panels, [&](int64_t i) { step(ChunkStep::kPanel, block_of(k), i); });
      over_parts(kReduceParts, [&](int64_t i) { step(ChunkStep::kReduce, block_of(k), i); });
    }
    over_parts(panels, [&](int64_t i) { step(ChunkStep::kStore, 0, i); });
  }
}

template <class T>
std::vector<Tensor> backward_of(bool to_data, const Tensor& grad, const Tensor& grad_log_det, const Tensor& inputs,
                                const Tensor& context_term, const Tensor& mixing, const Parameters& parameters,
                                double norm_eps, std::optional<double> scale_bound, bool parameter_grads) {
  Problem<T> problem(grad, context_term, mixing, parameters, norm_eps, scale_bound);
  const Coupling<T>& p = problem.sizes;
  const bool whole = parameters[1].has_value();
  std::vector<Tensor> results{at::empty(grad.sizes(), grad.options())};
  const auto result = [&](bool wanted, const Tensor& like, bool zeros = false) {
    results.push_back(!wanted ? at::empty({0}, grad.options())
                      : zeros ? at::zeros(like.sizes(), grad.options())
                              : at::empty(like.sizes(), grad.options()));
    return wanted ? results.back().template data_ptr<T>() : nullptr;
  };
  Derivative<T> d{};
  d.to_data = to_data;
  d.inputs = problem.pointer(inputs), d.grad = problem.pointer(grad), d.grad_log_det = problem.pointer(grad_log_det);
  d.x = results[0].template data_ptr<T>();
  d.context_term = result(parameter_grads, context_term, p.groups != p.rows);
  d.mixing = result(parameter_grads, mixing);
  T** const destinations[] = {&d.input_weight, &d.norm1_weight, &d.norm1_bias,    &d.hidden_weight, &d.hidden_bias,
                              &d.norm2_weight, &d.norm2_bias,   &d.output_weight, &d.output_bias};
  for (size_t i = 0; i < parameters.size(); ++i)
    *destinations[i] = result(parameter_grads && whole, whole ? *parameters[i] : grad);
  run_derivative(p, d);
  return results;
}

std::vector<Tensor> backward(bool to_data, const Tensor& grad, const Tensor& grad_log_det, const Tensor& inputs,
                             const Tensor& context_term, const Tensor& mixing, const Parameters& parameters,
                             double norm_eps, std::optional<double> scale_bound, bool parameter_grads) {
  const auto run = grad.scalar_type() == at::kDouble ? backward_of<double> : backward_of<float>;
  return run(to_data, grad, grad_log_det, inputs, context_term, mixing, parameters, norm_eps, scale_bound,
             parameter_grads);
}

}  // namespace

void bind_coupling(pybind11::module_& module) {
  module.def("coupling_map", map);
  module.def("coupling_to_data_with_score", score);
  module.def("coupling_backward", backward);
}

}  // namespace nfkern

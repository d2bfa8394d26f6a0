// The coupling flow's kernels as functions on tensors. Arguments are those of the ops (see `op.py`);
// `backends.py` has sent elsewhere what is not supported.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <pybind11/stl.h>

#include "../dispatch/bindings.h"
#include "cpu_problem.h"

namespace nfkern {
namespace {

using at::Tensor;

using Mapped = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <class T, class Kept>
std::vector<int64_t> kept_shape(const Coupling<T>& p, const Kept& hidden) {
  return {p.blocks, 2, hidden.panels(), p.width1 + p.width2, hidden.lanes()};
}

template <class T>
Mapped map_of(Map map, const Tensor& x, const Tensor& context_term, const Tensor& mixing, const Tensor& mixing_log_det,
              const Parameters& parameters, double norm_eps, std::optional<double> scale_bound, bool keep_hidden) {
  Problem<T> problem(x.size(0), x.size(1), mixing, parameters, norm_eps, scale_bound);
  problem.set_context_term(context_term);
  const Coupling<T>& p = problem.sizes;
  const T* from = problem.events("x", x);
  Tensor result = recycled({p.rows, p.features}, x.options()), log_det = recycled({p.rows}, x.options());
  Tensor inputs = recycled({p.blocks, p.rows, p.features}, x.options());
  MapResults<T> results{};
  results.hidden = {nullptr, p.rows, p.width1, p.width2};
  Tensor hidden = keep_hidden ? recycled(kept_shape(p, results.hidden), x.options()) : at::empty({0}, x.options());
  results.result = result.data_ptr<T>(), results.log_det = log_det.data_ptr<T>();
  results.inputs = inputs.data_ptr<T>(), results.hidden.memory = keep_hidden ? hidden.data_ptr<T>() : nullptr;
  results.mixing_log_det = *problem.pointer("mixing_log_det", mixing_log_det, {});
  run_map<T>(map, p, nullptr, from, results);
  return {result, log_det, inputs, hidden};
}

Mapped map(bool to_data, const Tensor& x, const Tensor& context_term, const Tensor& mixing,
           const Tensor& mixing_log_det, const Parameters& parameters, double norm_eps,
           std::optional<double> scale_bound, bool keep_hidden) {
  const Map which = to_data ? Map::kToData : Map::kToLatent;
  const auto run = x.scalar_type() == at::kDouble ? map_of<double> : map_of<float>;
  return run(which, x, context_term, mixing, mixing_log_det, parameters, norm_eps, scale_bound, keep_hidden);
}

template <class T>
std::tuple<Tensor, Tensor, Tensor> score_of(const Tensor& z, const Tensor& context_term, const Tensor& mixing,
                                            const Tensor& inverse_mixing, const Tensor& inverse_log_det,
                                            const Parameters& parameters, double norm_eps,
                                            std::optional<double> scale_bound) {
  Problem<T> problem(z.size(0), z.size(1), inverse_mixing, parameters, norm_eps, scale_bound);
  problem.set_context_term(context_term);
  const T* from = problem.events("z", z);
  Tensor result = recycled(z.sizes(), z.options()), log_det = recycled({z.size(0)}, z.options());
  Tensor score = recycled(z.sizes(), z.options());
  MapResults<T> results{};
  results.result = result.data_ptr<T>(), results.log_det = log_det.data_ptr<T>(), results.score = score.data_ptr<T>();
  results.mixing_log_det = *problem.pointer("inverse_log_det", inverse_log_det, {});
  results.density_mixing = problem.pointer("mixing", mixing, inverse_mixing.sizes());
  run_map<T>(Map::kScore, problem.sizes, nullptr, from, results);
  return {result, log_det, score};
}

std::tuple<Tensor, Tensor, Tensor> score(const Tensor& z, const Tensor& context_term, const Tensor& mixing,
                                         const Tensor& inverse_mixing, const Tensor& inverse_log_det,
                                         const Parameters& parameters, double norm_eps,
                                         std::optional<double> scale_bound) {
  const auto run = z.scalar_type() == at::kDouble ? score_of<double> : score_of<float>;
  return run(z, context_term, mixing, inverse_mixing, inverse_log_det, parameters, norm_eps, scale_bound);
}

// Rows whose factors of the hidden weights' gradient are held at a time: they should stay in the last cache.
constexpr int64_t kChunkRows = 256;

template <class T>
void run_derivative(const Coupling<T>& p, const Derivative<T>& d) {
  const pybind11::gil_scoped_release unlocked;
  // Asked for once: another thread may choose another one meanwhile.
  const InstructionSet& set = instruction_set();
  const CouplingKernels<T>& k = kernels<T>(set).coupling;
  const int64_t panel = 2 * set.vector_bytes / static_cast<int64_t>(sizeof(T));
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
                                double norm_eps, std::optional<double> scale_bound, bool parameter_grads,
                                const std::optional<Tensor>& hidden) {
  Problem<T> problem(grad.size(0), grad.size(1), mixing, parameters, norm_eps, scale_bound);
  problem.set_context_term(context_term);
  const Coupling<T>& p = problem.sizes;
  const bool whole = parameters[1].has_value();
  Derivative<T> d{};
  d.to_data = to_data;
  d.inputs = problem.pointer("inputs", inputs, {p.blocks, p.rows, p.features});
  d.grad = problem.events("grad", grad), d.grad_log_det = problem.pointer("grad_log_det", grad_log_det, {p.rows});
  d.hidden = {nullptr, p.rows, p.width1, p.width2};
  d.hidden.memory = problem.pointer("hidden", hidden, kept_shape(p, d.hidden));
  std::vector<Tensor> results{recycled(grad.sizes(), grad.options())};
  const auto result = [&](bool wanted, const Tensor& like, bool zeros = false) {
    results.push_back(!wanted ? at::empty({0}, grad.options())
                      : zeros ? at::zeros(like.sizes(), grad.options())
                              : recycled(like.sizes(), grad.options()));
    return wanted ? results.back().template data_ptr<T>() : nullptr;
  };
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
                             double norm_eps, std::optional<double> scale_bound, bool parameter_grads,
                             const std::optional<Tensor>& hidden) {
  const auto run = grad.scalar_type() == at::kDouble ? backward_of<double> : backward_of<float>;
  return run(to_data, grad, grad_log_det, inputs, context_term, mixing, parameters, norm_eps, scale_bound,
             parameter_grads, hidden);
}

}  // namespace

NFKERN_BINDINGS {
  module.def("coupling_map", map);
  module.def("coupling_to_data_with_score", score);
  module.def("coupling_backward", backward);
}

}  // namespace nfkern

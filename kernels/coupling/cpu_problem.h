// From tensors to what the kernels are called with.
#pragma once

#include "../dispatch/runtime.h"
#include "../dispatch/tensors.h"
#include "cpu.h"

namespace nfkern {

// In the order of `CouplingParameters`.
using Parameters = std::vector<std::optional<at::Tensor>>;
constexpr const char* kParameterNames[] = {"input_weight", "norm1_weight", "norm1_bias",    "hidden_weight", "hidden_bias",
                                           "norm2_weight", "norm2_bias",   "output_weight", "output_bias"};

// Tensors that a problem points into, contiguous.
template <class T>
class Problem : public Pointers<T> {
 public:
  using Pointers<T>::pointer;
  Coupling<T> sizes{};

  // With `hidden_scale` the hidden weights are in int8.
  Problem(int64_t rows, int64_t features, const at::Tensor& mixing, const Parameters& parameters, double norm_eps,
          std::optional<double> scale_bound, const std::optional<at::Tensor>& hidden_scale = {}) {
    Coupling<T>& p = sizes;
    TORCH_CHECK_VALUE(rows > 0, "x: expected rows, got none");
    check_given(parameters);
    const at::Tensor& hidden = *parameters[3];
    TORCH_CHECK_VALUE(hidden.dim() == 4 && hidden.numel(), "hidden_weight: expected (blocks, 2, h2, h1), got ",
                      hidden.sizes());
    p.rows = rows, p.features = features, p.groups = rows, p.blocks = hidden.size(0);
    p.width1 = hidden.size(3), p.width2 = hidden.size(2);
    const int64_t blocks = p.blocks, width1 = p.width1, width2 = p.width2;
    const auto at = [&](size_t which, at::IntArrayRef shape) {
      return pointer(kParameterNames[which], parameters[which], shape);
    };
    const int64_t hidden_shape[] = {blocks, 2, width2, width1};
    p.mixing = pointer("mixing", mixing, {blocks, features, features});
    p.input_weight = at(0, {blocks, 2, width1, p.kept()});
    p.norm1_weight = at(1, {blocks, 2, width1}), p.norm1_bias = at(2, {blocks, 2, width1});
    p.hidden_lowered = this->lowered(kParameterNames[3], hidden, "hidden_scale", hidden_scale, hidden_shape);
    if (!p.hidden_lowered) p.hidden_weight = at(3, hidden_shape);
    p.hidden_bias = at(4, {blocks, 2, width2});
    p.norm2_weight = at(5, {blocks, 2, width2}), p.norm2_bias = at(6, {blocks, 2, width2});
    p.output_weight = at(7, {blocks, 2, p.transformed(), width2});
    p.output_bias = at(8, {blocks, 2, p.transformed()});
    p.norm_eps = checked_norm_eps<T>(norm_eps), p.scale_bound = checked_scale_bound<T>(scale_bound);
  }

  // (groups, blocks, 2, h1) with groups dividing the rows.
  void set_context_term(const at::Tensor& term) {
    TORCH_CHECK_VALUE(term.dim() == 4 && term.size(0) > 0 && sizes.rows % term.size(0) == 0,
                      "context_term: expected groups that divide ", sizes.rows, " rows, got ", term.sizes());
    sizes.groups = term.size(0);
    sizes.context_term = pointer("context_term", term, {sizes.groups, sizes.blocks, 2, sizes.width1});
  }

  const T* events(const char* name, const at::Tensor& tensor) {
    return pointer(name, tensor, {sizes.rows, sizes.features});
  }

 private:
  // All parameters but the norms', and of these all or none.
  static void check_given(const Parameters& parameters) {
    TORCH_CHECK_VALUE(parameters.size() == std::size(kParameterNames), "parameters: expected ",
                      std::size(kParameterNames), ", got ", parameters.size());
    for (const size_t which : {0u, 3u, 4u, 7u, 8u})
      TORCH_CHECK_TYPE(parameters[which], kParameterNames[which], ": expected a tensor, got None");
    for (const size_t which : {2u, 5u, 6u})
      TORCH_CHECK_VALUE(parameters[which].has_value() == parameters[1].has_value(),
                        "parameters: expected all four norm tensors or None for each");
  }
};

// All rows through a map, over torch's threads; the interpreter may run on meanwhile.
template <class T>
void run_map(Map map, const Coupling<T>& p, const Contexts<T>* contexts, const T* x, const MapResults<T>& results) {
  const pybind11::gil_scoped_release unlocked;
  const CouplingKernels<T>& k = kernels<T>().coupling;
  const int64_t size = k.scratch(p, contexts);
  // Whole panels of kept activations to each thread, else whole vectors of rows.
  const int64_t lanes = instruction_set().vector_bytes / static_cast<int64_t>(sizeof(T));
  over_rows(p.rows, results.hidden.memory ? results.hidden.lanes() : lanes, [&](int64_t begin, int64_t end) {
    k.rows(map, p, contexts, x, results, begin, end, memory<T>(Scratch::kRows, size));
  });
}

}  // namespace nfkern

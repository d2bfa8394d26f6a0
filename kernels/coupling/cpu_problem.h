// From tensors to what the kernels are called with.
#pragma once

#include "../native/runtime.h"
#include "cpu.h"
#include "cpu_shapes.h"

namespace nfkern {

// In the order of `CouplingParameters`.
using Parameters = std::vector<std::optional<at::Tensor>>;

// Tensors that a problem points into, contiguous.
template <class T>
class Problem : public Pointers<T> {
 public:
  using Pointers<T>::pointer;
  Coupling<T> sizes{};

  Problem(int64_t rows, int64_t features, const at::Tensor& mixing, const Parameters& parameters, double norm_eps,
          std::optional<double> scale_bound) {
    Coupling<T>& p = sizes;
    const at::Tensor& hidden = *parameters[3];
    p.rows = rows, p.features = features, p.groups = rows, p.blocks = mixing.size(0);
    check_parameters(parameters, p.blocks, p.features);
    check_shape("mixing", mixing, {p.blocks, p.features, p.features});
    p.width1 = hidden.size(3), p.width2 = hidden.size(2);
    p.mixing = pointer(mixing);
    p.input_weight = pointer(parameters[0]);
    p.norm1_weight = pointer(parameters[1]), p.norm1_bias = pointer(parameters[2]);
    p.hidden_bf16 = this->bf16_pointer(hidden);
    if (!p.hidden_bf16) p.hidden_weight = pointer(hidden);
    p.hidden_bias = pointer(parameters[4]);
    p.norm2_weight = pointer(parameters[5]), p.norm2_bias = pointer(parameters[6]);
    p.output_weight = pointer(parameters[7]), p.output_bias = pointer(parameters[8]);
    p.norm_eps = static_cast<T>(norm_eps), p.scale_bound = static_cast<T>(scale_bound.value_or(0));
  }

  void set_context_term(const at::Tensor& context_term) {
    check_context_term(context_term, sizes.rows, sizes.blocks, sizes.width1);
    sizes.groups = context_term.size(0);
    sizes.context_term = pointer(context_term);
  }
};

// All rows through a map, over torch's threads; the interpreter may run on meanwhile.
template <class T>
void run_map(Map map, const Coupling<T>& p, const Contexts<T>* contexts, const T* x, const MapResults<T>& results) {
  const pybind11::gil_scoped_release unlocked;
  const Kernels<T>& k = kernels<T>();
  const int64_t size = k.map_scratch(p, contexts);
  // Whole panels of kept activations to each thread, else whole vectors of rows.
  const int64_t lanes = instruction_set().vector_bytes / static_cast<int64_t>(sizeof(T));
  over_rows(p.rows, results.hidden.memory ? results.hidden.lanes() : lanes, [&](int64_t begin, int64_t end) {
    k.map_rows(map, p, contexts, x, results, begin, end, memory<T>(Scratch::kRows, size));
  });
}

}  // namespace nfkern

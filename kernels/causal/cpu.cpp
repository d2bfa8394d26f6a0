// The causal flow's kernels as functions on tensors. Arguments are those of the ops (see `op.py`);
// `backends.py` has sent elsewhere what is not supported.
#include "cpu.h"

#include <ATen/ATen.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>

#include "../dispatch/bindings.h"
#include "../dispatch/memory.h"
#include "../dispatch/runtime.h"
#include "../dispatch/tensors.h"

namespace nfkern {
namespace {

using at::Tensor;

// In the order of `CausalParameters`.
constexpr size_t kParameters = 16;
using Parameters = std::vector<Tensor>;

template <class T>
struct CausalProblem : Pointers<T> {
  Causal<T> sizes{};
  const T* x;

  CausalProblem(const Tensor& x, const Tensor& context_term, const Parameters& parameters, int64_t heads, bool prefix,
                double norm_eps, std::optional<double> scale_bound) {
    TORCH_CHECK_VALUE(parameters.size() == kParameters, "parameters: expected ", kParameters, ", got ",
                      parameters.size());
    Causal<T>& p = sizes;
    const Tensor &position = parameters[1], &up = parameters[10];
    TORCH_CHECK_VALUE(position.dim() == 3 && up.dim() == 4 && position.numel() && up.numel(),
                      "position, up_weight: expected 3 and 4 dimensions and no empty one, got ", position.sizes(),
                      " and ", up.sizes());
    p.rows = x.size(0), p.tokens = x.size(1), p.features = x.size(2);
    p.blocks = position.size(0), p.positions = position.size(1), p.width = position.size(2);
    p.layers = up.size(1), p.heads = heads, p.prefix = prefix;
    TORCH_CHECK_VALUE(p.length() > 0 && p.tokens <= p.positions, "x: expected ", prefix ? 1 : 2, " to ", p.positions,
                      " tokens, got ", p.tokens);
    TORCH_CHECK_VALUE(heads > 0 && p.width % heads == 0, "heads: expected a divisor of ", p.width, ", got ", heads);
    TORCH_CHECK_VALUE(context_term.dim() == 3 && context_term.size(0) > 0 && p.rows % context_term.size(0) == 0,
                      "context_term: expected groups that divide ", p.rows, " rows, got ", context_term.sizes());
    p.groups = context_term.size(0);
    this->x = whole("x", x, {p.rows, p.tokens, p.features});
    p.context_term = whole("context_term", context_term, {p.groups, p.blocks, p.width});
    const int64_t hidden = up.size(2);
    p.input_weight = whole("input_weight", parameters[0], {p.blocks, p.width, p.features});
    p.position = whole("position", position, {p.blocks, p.positions, p.width});
    p.attention_norm_weight = of_layers("attention_norm_weight", parameters[2], {p.width});
    p.attention_norm_bias = of_layers("attention_norm_bias", parameters[3], {p.width});
    p.qkv = product("qkv", parameters[4], parameters[5], 3 * p.width, p.width);
    p.projection = product("projection", parameters[6], parameters[7], p.width, p.width);
    p.mlp_norm_weight = of_layers("mlp_norm_weight", parameters[8], {p.width});
    p.mlp_norm_bias = of_layers("mlp_norm_bias", parameters[9], {p.width});
    p.up = product("up", up, parameters[11], hidden, p.width);
    p.down = product("down", parameters[12], parameters[13], p.width, hidden);
    const auto lowered = [](const LayerProduct<T>& each) { return each.bf16 != nullptr; };
    TORCH_CHECK_VALUE(lowered(p.qkv) == lowered(p.projection) && lowered(p.qkv) == lowered(p.up) &&
                          lowered(p.qkv) == lowered(p.down),
                      "parameters: expected the layers' weights all in bfloat16, for float32, or none");
    p.output_weight = whole("output_weight", parameters[14], {p.blocks, 2, p.features, p.width});
    p.output_bias = whole("output_bias", parameters[15], {p.blocks, 2, p.features});
    p.norm_eps = checked_norm_eps<T>(norm_eps), p.scale_bound = checked_scale_bound<T>(scale_bound);
  }

  void guide(const Tensor& unconditional_term, double guidance, bool annealed) {
    sizes.unconditional_term = whole("unconditional_term", unconditional_term, {1, sizes.blocks, sizes.width});
    sizes.guidance = static_cast<T>(guidance), sizes.annealed = annealed;
  }

 private:
  const T* whole(const char* name, const Tensor& tensor, std::vector<int64_t> shape) {
    return this->pointer(name, tensor, shape);
  }

  const T* of_layers(const char* name, const Tensor& tensor, std::vector<int64_t> shape) {
    shape.insert(shape.begin(), {sizes.blocks, sizes.layers});
    return whole(name, tensor, shape);
  }

  LayerProduct<T> product(const char* name, const Tensor& weight, const Tensor& bias, int64_t outputs, int64_t depth) {
    const uint16_t* bf16 = this->bf16_pointer(name, weight, {sizes.blocks, sizes.layers, outputs, depth});
    return {outputs, depth, bf16 ? nullptr : of_layers(name, weight, {outputs, depth}), bf16,
            of_layers(name, bias, {outputs})};
  }
};

// Threads that few rows go through the blocks on together. Each step of each layer ends with a wait for all, so that
// every member must have enough to read.
template <class T>
int64_t members_worth_it(const Causal<T>& p) {
  constexpr int64_t kBytesEach = int64_t{1} << 20;
  const int64_t weights = p.layers * p.width * (4 * p.width + 2 * p.up.outputs);
  const int64_t bytes = weights * static_cast<int64_t>(p.qkv.bf16 ? sizeof(uint16_t) : sizeof(T));
  return std::clamp<int64_t>(bytes / kBytesEach, 1, team_size());
}

using Mapped = std::tuple<Tensor, Tensor, Tensor, Tensor>;

template <class T>
Mapped map_of(bool to_data, const Tensor& x, const Tensor& context_term, const Parameters& parameters, int64_t heads,
              bool prefix, double norm_eps, std::optional<double> scale_bound,
              const std::optional<Tensor>& unconditional_term, double guidance, bool annealed, bool keep_hidden) {
  CausalProblem<T> problem(x, context_term, parameters, heads, prefix, norm_eps, scale_bound);
  TORCH_CHECK_VALUE(std::isfinite(guidance) && guidance >= 0 && (unconditional_term || guidance == 0),
                    "guidance: expected a finite number >= 0, and more than 0 with an unconditional_term alone, got ",
                    guidance);
  if (unconditional_term) problem.guide(*unconditional_term, guidance, annealed);
  const Causal<T>& p = problem.sizes;
  Tensor result = recycled(x.sizes(), x.options()), log_det = recycled({p.rows}, x.options());
  Tensor inputs = recycled({p.blocks, p.rows, p.tokens, p.features}, x.options());
  Tensor kept = keep_hidden ? recycled({p.blocks, p.layers, p.rows * p.length() * p.kept_width()}, x.options())
                            : at::empty({0}, x.options());
  const CausalResults<T> results{result.data_ptr<T>(), log_det.data_ptr<T>(), inputs.data_ptr<T>(),
                                 keep_hidden ? kept.data_ptr<T>() : nullptr};
  const T* from = problem.x;
  {
    const pybind11::gil_scoped_release unlocked;
    const InstructionSet& set = instruction_set();
    const CausalKernels<T>& k = kernels<T>(set).causal;
    const int64_t vector = set.vector_bytes / static_cast<int64_t>(sizeof(T));
    // Rows that fill a panel: one column of each, or all.
    const int64_t smallest = to_data ? vector : std::max<int64_t>(1, vector / p.length());
    const int64_t members = p.rows > smallest ? 1 : members_worth_it(p);
    const int64_t size = k.scratch(p, to_data, members);
    if (members > 1) {
      T* shared = memory<T>(Scratch::kRows, size);
      as_team(members, [&](const Team& team) { k.rows(to_data, p, from, results, 0, p.rows, shared, team); });
    } else {
      over_rows(p.rows, smallest, [&](int64_t begin, int64_t end) {
        k.rows(to_data, p, from, results, begin, end, memory<T>(Scratch::kRows, size), {});
      });
    }
  }
  return {result, log_det, inputs, kept};
}

Mapped map(bool to_data, const Tensor& x, const Tensor& context_term, const Parameters& parameters, int64_t heads,
           bool prefix, double norm_eps, std::optional<double> scale_bound,
           const std::optional<Tensor>& unconditional_term, double guidance, bool annealed, bool keep_hidden) {
  const auto run = x.scalar_type() == at::kDouble ? map_of<double> : map_of<float>;
  return run(to_data, x, context_term, parameters, heads, prefix, norm_eps, scale_bound, unconditional_term, guidance,
             annealed, keep_hidden);
}

}  // namespace

NFKERN_BINDINGS { module.def("causal_map", map); }

}  // namespace nfkern

// A flow whose tensors are gathered once: a call goes from its arguments to its results without a stop in Python, and
// without derivatives. In float32, hidden weights in bfloat16 if they are.
#include <ATen/EmptyTensor.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <variant>

#include "../dispatch/bindings.h"
#include "cpu_problem.h"

namespace nfkern {
namespace {

using at::Tensor;
using Array = pybind11::array_t<float, pybind11::array::c_style | pybind11::array::forcecast>;

struct Layer {
  std::array<std::string, 4> names;  // of the tensors, for messages
  Tensor weight, bias;
  std::optional<Tensor> norm_weight, norm_bias;
  double norm_eps;
};

using LayerTensors = std::tuple<std::string, Tensor, Tensor, std::optional<Tensor>, std::optional<Tensor>, double>;

// The Python objects that a flow was gathered from: each shows whether anything has been assigned since. The fewer,
// the better: after a pass over the weights none is in a cache.
struct Source {
  template <class... Items>
  using List = std::vector<std::tuple<Items...>>;

  pybind11::dict settings;                                               // the flow's own attributes
  List<pybind11::dict, pybind11::str, pybind11::object> items;          // dicts, keys and what they held
  List<pybind11::dict, pybind11::tuple> contents;                       // dicts, and all that they held
  List<pybind11::dict, Py_ssize_t> sizes;                               // dicts, and how much they held
  List<pybind11::object, pybind11::type> types;                         // objects, and their types
  List<Tensor, Tensor> copies;                                          // small tensors, and copies of their contents

  bool unchanged(pybind11::handle flow) const {
    const auto attributes = pybind11::reinterpret_steal<pybind11::dict>(PyObject_GenericGetDict(flow.ptr(), nullptr));
    PyObject *key = nullptr, *value = nullptr;
    Py_ssize_t at = 0;
    while (PyDict_Next(settings.ptr(), &at, &key, &value))
      if (PyDict_GetItemWithError(attributes.ptr(), key) != value) return false;
    for (const auto& [dict, name, held] : items)
      if (PyDict_GetItemWithError(dict.ptr(), name.ptr()) != held.ptr()) return false;
    for (const auto& [dict, values] : contents) {
      if (PyDict_GET_SIZE(dict.ptr()) != PyTuple_GET_SIZE(values.ptr())) return false;
      at = 0;
      for (Py_ssize_t i = 0; PyDict_Next(dict.ptr(), &at, nullptr, &value); ++i)
        if (value != PyTuple_GET_ITEM(values.ptr(), i)) return false;
    }
    for (const auto& [dict, size] : sizes)
      if (PyDict_GET_SIZE(dict.ptr()) != size) return false;
    for (const auto& [object, type] : types)
      if (reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) != type.ptr()) return false;
    for (const auto& [tensor, copy] : copies)
      if (!same(tensor, copy)) return false;
    return true;
  }

 private:
  // Bit by bit: version counters miss edits through `.data`.
  static bool same(const Tensor& a, const Tensor& b) {
    return a.is_cpu() && a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() && a.is_contiguous() &&
           !std::memcmp(a.const_data_ptr(), b.const_data_ptr(), b.nbytes());
  }
};

bool finite(const float* values, int64_t count) {
  bool found = true;
  for (int64_t i = 0; i < count; ++i) found &= std::abs(values[i]) <= std::numeric_limits<float>::max();
  return found;
}

class NativeFlow {
 public:
  NativeFlow(pybind11::dict settings, decltype(Source::items) items, decltype(Source::contents) contents,
             decltype(Source::sizes) sizes, decltype(Source::types) types, decltype(Source::copies) copies,
             Parameters parameters, std::optional<Tensor> context_weight, Tensor input_bias, Tensor mixing,
             Tensor mixing_log_det, Tensor inverse_mixing, Tensor inverse_log_det, double norm_eps,
             std::optional<double> scale_bound, const std::vector<LayerTensors>& encoder)
      : source_{std::move(settings), std::move(items), std::move(contents),
                std::move(sizes),    std::move(types), std::move(copies)},
        parameters_(std::move(parameters)),
        context_weight_(std::move(context_weight)),
        input_bias_(std::move(input_bias)),
        mixing_(std::move(mixing)),
        mixing_log_det_(std::move(mixing_log_det)),
        inverse_mixing_(std::move(inverse_mixing)),
        inverse_log_det_(std::move(inverse_log_det)),
        norm_eps_(norm_eps),
        scale_bound_(scale_bound) {
    for (const auto& [name, weight, bias, norm_weight, norm_bias, eps] : encoder)
      encoder_.push_back({{name + ".weight", name + ".bias", name + " (norm).weight", name + " (norm).bias"},
                          weight, bias, norm_weight, norm_bias, eps});
  }

  // Results of a map of `events` (*batch, features) with a context or observation for each, or nothing if these are
  // not of the simple kind that is taken here; they may be of another kind, or wrong. Nothing either if a result is not
  // finite: whoever asks finds out why. False if `flow` has changed.
  std::variant<bool, std::optional<std::vector<Tensor>>> run(pybind11::handle flow, const std::string& map,
                                                             const Tensor& events,
                                                             const std::optional<Tensor>& contexts) const {
    if (!source_.unchanged(flow)) return false;
    if (!simple(events, features()) || contexts.has_value() != context_weight_.has_value())
      return std::optional<std::vector<Tensor>>();
    const at::IntArrayRef batch = events.sizes().slice(0, events.dim() - 1);
    if (contexts && (!simple(*contexts, observed()) || contexts->sizes().slice(0, contexts->dim() - 1) != batch))
      return std::optional<std::vector<Tensor>>();
    const Tensor x = events.contiguous(), y = contexts ? contexts->contiguous() : Tensor();
    // Past the dispatcher, which at batch 1 would be a tenth of the call.
    const auto empty = [](at::IntArrayRef sizes) { return at::detail::empty_cpu(sizes, at::kFloat); };
    std::vector<Tensor> results{empty(events.sizes()), empty(batch)};
    float *first = results[0].data_ptr<float>(), *log_det = results[1].data_ptr<float>();
    const float *from = x.const_data_ptr<float>(), *observations = contexts ? y.const_data_ptr<float>() : nullptr;
    const int64_t rows = events.numel() / features();
    if (map == "to_data_with_score") {
      results.push_back(empty(events.sizes()));
      call(Map::kScore, rows, from, observations, first, log_det, results[2].data_ptr<float>());
    } else {
      call(map == "to_data" ? Map::kToData : Map::kToLatent, rows, from, observations, first, log_det, nullptr);
      if (map == "log_prob") {
        add_base(rows, first, log_det);
        results.erase(results.begin());
      }
    }
    for (const Tensor& result : results)
      if (!finite(result.const_data_ptr<float>(), result.numel())) return std::optional<std::vector<Tensor>>();
    return std::optional(std::move(results));
  }

  // Actions (*batch, features) for observations (*batch, observed), denoised if sigma is not 0; nothing for observations
  // that are not finite. False if `flow` has changed.
  std::variant<bool, std::optional<pybind11::array_t<float>>> act(pybind11::handle flow, const Array& observations,
                                                                  double sigma, double temperature,
                                                                  std::optional<at::Generator> generator) const {
    if (!source_.unchanged(flow)) return false;
    TORCH_CHECK_VALUE(context_weight_, "observations: expected none, the flow has no context_weight");
    const pybind11::ssize_t rank = observations.ndim();
    TORCH_CHECK_VALUE(rank >= 1 && observations.shape(rank - 1) == observed(), "observations: expected shape (..., ",
                      observed(), "), got ", pybind11::str(observations.attr("shape")).cast<std::string>());
    std::vector<pybind11::ssize_t> shape(observations.shape(), observations.shape() + rank);
    shape.back() = features();
    pybind11::array_t<float> actions(shape);
    const int64_t rows = actions.size() / features();
    if (!rows) return std::optional(std::move(actions));
    if (!finite(observations.data(), observations.size())) return std::optional<pybind11::array_t<float>>();
    // As the flow's `sample` draws it: the same generator, the same action.
    const Tensor noise = at::randn({rows, features()}, std::move(generator), at::kFloat).mul_(temperature);
    float* to = actions.mutable_data();
    float* extra = memory<float>(Scratch::kChunk, rows * (1 + features()));
    float* score = sigma != 0 ? extra + rows : nullptr;
    call(score ? Map::kScore : Map::kToData, rows, noise.const_data_ptr<float>(), observations.data(), to, extra,
         score);
    const float variance = static_cast<float>(sigma * sigma);
    if (score)
      for (int64_t i = 0; i < rows * features(); ++i) to[i] += variance * score[i];
    if (!finite(to, rows * features())) refuse_broken(flow);
    return std::optional(std::move(actions));
  }

 private:
  Source source_;
  Parameters parameters_;
  std::optional<Tensor> context_weight_;
  Tensor input_bias_, mixing_, mixing_log_det_, inverse_mixing_, inverse_log_det_;
  double norm_eps_;
  std::optional<double> scale_bound_;
  std::vector<Layer> encoder_;

  int64_t features() const { return mixing_.size(2); }
  // Only for a flow with contexts.
  int64_t observed() const { return encoder_.empty() ? context_weight_->size(3) : encoder_[0].weight.size(1); }

  // The flow's own words for a weight that is to blame.
  static void refuse_broken(pybind11::handle flow) { flow.attr("refuse_broken")(); }

  static bool simple(const Tensor& tensor, int64_t width) {
    return tensor.dim() >= 1 && tensor.size(-1) == width && tensor.numel() > 0 && tensor.scalar_type() == at::kFloat &&
           tensor.is_cpu() && tensor.layout() == at::kStrided && !tensor.is_neg() && !tensor._is_zerotensor();
  }

  static void add_base(int64_t rows, const float* z, float* log_det, int64_t features) {
    const float constant = 0.5f * static_cast<float>(features) * std::log(2 * static_cast<float>(M_PI));
    for (int64_t row = 0; row < rows; ++row) {
      float square = 0;
      for (int64_t i = 0; i < features; ++i) square += z[row * features + i] * z[row * features + i];
      log_det[row] -= 0.5f * square + constant;
    }
  }
  void add_base(int64_t rows, const float* z, float* log_det) const { add_base(rows, z, log_det, features()); }

  void call(Map map, int64_t rows, const float* x, const float* observations, float* result, float* log_det,
            float* score) const {
    const bool to_data = map != Map::kToLatent;
    Problem<float> problem(rows, features(), to_data ? inverse_mixing_ : mixing_, parameters_, norm_eps_, scale_bound_);
    Coupling<float>& p = problem.sizes;
    p.input_bias = problem.pointer("input_bias", input_bias_, {p.blocks, 2, p.width1});
    MapResults<float> results{};
    results.result = result, results.log_det = log_det, results.score = score;
    results.mixing_log_det = to_data ? *problem.pointer("inverse_log_det", inverse_log_det_, {})
                                     : *problem.pointer("mixing_log_det", mixing_log_det_, {});
    results.density_mixing = problem.pointer("mixing", mixing_, {p.blocks, p.features, p.features});
    if (!context_weight_) {
      p.groups = 1;
      p.context_term = p.input_bias;
      return run_map<float>(map, p, nullptr, x, results);
    }
    p.context_features = context_weight_->size(3);
    p.context_weight =
        problem.pointer("context_weight", context_weight_, {p.blocks, 2, p.width1, p.context_features});
    c10::SmallVector<EncoderLayer<float>, 8> layers;
    Contexts<float> contexts{observations, observed(), static_cast<int64_t>(encoder_.size()), nullptr, false, 0, 0};
    contexts.widest = observed();
    for (const Layer& layer : encoder_) {
      // A layer's results go to the next one, and the last layer's are the contexts.
      const int64_t inputs = layers.empty() ? observed() : layers.back().outputs;
      const int64_t outputs = &layer == &encoder_.back() ? p.context_features : layer.weight.size(0);
      const auto name = [&](size_t which) { return layer.names[which].c_str(); };
      const uint16_t* lowered = problem.bf16_pointer(name(0), layer.weight, {outputs, inputs});
      layers.push_back({inputs, outputs,
                        lowered ? nullptr : problem.pointer(name(0), layer.weight, {outputs, inputs}), lowered,
                        problem.pointer(name(1), layer.bias, {outputs}),
                        problem.pointer(name(2), layer.norm_weight, {outputs}),
                        problem.pointer(name(3), layer.norm_bias, {outputs}), static_cast<float>(layer.norm_eps)});
      contexts.bf16 |= lowered != nullptr;
      contexts.widest = std::max(contexts.widest, outputs);
      contexts.largest = std::max(contexts.largest, inputs * outputs);
    }
    contexts.layer = layers.data();
    run_map<float>(map, p, &contexts, x, results);
  }
};

}  // namespace

NFKERN_BINDINGS {
  pybind11::class_<NativeFlow>(module, "NativeFlow")
      .def(pybind11::init<pybind11::dict, decltype(Source::items), decltype(Source::contents), decltype(Source::sizes),
                          decltype(Source::types), decltype(Source::copies), Parameters, std::optional<Tensor>, Tensor,
                          Tensor, Tensor, Tensor, Tensor, double, std::optional<double>,
                          const std::vector<LayerTensors>&>())
      .def("run", &NativeFlow::run)
      .def("act", &NativeFlow::act);
}

}  // namespace nfkern

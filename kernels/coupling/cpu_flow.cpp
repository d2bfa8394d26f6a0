// A flow whose tensors are gathered once: a call goes from its arguments to its results without a stop in Python, and
// without derivatives. In float32, hidden weights in bfloat16 or int8 if they are.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/DistributionsHelper.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <torch/csrc/Generator.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <tuple>
#include <variant>

#include "../dispatch/bindings.h"
#include "cpu_problem.h"

namespace nfkern {
namespace {

using at::Tensor;

struct Layer {
  std::array<std::string, 5> names;  // of the tensors, for messages
  Tensor weight;
  std::optional<Tensor> scale;
  Tensor bias;
  std::optional<Tensor> norm_weight, norm_bias;
  double norm_eps;
};

using LayerTensors = std::tuple<std::string, Tensor, std::optional<Tensor>, Tensor, std::optional<Tensor>,
                                std::optional<Tensor>, double>;

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

// Where a tensor's numbers lie and how, to see at once whether that has changed: `.data`, `set_` and `resize_` leave the
// same tensor with other numbers. Never unchanged is one of which a call takes a contiguous copy. The memory is kept
// from being freed meanwhile.
class Place {
 public:
  explicit Place(const Tensor& tensor)
      : tensor_(tensor),
        storage_(tensor.storage()),
        data_(tensor.const_data_ptr()),
        keys_(tensor.key_set()),
        dtype_(tensor.scalar_type()),
        sizes_(tensor.sizes().begin(), tensor.sizes().end()) {}

  bool unchanged() const {
    const c10::TensorImpl& now = *tensor_.unsafeGetTensorImpl();
    return now.unsafe_storage().unsafeGetStorageImpl() == storage_.unsafeGetStorageImpl() &&
           tensor_.const_data_ptr() == data_ && now.key_set() == keys_ && tensor_.scalar_type() == dtype_ &&
           now.sizes() == at::IntArrayRef(sizes_) && now.is_contiguous() && !tensor_.is_neg();
  }

 private:
  Tensor tensor_;
  c10::Storage storage_;
  const void* data_;
  c10::DispatchKeySet keys_;
  at::ScalarType dtype_;
  c10::SmallVector<int64_t, 4> sizes_;
};

bool finite(const float* values, int64_t count) {
  bool found = true;
  for (int64_t i = 0; i < count; ++i) found &= std::abs(values[i]) <= std::numeric_limits<float>::max();
  return found;
}

using Numpy = pybind11::detail::npy_api;
using Array = pybind11::detail::PyArray_Proxy;

const Array* array(PyObject* given) { return pybind11::detail::array_proxy(given); }

// An array of numpy in float32, its numbers one after the other.
bool simple(PyObject* given) {
  static PyObject* const kFloat32 = pybind11::dtype::of<float>().release().ptr();
  return Py_TYPE(given) == Numpy::get().PyArray_Type_ && array(given)->descr == kFloat32 &&
         pybind11::detail::check_flags(given, Numpy::NPY_ARRAY_C_CONTIGUOUS_ | Numpy::NPY_ARRAY_ALIGNED_);
}

int64_t numbers_of(const Array* given) {
  return std::accumulate(given->dimensions, given->dimensions + given->nd, int64_t{1}, std::multiplies<>());
}

// Arrays that were returned before, of which those come back that nobody else refers to: not a view, a buffer nor a
// tensor. After a pause, to have one made by numpy takes longer than a small flow.
class Returned {
 public:
  // An array of the shape of `like`, but for its last dimension.
  pybind11::object array(const Array* like, int64_t last) {
    for (const pybind11::object& each : kept_)
      if (each && Py_REFCNT(each.ptr()) == 1 && fits(each.ptr(), like, last)) return each;
    std::vector<pybind11::ssize_t> shape(like->dimensions, like->dimensions + like->nd);
    shape.back() = last;
    pybind11::array_t<float> made(shape);
    if (made.nbytes() <= kLargest) kept_[oldest_++ % kept_.size()] = made;
    return std::move(made);
  }

 private:
  static constexpr pybind11::ssize_t kLargest = 4096;

  // The caller's own while it computes the next, and one more.
  std::array<pybind11::object, 2> kept_;
  size_t oldest_ = 0;

  // Whoever had it may have changed all but its memory.
  static bool fits(PyObject* kept, const Array* like, int64_t last) {
    const Array* found = nfkern::array(kept);
    return simple(kept) && pybind11::detail::check_flags(kept, Numpy::NPY_ARRAY_WRITEABLE_) && found->nd == like->nd &&
           found->dimensions[found->nd - 1] == last &&
           std::equal(like->dimensions, like->dimensions + like->nd - 1, found->dimensions);
  }
};

class NativeFlow {
 public:
  NativeFlow(pybind11::dict settings, decltype(Source::items) items, decltype(Source::contents) contents,
             decltype(Source::sizes) sizes, decltype(Source::types) types, decltype(Source::copies) copies,
             Parameters parameters, std::optional<Tensor> hidden_scale, std::optional<Tensor> context_weight,
             std::optional<Tensor> context_scale, Tensor input_bias, Tensor mixing, Tensor mixing_log_det, Tensor inverse_mixing, Tensor inverse_log_det, double norm_eps,
             std::optional<double> scale_bound, const std::vector<LayerTensors>& encoder)
      : source_{std::move(settings), std::move(items), std::move(contents),
                std::move(sizes),    std::move(types), std::move(copies)},
        parameters_(std::move(parameters)),
        hidden_scale_(std::move(hidden_scale)),
        context_weight_(std::move(context_weight)),
        context_scale_(std::move(context_scale)),
        input_bias_(std::move(input_bias)),
        mixing_(std::move(mixing)),
        mixing_log_det_(std::move(mixing_log_det)),
        inverse_mixing_(std::move(inverse_mixing)),
        inverse_log_det_(std::move(inverse_log_det)),
        norm_eps_(norm_eps),
        scale_bound_(scale_bound) {
    for (const auto& [name, weight, scale, bias, norm_weight, norm_bias, eps] : encoder)
      encoder_.push_back(
          {{name + ".weight", name + ".scale", name + ".bias", name + " (norm).weight", name + " (norm).bias"},
           weight, scale, bias, norm_weight, norm_bias, eps});
  }

  // Results of a map of `events` (*batch, features) with a context or observation for each, or nothing if these are
  // not of the simple kind that is taken here; they may be of another kind, or wrong. Nothing either if a result is not
  // finite: whoever asks finds out why. False if `flow` has changed.
  std::variant<bool, std::optional<std::vector<Tensor>>> run(pybind11::handle flow, const std::string& map,
                                                             const Tensor& events,
                                                             const std::optional<Tensor>& contexts) const {
    if (!source_.unchanged(flow)) return false;
    if (!plain(events, features()) || contexts.has_value() != context_weight_.has_value())
      return std::optional<std::vector<Tensor>>();
    const at::IntArrayRef batch = events.sizes().slice(0, events.dim() - 1);
    if (contexts && (!plain(*contexts, observed()) || contexts->sizes().slice(0, contexts->dim() - 1) != batch))
      return std::optional<std::vector<Tensor>>();
    const Tensor x = events.contiguous(), y = contexts ? contexts->contiguous() : Tensor();
    // Past the dispatcher, which at batch 1 would be a tenth of the call.
    const auto empty = [](at::IntArrayRef sizes) {
      const bool few = c10::multiply_integers(sizes) < 4096;
      return few ? at::detail::empty_cpu(sizes, at::kFloat) : recycled(sizes, at::kFloat);
    };
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

  // Actions (*batch, features) for observations (*batch, observed), denoised if sigma is not 0. The arguments are the
  // flow, observations, sigma, the noise's temperature, a generator or None, and units or None: an array of the centers
  // and scales of observations, those of actions, and the lowest and highest actions. None if an argument is not of the
  // simple kind that is taken here, or a number not finite; False if the flow has changed.
  pybind11::object act(PyObject* const* arguments) const {
    const pybind11::handle flow = arguments[0];
    if (!source_.unchanged(flow)) return pybind11::bool_(false);
    const double sigma = number(arguments[2]), temperature = number(arguments[3]);
    const pybind11::ssize_t numbers = 2 * (context_weight_ ? observed() : 0) + 4 * features();
    const bool in_units = arguments[5] != Py_None;
    if (!context_weight_ || !simple(arguments[1]) || !(sigma >= 0 && temperature >= 0) ||
        !(arguments[4] == Py_None || THPGenerator_Check(arguments[4])) ||
        (in_units && !(simple(arguments[5]) && array(arguments[5])->nd == 1 &&
                       array(arguments[5])->dimensions[0] == numbers)))
      return pybind11::none();
    const auto* given = array(arguments[1]);
    TORCH_CHECK_VALUE(given->nd >= 1 && given->dimensions[given->nd - 1] == observed(),
                      "observations: expected shape (..., ", observed(), "), got ",
                      pybind11::str(pybind11::handle(arguments[1]).attr("shape")).cast<std::string>());
    pybind11::object actions = returned_.array(given, features());
    const int64_t width = observed(), rows = numbers_of(given) / width;
    if (!rows) return actions;
    float* to = reinterpret_cast<float*>(array(actions.ptr())->data);
    float* log_det = memory<float>(Scratch::kChunk, rows * (1 + 2 * features() + width));
    float *noise = log_det + rows, *score = noise + rows * features(), *scaled = score + rows * features();
    const auto* observations = reinterpret_cast<const float*>(given->data);
    const auto* units = in_units ? reinterpret_cast<const float*>(array(arguments[5])->data) : nullptr;
    if (units) {
      for (int64_t i = 0; i < rows * width; ++i)
        scaled[i] = (observations[i] - units[i % width]) / units[width + i % width];
      observations = scaled, units += 2 * width;
    }
    if (!finite(observations, rows * width)) return pybind11::none();
    draw(noise, rows * features(), static_cast<float>(temperature),
         arguments[4] == Py_None ? nullptr : &reinterpret_cast<THPGenerator*>(arguments[4])->cdata);
    call(sigma != 0 ? Map::kScore : Map::kToData, rows, noise, observations, to, log_det, sigma != 0 ? score : nullptr);
    const float variance = static_cast<float>(sigma * sigma);
    if (sigma != 0)
      for (int64_t i = 0; i < rows * features(); ++i) to[i] += variance * score[i];
    if (!finite(to, rows * features())) refuse_actions(flow);
    if (units) {
      const float *center = units, *scale = center + features(), *low = scale + features(), *high = low + features();
      for (int64_t i = 0; i < rows * features(); ++i) {
        const int64_t at = i % features();
        to[i] = std::min(std::max(to[i] * scale[at] + center[at], low[at]), high[at]);
      }
    }
    return actions;
  }

  // `act` as a plain function of C, which keeps `self` alive. Where no code is in a cache, because a robot has waited for
  // its next observation, pybind11's way of calling takes as long as the flow.
  static pybind11::object act_function(pybind11::object self) {
    static PyMethodDef definition{"act", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(act_entry)),
                                  METH_FASTCALL, nullptr};
    const auto* flow = self.cast<const NativeFlow*>();
    const auto capsule = pybind11::reinterpret_steal<pybind11::object>(
        PyCapsule_New(const_cast<NativeFlow*>(flow), nullptr, [](PyObject* capsule) {
          Py_XDECREF(static_cast<PyObject*>(PyCapsule_GetContext(capsule)));
        }));
    if (!capsule || PyCapsule_SetContext(capsule.ptr(), self.release().ptr())) throw pybind11::error_already_set();
    return pybind11::reinterpret_steal<pybind11::object>(PyCFunction_New(&definition, capsule.ptr()));
  }

 private:
  // What the kernels of a direction are called with, but for rows: gathered and checked once, for as long as all tensors
  // keep their places.
  struct Gathered {
    Problem<float> problem;
    const float *mixing, *log_det;
    std::vector<EncoderLayer<float>> layers;
    Contexts<float> contexts{};
    std::vector<Place> places;

    Gathered(const NativeFlow& flow, bool to_data)
        : problem(1, flow.features(), to_data ? flow.inverse_mixing_ : flow.mixing_, flow.parameters_, flow.norm_eps_,
                  flow.scale_bound_, flow.hidden_scale_) {
      Coupling<float>& p = problem.sizes;
      p.input_bias = problem.pointer("input_bias", flow.input_bias_, {p.blocks, 2, p.width1});
      mixing = problem.pointer("mixing", flow.mixing_, {p.blocks, p.features, p.features});
      log_det = to_data ? problem.pointer("inverse_log_det", flow.inverse_log_det_, {})
                        : problem.pointer("mixing_log_det", flow.mixing_log_det_, {});
      if (flow.context_weight_) add_contexts(flow);
      flow.each_tensor([&](const Tensor& tensor) { places.emplace_back(tensor); });
    }
    Gathered(const Gathered&) = delete;

    bool unchanged() const {
      for (const Place& place : places)
        if (!place.unchanged()) return false;
      return true;
    }

   private:
    void add_contexts(const NativeFlow& flow) {
      Coupling<float>& p = problem.sizes;
      p.context_features = flow.context_weight_->size(3);
      const int64_t shape[] = {p.blocks, 2, p.width1, p.context_features};
      if (flow.context_scale_)
        p.context_lowered =
            problem.lowered("context_weight", *flow.context_weight_, "context_scale", flow.context_scale_, shape);
      else
        p.context_weight = problem.pointer("context_weight", flow.context_weight_, shape);
      contexts.observed = contexts.widest = flow.observed();
      contexts.layers = static_cast<int64_t>(flow.encoder_.size());
      for (const Layer& layer : flow.encoder_) {
        // A layer's results go to the next one, and the last layer's are the contexts.
        const int64_t inputs = layers.empty() ? contexts.observed : layers.back().outputs;
        const int64_t outputs = &layer == &flow.encoder_.back() ? p.context_features : layer.weight.size(0);
        const auto name = [&](size_t which) { return layer.names[which].c_str(); };
        const LoweredWeight lowered =
            problem.lowered(name(0), layer.weight, name(1), layer.scale, {outputs, inputs});
        layers.push_back({inputs, outputs,
                          lowered ? nullptr : problem.pointer(name(0), layer.weight, {outputs, inputs}), lowered,
                          problem.pointer(name(2), layer.bias, {outputs}),
                          problem.pointer(name(3), layer.norm_weight, {outputs}),
                          problem.pointer(name(4), layer.norm_bias, {outputs}), static_cast<float>(layer.norm_eps)});
        contexts.lowered |= bool(lowered);
        contexts.widest = std::max(contexts.widest, outputs);
        contexts.largest = std::max(contexts.largest, inputs * outputs);
      }
      contexts.layer = layers.data();
    }
  };

  Source source_;
  Parameters parameters_;
  std::optional<Tensor> hidden_scale_, context_weight_, context_scale_;
  Tensor input_bias_, mixing_, mixing_log_det_, inverse_mixing_, inverse_log_det_;
  double norm_eps_;
  std::optional<double> scale_bound_;
  std::vector<Layer> encoder_;
  mutable std::array<std::shared_ptr<const Gathered>, 2> gathered_;  // to latent, to data
  mutable Returned returned_;

  template <class Visit>
  void each_tensor(Visit visit) const {
    const auto maybe = [&](const std::optional<Tensor>& tensor) {
      if (tensor) visit(*tensor);
    };
    for (const auto& parameter : parameters_) maybe(parameter);
    for (const auto& each : {hidden_scale_, context_weight_, context_scale_}) maybe(each);
    for (const Tensor& each : {input_bias_, mixing_, mixing_log_det_, inverse_mixing_, inverse_log_det_}) visit(each);
    for (const Layer& layer : encoder_) {
      visit(layer.weight), visit(layer.bias);
      maybe(layer.scale), maybe(layer.norm_weight), maybe(layer.norm_bias);
    }
  }

  int64_t features() const { return mixing_.size(2); }
  // Only for a flow with contexts.
  int64_t observed() const { return encoder_.empty() ? context_weight_->size(3) : encoder_[0].weight.size(1); }

  // The flow's own words for what is to blame.
  static void refuse_actions(pybind11::handle flow) { flow.attr("refuse_actions")(); }

  static PyObject* act_entry(PyObject* capsule, PyObject* const* arguments, Py_ssize_t count) {
    try {
      TORCH_CHECK_TYPE(count == 6, "act: expected 6 arguments, got ", count);
      return static_cast<const NativeFlow*>(PyCapsule_GetPointer(capsule, nullptr))->act(arguments).release().ptr();
    } catch (pybind11::error_already_set& error) {
      error.restore();
    } catch (const c10::ValueError& error) {
      PyErr_SetString(PyExc_ValueError, error.what_without_backtrace());
    } catch (const c10::TypeError& error) {
      PyErr_SetString(PyExc_TypeError, error.what_without_backtrace());
    } catch (const c10::Error& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what_without_backtrace());
    } catch (const std::bad_alloc&) {
      PyErr_NoMemory();
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
  }

  // NaN for what is no plain finite number.
  static double number(PyObject* given) {
    const double value = PyFloat_CheckExact(given)  ? PyFloat_AS_DOUBLE(given)
                         : PyLong_CheckExact(given) ? PyLong_AsDouble(given)
                                                    : NAN;
    if (value == -1 && PyErr_Occurred()) PyErr_Clear();
    return std::isfinite(value) ? value : NAN;
  }

  // Noise as the flow's `sample` draws it: the same generator, the same action. Fewer than 16 numbers PyTorch draws one
  // by one, and so does this: the way through its dispatcher takes as long as an eighth of the flow.
  static void draw(float* noise, int64_t count, float temperature, const at::Generator* given) {
    const auto generator = given ? std::optional(*given) : std::nullopt;
    if (count >= 16) {
      const Tensor drawn = at::randn({count}, generator, at::kFloat);
      std::copy_n(drawn.const_data_ptr<float>(), count, noise);
    } else {
      auto* from = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
      const std::lock_guard<std::mutex> lock(from->mutex_);
      at::normal_distribution<double> normal(0, 1);
      for (int64_t i = 0; i < count; ++i) noise[i] = static_cast<float>(normal(from));
    }
    for (int64_t i = 0; i < count; ++i) noise[i] *= temperature;
  }

  static bool plain(const Tensor& tensor, int64_t width) {
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
    std::shared_ptr<const Gathered>& last = gathered_[to_data];
    if (!last || !last->unchanged()) last = std::make_shared<const Gathered>(*this, to_data);
    // Its own reference: while others run Python, a call of theirs may gather anew.
    const std::shared_ptr<const Gathered> gathered = last;
    Coupling<float> p = gathered->problem.sizes;
    p.rows = p.groups = rows;
    MapResults<float> results{};
    results.result = result, results.log_det = log_det, results.score = score;
    results.mixing_log_det = *gathered->log_det;
    results.density_mixing = gathered->mixing;
    if (!context_weight_) {
      p.groups = 1;
      p.context_term = p.input_bias;
      return run_map<float>(map, p, nullptr, x, results);
    }
    Contexts<float> contexts = gathered->contexts;
    contexts.observations = observations;
    run_map<float>(map, p, &contexts, x, results);
  }
};

}  // namespace

NFKERN_BINDINGS {
  pybind11::class_<NativeFlow>(module, "NativeFlow")
      .def(pybind11::init<pybind11::dict, decltype(Source::items), decltype(Source::contents), decltype(Source::sizes),
                          decltype(Source::types), decltype(Source::copies), Parameters, std::optional<Tensor>,
                          std::optional<Tensor>, std::optional<Tensor>, Tensor, Tensor, Tensor, Tensor, Tensor, double, std::optional<double>,
                          const std::vector<LayerTensors>&>())
      .def("run", &NativeFlow::run)
      .def_property_readonly("act", &NativeFlow::act_function);
}

}  // namespace nfkern

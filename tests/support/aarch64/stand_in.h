// What the ops' C++ kernels use of torch and pybind11, in so few lines that a cross compiler needs nothing else: dense
// tensors on the CPU, errors, and functions that are called by name with values read from a pipe. `__init__.py` gives
// it the names of torch's headers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace c10 {

enum class ScalarType : int64_t { Float, Double, BFloat16, Long, Char };
inline std::ostream& operator<<(std::ostream& out, ScalarType dtype) { return out << "dtype " << int64_t(dtype); }

struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct CppTypeToScalarType;
template <>
struct CppTypeToScalarType<float> : std::integral_constant<ScalarType, ScalarType::Float> {};
template <>
struct CppTypeToScalarType<double> : std::integral_constant<ScalarType, ScalarType::Double> {};
template <>
struct CppTypeToScalarType<int64_t> : std::integral_constant<ScalarType, ScalarType::Long> {};
template <>
struct CppTypeToScalarType<int8_t> : std::integral_constant<ScalarType, ScalarType::Char> {};

inline int64_t size_of(ScalarType dtype) {
  constexpr int64_t sizes[] = {4, 8, 2, 8, 1};
  return sizes[static_cast<int64_t>(dtype)];
}

template <class F>
using function_ref = std::function<F>;
template <class T, size_t>
using SmallVector = std::vector<T>;

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

}  // namespace c10

#define TORCH_CHECK(condition, ...) ((condition) ? void() : c10::fail(__VA_ARGS__))
#define TORCH_CHECK_VALUE TORCH_CHECK
#define TORCH_CHECK_TYPE TORCH_CHECK

namespace at {

using c10::BFloat16;
using c10::ScalarType;

constexpr ScalarType kFloat = ScalarType::Float, kDouble = ScalarType::Double, kBFloat16 = ScalarType::BFloat16,
                     kChar = ScalarType::Char;
enum Layout { kStrided };
using TensorOptions = ScalarType;

struct IntArrayRef : std::vector<int64_t> {
  using vector::vector;
  IntArrayRef(const std::vector<int64_t>& sizes) : vector(sizes) {}
  template <size_t N>
  IntArrayRef(const int64_t (&sizes)[N]) : vector(sizes, sizes + N) {}

  IntArrayRef slice(int64_t first, int64_t count) const { return {begin() + first, begin() + first + count}; }
  friend std::ostream& operator<<(std::ostream& out, const IntArrayRef& sizes) {
    for (int64_t size : sizes) out << size << ", ";
    return out;
  }
};

using DimVector = IntArrayRef;

// Contiguous; what is not written is NaN.
class Tensor {
 public:
  Tensor() = default;
  Tensor(const IntArrayRef& sizes, ScalarType dtype) : sizes_(sizes), dtype_(dtype) {
    memory_ = std::make_shared<std::vector<char>>(static_cast<size_t>(numel() * c10::size_of(dtype)), '\xff');
  }

  bool defined() const { return memory_ != nullptr; }
  ScalarType scalar_type() const { return dtype_; }
  TensorOptions options() const { return dtype_; }
  bool is_cpu() const { return true; }
  const char* device() const { return "cpu"; }
  Layout layout() const { return kStrided; }
  bool is_neg() const { return false; }
  const Tensor& resolve_neg() const { return *this; }
  const Tensor& contiguous() const { return *this; }

  const IntArrayRef& sizes() const { return sizes_; }
  int64_t dim() const { return static_cast<int64_t>(sizes_.size()); }
  int64_t size(int64_t i) const { return sizes_.at(static_cast<size_t>(i < 0 ? i + dim() : i)); }
  int64_t numel() const {
    int64_t count = 1;
    for (int64_t size : sizes_) count *= size;
    return count;
  }

  // From and to bfloat16, the upper half of a float32, which is rounded to the nearest even one.
  Tensor to(ScalarType dtype) const {
    TORCH_CHECK(dtype_ == (dtype == kFloat ? kBFloat16 : kFloat), "no conversion from ", dtype_, " to ", dtype);
    const Tensor result(sizes_, dtype);
    for (int64_t i = 0; i < numel(); ++i) {
      if (dtype == kFloat) {
        result.data_ptr<uint32_t>()[i] = static_cast<uint32_t>(data_ptr<uint16_t>()[i]) << 16;
      } else {
        const uint32_t bits = data_ptr<uint32_t>()[i];
        result.data_ptr<uint16_t>()[i] = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
      }
    }
    return result;
  }

  void* data_ptr() const { return memory_->data(); }
  template <class T>
  T* data_ptr() const {
    return reinterpret_cast<T*>(memory_->data());
  }
  template <class T>
  const T* const_data_ptr() const {
    return numel() ? data_ptr<T>() : nullptr;
  }
  std::vector<char>& bytes() const { return *memory_; }

 private:
  IntArrayRef sizes_;
  ScalarType dtype_ = kFloat;
  std::shared_ptr<std::vector<char>> memory_;
};

inline Tensor empty(const IntArrayRef& sizes, TensorOptions dtype) { return {sizes, dtype}; }

inline Tensor zeros(const IntArrayRef& sizes, TensorOptions dtype) {
  const Tensor result = empty(sizes, dtype);
  std::fill(result.bytes().begin(), result.bytes().end(), '\0');
  return result;
}

inline Tensor scalar_tensor(double value, TensorOptions dtype) {
  const Tensor result({}, dtype);
  if (dtype == kDouble)
    *result.data_ptr<double>() = value;
  else
    *result.data_ptr<float>() = static_cast<float>(value);
  return result;
}

inline int64_t get_num_threads() { return 1; }

}  // namespace at

namespace pybind11 {

struct gil_scoped_release {
  gil_scoped_release() {}
};

// A value in the pipe: None, a number, a tensor, a list, a text, or an error.
struct Value {
  enum Kind : int64_t { kNone, kInteger, kFloat, kTensor, kList, kText, kError } kind = kNone;
  int64_t integer = 0;
  double number = 0;
  at::Tensor tensor;
  std::vector<Value> list;
  std::string text;

  void check(Kind expected) const { TORCH_CHECK(kind == expected, "expected kind ", expected, ", got ", kind); }
};

template <class T>
struct As {
  static T of(const Value& value) {
    if constexpr (std::is_floating_point_v<T>) {
      if (value.kind == Value::kFloat) return value.number;
    }
    value.check(Value::kInteger);
    return static_cast<T>(value.integer);
  }
};
template <>
struct As<at::Tensor> {
  static at::Tensor of(const Value& value) {
    value.check(Value::kTensor);
    return value.tensor;
  }
};
template <>
struct As<std::string> {
  static std::string of(const Value& value) {
    value.check(Value::kText);
    return value.text;
  }
};
template <class T>
struct As<std::optional<T>> {
  static std::optional<T> of(const Value& value) {
    if (value.kind == Value::kNone) return std::nullopt;
    return As<T>::of(value);
  }
};
template <class T>
struct As<std::vector<T>> {
  static std::vector<T> of(const Value& value) {
    value.check(Value::kList);
    std::vector<T> result;
    for (const Value& each : value.list) result.push_back(As<T>::of(each));
    return result;
  }
};

inline Value value_of(at::Tensor result) { return {Value::kTensor, 0, 0, std::move(result), {}, {}}; }
inline Value value_of(const std::vector<at::Tensor>& results) {
  Value list{Value::kList, 0, 0, {}, {}, {}};
  for (const at::Tensor& each : results) list.list.push_back(value_of(each));
  return list;
}
template <class... Each>
Value value_of(const std::tuple<Each...>& results) {
  return std::apply([](const Each&... each) { return value_of(std::vector<at::Tensor>{each...}); }, results);
}

struct module_ {
  std::map<std::string, std::function<Value(const std::vector<Value>&)>> functions;

  template <class R, class... A>
  void def(const char* name, R (*function)(A...)) {
    functions[name] = [function](const std::vector<Value>& given) {
      TORCH_CHECK(given.size() == sizeof...(A), "expected ", sizeof...(A), " arguments, got ", given.size());
      return call(function, given, std::index_sequence_for<A...>());
    };
  }

 private:
  template <class R, class... A, size_t... I>
  static Value call(R (*function)(A...), const std::vector<Value>& given, std::index_sequence<I...>) {
    return value_of(function(As<std::decay_t<A>>::of(given[I])...));
  }
};

}  // namespace pybind11

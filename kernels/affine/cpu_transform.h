// The element-wise affine map from data to noise, z = (x - shift) e^-log_scale, its inverse and their derivatives: see
// `transform.py`, whose formulas these are.
#pragma once

#include "../simd/vector.h"

namespace nfkern::NFKERN_ISA {

// Gradients of what was mapped, and of the map's parameters.
template <class V>
struct AffineGrads {
  V value, log_scale, shift;
};

// The map of a number, or of a vector of them. `factor` is e^-log_scale for the map and its derivative, e^log_scale for
// the inverse and the inverse's.
template <class V>
struct AffineMap {
  V log_scale, shift, factor;

  V forward(V x) const { return (x - shift) * factor; }
  V inverse(V z) const { return z * factor + shift; }
  V log_det() const { return -log_scale; }

  // The gradient of the bounded log_scale, not the raw one: see `unbounded_gradient`.
  template <class G>
  AffineGrads<V> forward_vjp(V x, V grad, G grad_log_det) const {
    const V grad_x = grad * factor;
    return {grad_x, -grad_x * (x - shift) - grad_log_det, -grad_x};
  }
  // The vjp of `forward` where z is known, not x.
  template <class G>
  AffineGrads<V> forward_vjp_from_latent(V z, V grad, G grad_log_det) const {
    const V grad_x = grad * factor;
    return {grad_x, -grad * z - grad_log_det, -grad_x};
  }
  // grad_log_det is the gradient of the inverse's.
  template <class G>
  AffineGrads<V> inverse_vjp(V z, V grad, G grad_log_det) const {
    return {grad * factor, grad * z * factor + grad_log_det, grad};
  }
};

// raw -> bound * tanh(raw / bound), if the bound is not 0, which stands for none.
template <class T>
void bound_log_scale(T bound, int64_t count, T* log_scale) {
  if (bound == 0) return;
  for (int64_t i = 0; i < count; ++i) log_scale[i] = bound * std::tanh(log_scale[i] / bound);
}

// The gradient of the raw log_scale, from that of the bounded one.
template <class T, class V>
V unbounded_gradient(T bound, V log_scale, V grad) {
  const V ratio = log_scale / bound;
  return grad * (T(1) - ratio * ratio);
}

// The maps of a vector of numbers, of which `count` are there.
template <class T>
AffineMap<Vec<T>> affine_map(T bound, Vec<T> log_scale, Vec<T> shift, int count) {
  if (bound != 0) {
    T lanes[kLanes<T>];
    store(lanes, log_scale);
    bound_log_scale(bound, count, lanes);
    log_scale = load(lanes);
  }
  return {log_scale, shift, exponential(-log_scale)};
}

// The maps of `count` numbers. Before anything else, `bound_parameters` once, then `prepare` for one direction.
template <class T>
struct AffineMaps {
  T bound;
  int64_t count;
  T* parameters;  // (2, count): log_scale, shift
  T* factor;      // (count)

  AffineMap<T> operator[](int64_t i) const { return {parameters[i], parameters[count + i], factor[i]}; }

  void bound_parameters() const { bound_log_scale(bound, count, parameters); }
  void prepare(bool inverse) const { exponentials<T>(count, parameters, inverse ? T(1) : T(-1), factor); }

  void forward(T* values) const {
    for (int64_t i = 0; i < count; ++i) values[i] = (*this)[i].forward(values[i]);
  }
  void inverse(const T* from, T* to) const {
    for (int64_t i = 0; i < count; ++i) to[i] = (*this)[i].inverse(from[i]);
  }

  // Number i belongs to row i % P.
  template <int P>
  void add_log_det(bool inverse, T* log_det) const {
    const T sign = inverse ? T(-1) : T(1);
    for (int64_t i = 0; i < count; i += P)
      for (int c = 0; c < P; ++c) log_det[c] += sign * (*this)[i + c].log_det();
  }

  // vjp(map, i) -> gradients of number i: `grad` (count) becomes that of what was mapped, `parameter_grads` is laid out
  // as the parameters.
  template <class Vjp>
  void pull_back(T* grad, T* parameter_grads, Vjp vjp) const {
    for (int64_t i = 0; i < count; ++i) {
      const AffineGrads<T> found = vjp((*this)[i], i);
      grad[i] = found.value;
      parameter_grads[i] = found.log_scale;
      parameter_grads[count + i] = found.shift;
    }
    if (bound == 0) return;
    for (int64_t i = 0; i < count; ++i)
      parameter_grads[i] = unbounded_gradient(bound, parameters[i], parameter_grads[i]);
  }
};

}  // namespace nfkern::NFKERN_ISA

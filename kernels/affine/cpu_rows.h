// Causal affine coupling of a range of rows. See `reference.py`, whose formulas these are.
#pragma once

#include "cpu.h"
#include "cpu_transform.h"

namespace nfkern::NFKERN_ISA {

// Calls step(at, map, pair, count) for each vector of features of each token of a row; `at` is its place in the tokens,
// `pair` that of its log_scale in the pairs, or -1 where the token has none.
template <class T, class Step>
void over_tokens(const CausalAffine<T>& p, int64_t row, Step step) {
  constexpr int L = kLanes<T>;
  for (int64_t seen = 0; seen < p.tokens; ++seen) {
    const int64_t token = p.flipped ? p.tokens - 1 - seen : seen, given = seen - (p.tokens - p.given);
    for (int64_t d = 0; d < p.features; d += L) {
      const int count = static_cast<int>(p.features - d < L ? p.features - d : L);
      const int64_t at = (row * p.tokens + token) * p.features + d;
      const int64_t pair = given < 0 ? -1 : (row * p.given + given) * 2 * p.features + d;
      if (given < 0) {
        step(at, AffineMap<Vec<T>>{{}, {}, broadcast(T(1))}, pair, count);
        continue;
      }
      const Vec<T> log_scale = load_some(p.pairs + pair, count), shift = load_some(p.pairs + pair + p.features, count);
      step(at, affine_map(p.scale_bound, log_scale, shift, count), pair, count);
    }
  }
}

template <class T>
void causal_affine_rows(const CausalAffine<T>& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    Vec<T> change = {};
    over_tokens(p, row, [&](int64_t at, const AffineMap<Vec<T>>& map, int64_t, int count) {
      store_some(p.z + at, map.forward(load_some(p.x + at, count)), count);
      change += map.log_det();
    });
    p.total[row] = p.log_det[row] + sum<T>(change);
  }
}

template <class T>
void causal_affine_backward_rows(const CausalAffine<T>& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row)
    over_tokens(p, row, [&](int64_t at, const AffineMap<Vec<T>>& map, int64_t pair, int count) {
      AffineGrads<Vec<T>> grads =
          map.forward_vjp(load_some(p.x + at, count), load_some(p.grad + at, count), p.grad_total[row]);
      store_some(p.grad_x + at, grads.value, count);
      if (pair < 0) return;
      if (p.scale_bound != 0) grads.log_scale = unbounded_gradient(p.scale_bound, map.log_scale, grads.log_scale);
      store_some(p.grad_pairs + pair, grads.log_scale, count);
      store_some(p.grad_pairs + pair + p.features, grads.shift, count);
    });
}

template <class T>
constexpr CausalAffineKernels<T> causal_affine_kernels() {
  return {causal_affine_rows<T>, causal_affine_backward_rows<T>};
}

}  // namespace nfkern::NFKERN_ISA

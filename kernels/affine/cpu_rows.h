// Causal affine coupling of a range of rows. See `reference.py`, whose formulas these are.
#pragma once

#include "cpu_bound.h"
#include "cpu.h"

namespace nfkern::NFKERN_ISA {

// Calls step(at, log_scale, shift, pair, count) for each vector of features of each token of a row; `at` is its place
// in the tokens, `pair` that of its log_scale in the pairs, or -1 where the token has none.
template <class T, class Step>
void over_tokens(const CausalAffine<T>& p, int64_t row, Step step) {
  constexpr int L = kLanes<T>;
  for (int64_t seen = 0; seen < p.tokens; ++seen) {
    const int64_t token = p.flipped ? p.tokens - 1 - seen : seen, given = seen - (p.tokens - p.given);
    for (int64_t d = 0; d < p.features; d += L) {
      const int count = static_cast<int>(p.features - d < L ? p.features - d : L);
      const int64_t at = (row * p.tokens + token) * p.features + d;
      const int64_t pair = given < 0 ? -1 : (row * p.given + given) * 2 * p.features + d;
      Vec<T> log_scale = {}, shift = {};
      if (given >= 0) {
        log_scale = load_some(p.pairs + pair, count), shift = load_some(p.pairs + pair + p.features, count);
        if (p.scale_bound != 0) {
          T lanes[L];
          store(lanes, log_scale);
          bound_log_scale(p.scale_bound, count, lanes);
          log_scale = load(lanes);
        }
      }
      step(at, log_scale, shift, pair, count);
    }
  }
}

template <class T>
void causal_affine_rows(const CausalAffine<T>& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    Vec<T> change = {};
    over_tokens(p, row, [&](int64_t at, Vec<T> log_scale, Vec<T> shift, int64_t, int count) {
      store_some(p.z + at, (load_some(p.x + at, count) - shift) * exponential(-log_scale), count);
      change += log_scale;
    });
    p.total[row] = p.log_det[row] - sum<T>(change);
  }
}

template <class T>
void causal_affine_backward_rows(const CausalAffine<T>& p, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row)
    over_tokens(p, row, [&](int64_t at, Vec<T> log_scale, Vec<T> shift, int64_t pair, int count) {
      const Vec<T> grad_x = load_some(p.grad + at, count) * exponential(-log_scale);
      store_some(p.grad_x + at, grad_x, count);
      if (pair < 0) return;
      Vec<T> grad_log_scale = -grad_x * (load_some(p.x + at, count) - shift) - p.grad_total[row];
      if (p.scale_bound != 0) {
        const Vec<T> ratio = log_scale / p.scale_bound;
        grad_log_scale *= T(1) - ratio * ratio;
      }
      store_some(p.grad_pairs + pair, grad_log_scale, count);
      store_some(p.grad_pairs + pair + p.features, -grad_x, count);
    });
}

template <class T>
constexpr CausalAffineKernels<T> causal_affine_kernels() {
  return {causal_affine_rows<T>, causal_affine_backward_rows<T>};
}

}  // namespace nfkern::NFKERN_ISA

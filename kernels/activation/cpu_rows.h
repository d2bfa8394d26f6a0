// A hidden layer's activation, row by row: what a row is read, computed and derived from lies in the first cache. See
// `reference.py`, whose formulas these are.
#pragma once

#include "../simd/bf16.h"
#include "cpu.h"

namespace nfkern::NFKERN_ISA {

// All lanes of a vector, where `int` stands for some of them.
template <class T>
struct AllLanes {
  constexpr operator int() const { return kLanes<T>; }
};

template <class T>
Vec<T> load_lanes(const T* from, AllLanes<T>) {
  return load(from);
}
template <class T>
Vec<T> load_lanes(const T* from, int count) {
  return load_some(from, count);
}

template <class T>
void store_lanes(T* to, Vec<T> value, AllLanes<T>) {
  store(to, value);
}
template <class T>
void store_lanes(T* to, Vec<T> value, int count) {
  store_some(to, value, count);
}

// Lanes that are not there become zero.
template <class T>
Vec<T> kept_lanes(Vec<T> value, AllLanes<T>) {
  return value;
}
template <class T>
Vec<T> kept_lanes(Vec<T> value, int count) {
  T lanes[kLanes<T>];
  store(lanes, value);
  return load_some(lanes, count);
}

// Calls step(j, count) for the vectors of a row; `count` lanes of the last are there.
template <class T, class Step>
__attribute__((always_inline)) inline void over_row(int64_t width, Step step) {
  constexpr int L = kLanes<T>;
  int64_t j = 0;
#pragma GCC unroll 4
  for (; j + L <= width; j += L) step(j, AllLanes<T>());
  if (j < width) step(j, static_cast<int>(width - j));
}

// The sum over a row of what term(j, count) gives for each vector; four sums hide the additions' latency.
template <class T, class Term>
__attribute__((always_inline)) inline auto sum_row(int64_t width, Term term) {
  constexpr int L = kLanes<T>;
  decltype(term(0, 0)) sums[4] = {};
  int64_t j = 0;
  for (; j + 4 * L <= width; j += 4 * L)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[i] += term(j + i * L, AllLanes<T>());
  for (; j + L <= width; j += L) sums[0] += term(j, AllLanes<T>());
  if (j < width) sums[1] += term(j, static_cast<int>(width - j));
  sums[0] += sums[1], sums[2] += sums[3], sums[0] += sums[2];
  return sums[0];
}

// Two sums over a row.
template <class T>
struct TwoSums {
  Vec<T> first, second;
  void operator+=(const TwoSums& more) { first += more.first, second += more.second; }
};

// x * sigmoid(gate(x)): the gate is x for SiLU, and for GELU in its form with tanh 2 sqrt(2 / pi) (x + 0.044715 x^3).
template <class T, Activation A>
struct Gated {
  Vec<T> x, open;

  __attribute__((always_inline)) explicit Gated(Vec<T> value) : x(value) {
    Vec<T> gate = x;
    if constexpr (A == Activation::kGelu) gate = x * (kScale + kScale * kCubic * (x * x));
    open = sigmoid(gate);
  }
  Vec<T> value() const { return x * open; }
  __attribute__((always_inline)) Vec<T> slope() const {
    Vec<T> along = x * (T(1) - open);
    if constexpr (A == Activation::kGelu) along *= kScale + 3 * kScale * kCubic * (x * x);
    return open + open * along;
  }

 private:
  static constexpr T kScale = static_cast<T>(1.5957691216057308), kCubic = static_cast<T>(0.044715);
};

template <class T>
int64_t hidden_activation_scratch(const HiddenActivation<T>& p) {
  return 5 * p.width;
}

template <class T>
const T* wide_row(const HiddenActivation<T>& p, const T* rows, const uint16_t* rows_bf16, int64_t row, T* memory) {
  if constexpr (sizeof(T) == sizeof(float))
    if (rows_bf16) {
      widen(p.width, rows_bf16 + row * p.width, memory);
      return memory;
    }
  return rows + row * p.width;
}

template <class T>
void narrow_row(const HiddenActivation<T>& p, int64_t row, const T* from) {
  if constexpr (sizeof(T) == sizeof(float)) {
    uint16_t* to = p.result_bf16 + row * p.width;
    over_row<T>(p.width, [&](int64_t j, auto count) {
      const HalfVec half = __builtin_convertvector(round_to_bf16(load_lanes(from + j, count)) >> 16, HalfVec);
      __builtin_memcpy(to + j, &half, sizeof(uint16_t) * static_cast<size_t>(count));
    });
  }
}

// LayerNorm's statistics of a row.
template <class T>
struct RowNorm {
  T mean, rstd;

  // Of value(j, count), which are stored in `row`.
  template <class Value>
  __attribute__((always_inline)) RowNorm(int64_t width, T eps, T* row, Value value) {
    mean = sum<T>(sum_row<T>(width,
                             [&](int64_t j, auto count) {
                               const Vec<T> found = kept_lanes<T>(value(j, count), count);
                               store_lanes<T>(row + j, found, count);
                               return found;
                             })) /
           static_cast<T>(width);
    const Vec<T> squares = sum_row<T>(width, [&](int64_t j, auto count) {
      const Vec<T> centred = kept_lanes<T>(load_lanes(row + j, count) - mean, count);
      return centred * centred;
    });
    rstd = T(1) / std::sqrt(sum<T>(squares) / static_cast<T>(width) + eps);
  }

  Vec<T> normalized(Vec<T> value) const { return (value - mean) * rstd; }
};

// A member's parameters, and what its rows are computed from.
template <class T, Norm N>
struct Member {
  const T *bias, *weight, *shift;

  Member(const HiddenActivation<T>& p, int64_t member)
      : bias(p.bias + member * p.width),
        weight(N == Norm::kNone ? nullptr : p.norm_weight + member * p.width),
        shift(N == Norm::kNone ? nullptr : p.norm_bias + member * p.width) {}

  template <class Count>
  Vec<T> biased(const T* x, int64_t j, Count count) const {
    return load_lanes(x + j, count) + load_lanes(bias + j, count);
  }
  template <class Count>
  Vec<T> scaled(Vec<T> unit, int64_t j, Count count) const {
    return unit * load_lanes(weight + j, count) + load_lanes(shift + j, count);
  }
};

template <class T, Activation A, Norm N>
void activate_rows(const HiddenActivation<T>& p, int64_t member, int64_t begin, int64_t end, T* scratch) {
  const Member<T, N> of(p, member);
  T *wide = scratch, *entering = wide + p.width, *narrow = entering + p.width;
  for (int64_t row = begin; row < end; ++row) {
    const T* x = wide_row(p, p.x, p.x_bf16, row, wide);
    T* result = p.result ? p.result + row * p.width : narrow;
    if constexpr (N == Norm::kNone) {
      over_row<T>(p.width, [&](int64_t j, auto count) {
        store_lanes<T>(result + j, Gated<T, A>(of.biased(x, j, count)).value(), count);
      });
    } else {
      const RowNorm<T> norm(p.width, p.eps, entering, [&](int64_t j, auto count) {
        const Vec<T> biased = of.biased(x, j, count);
        return N == Norm::kFirst ? biased : Gated<T, A>(biased).value();
      });
      over_row<T>(p.width, [&](int64_t j, auto count) {
        const Vec<T> scaled = of.scaled(norm.normalized(load_lanes(entering + j, count)), j, count);
        store_lanes<T>(result + j, N == Norm::kLast ? scaled : Gated<T, A>(scaled).value(), count);
      });
    }
    if (!p.result) narrow_row(p, row, narrow);
  }
}

template <class T, Activation A, Norm N>
void derive_rows(const HiddenActivation<T>& p, int64_t member, int64_t begin, int64_t end, T* sums, T* scratch) {
  const Member<T, N> of(p, member);
  T *wide = scratch, *wide_grad = wide + p.width, *entering = wide_grad + p.width, *slopes = entering + p.width,
    *narrow = slopes + p.width;
  T *bias_sum = sums, *weight_sum = sums + p.width, *shift_sum = sums + 2 * p.width;
  const auto add = [](T* to, Vec<T> value, auto count) { store_lanes<T>(to, load_lanes(to, count) + value, count); };
  for (int64_t i = 0; i < 3 * p.width; ++i) sums[i] = 0;
  for (int64_t row = begin; row < end; ++row) {
    const T *x = wide_row(p, p.x, p.x_bf16, row, wide), *grad = wide_row(p, p.grad, p.grad_bf16, row, wide_grad);
    T* result = p.result ? p.result + row * p.width : narrow;
    const auto finish = [&](int64_t j, Vec<T> part, auto count) {
      add(bias_sum + j, part, count);
      store_lanes<T>(result + j, part, count);
    };
    if constexpr (N == Norm::kNone) {
      over_row<T>(p.width, [&](int64_t j, auto count) {
        finish(j, load_lanes(grad + j, count) * Gated<T, A>(of.biased(x, j, count)).slope(), count);
      });
    } else {
      const RowNorm<T> norm(p.width, p.eps, entering, [&](int64_t j, auto count) {
        const Vec<T> biased = of.biased(x, j, count);
        if constexpr (N == Norm::kFirst) return biased;
        const Gated<T, A> gated(biased);
        store_lanes<T>(slopes + j, gated.slope(), count);
        return gated.value();
      });
      // The gradient of the normalised row, and its two sums that LayerNorm's derivative needs.
      TwoSums<T> both = sum_row<T>(p.width, [&](int64_t j, auto count) {
        const Vec<T> unit = norm.normalized(load_lanes(entering + j, count));
        Vec<T> part = load_lanes(grad + j, count);
        if constexpr (N == Norm::kFirst) part *= Gated<T, A>(of.scaled(unit, j, count)).slope();
        add(shift_sum + j, part, count);
        add(weight_sum + j, part * unit, count);
        part *= load_lanes(of.weight + j, count);
        store_lanes<T>(wide_grad + j, part, count);
        return TwoSums<T>{part, part * unit};
      });
      const T mean = sum<T>(both.first) / static_cast<T>(p.width), along = sum<T>(both.second) / static_cast<T>(p.width);
      over_row<T>(p.width, [&](int64_t j, auto count) {
        const Vec<T> unit = norm.normalized(load_lanes(entering + j, count));
        Vec<T> part = (load_lanes(wide_grad + j, count) - mean - unit * along) * norm.rstd;
        if constexpr (N == Norm::kLast) part *= load_lanes(slopes + j, count);
        finish(j, part, count);
      });
    }
    if (!p.result) narrow_row(p, row, narrow);
  }
}

template <class T, Activation A>
void rows_of(const HiddenActivation<T>& p, int64_t member, int64_t begin, int64_t end, T* scratch) {
  const auto run = p.norm == Norm::kNone    ? activate_rows<T, A, Norm::kNone>
                   : p.norm == Norm::kFirst ? activate_rows<T, A, Norm::kFirst>
                                            : activate_rows<T, A, Norm::kLast>;
  run(p, member, begin, end, scratch);
}

template <class T, Activation A>
void backward_rows_of(const HiddenActivation<T>& p, int64_t member, int64_t begin, int64_t end, T* sums, T* scratch) {
  const auto run = p.norm == Norm::kNone    ? derive_rows<T, A, Norm::kNone>
                   : p.norm == Norm::kFirst ? derive_rows<T, A, Norm::kFirst>
                                            : derive_rows<T, A, Norm::kLast>;
  run(p, member, begin, end, sums, scratch);
}

template <class T>
void hidden_activation_rows(const HiddenActivation<T>& p, int64_t member, int64_t begin, int64_t end, T* scratch) {
  const auto run = p.activation == Activation::kSilu ? rows_of<T, Activation::kSilu> : rows_of<T, Activation::kGelu>;
  run(p, member, begin, end, scratch);
}

template <class T>
void hidden_activation_backward_rows(const HiddenActivation<T>& p, int64_t member, int64_t begin, int64_t end, T* sums,
                                     T* scratch) {
  const bool silu = p.activation == Activation::kSilu;
  const auto run = silu ? backward_rows_of<T, Activation::kSilu> : backward_rows_of<T, Activation::kGelu>;
  run(p, member, begin, end, sums, scratch);
}

template <class T>
constexpr HiddenActivationKernels<T> hidden_activation_kernels() {
  return {hidden_activation_scratch<T>, hidden_activation_rows<T>, hidden_activation_backward_rows<T>};
}

}  // namespace nfkern::NFKERN_ISA

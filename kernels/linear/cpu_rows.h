// A product of rows with a weight.
#pragma once

#include "../simd/panels.h"
#include "../simd/rows.h"
#include "cpu.h"

namespace nfkern::NFKERN_ISA {

// Outputs that are taken at a time, whole tiles of them: their panel stays in the second cache until it is turned
// round.
constexpr int64_t kOutputsTogether = 1200;

// Elements of scratch that `linear_rows` needs for any number of rows.
template <class T>
int64_t linear_scratch(const Linear<T>& p) {
  return (p.depth + kOutputsTogether) * kWidestPanel<T>;
}

template <class T, int N>
void linear_panel(const Linear<T>& p, int64_t row, int64_t count, T* scratch) {
  constexpr int P = N * kLanes<T>;
  T *panel = scratch, *result = scratch + p.depth * P;
  // Rows past the last repeat it.
  const auto from = [&](int64_t i) { return p.x + (row + (i < count ? i : count - 1)) * p.depth; };
  gather_rows<T, N>(p.depth, from, panel, P);
  for (int64_t j = 0; j < p.outputs; j += kOutputsTogether) {
    const int64_t outputs = p.outputs - j < kOutputsTogether ? p.outputs - j : kOutputsTogether;
    multiply<T, T, N>(outputs, p.depth, p.weight + j * p.depth, p.depth, 1, panel, result, P, p.bias + j, false);
    scatter_rows<T, N>(outputs, count, result, [&](int64_t i) { return p.result + (row + i) * p.outputs + j; });
  }
}

// Rows [begin, end).
template <class T>
void linear_rows(const Linear<T>& p, int64_t begin, int64_t end, T* scratch) {
  while (begin < end) {
    const int vectors = next_vectors<T>(end - begin, p.far());
    const int64_t most = columns_of<T>(vectors), count = end - begin < most ? end - begin : most;
    if (vectors == 0) {
      const auto run = p.far() ? dots<T, true> : dots<T>;
      run(p.outputs, p.depth, p.weight, p.x + begin * p.depth, p.bias, p.result + begin * p.outputs);
    } else {
      const auto run = vectors == 2 ? linear_panel<T, 2> : linear_panel<T, 1>;
      run(p, begin, count, scratch);
    }
    begin += count;
  }
}

template <class T>
constexpr LinearKernels<T> linear_kernels() {
  return {linear_scratch<T>, linear_rows<T>};
}

}  // namespace nfkern::NFKERN_ISA

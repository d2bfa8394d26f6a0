// Arguments of the causal affine kernels.
#pragma once

#include <cstdint>

namespace nfkern {

template <class T>
struct CausalAffine {
  int64_t tokens, features, given;  // pairs are `given` per row: as many as tokens, or one less
  bool flipped;
  T scale_bound;               // 0 for none
  const T *x, *pairs;          // (rows, tokens, features), (rows, given, 2, features)
  const T* log_det;            // (rows): forward
  T *z, *total;                // (rows, tokens, features), (rows)
  const T *grad, *grad_total;  // the derivative's: (rows, tokens, features), (rows)
  T *grad_x, *grad_pairs;
};

// The kernels of one instruction set.
template <class T>
struct CausalAffineKernels {
  void (*rows)(const CausalAffine<T>&, int64_t begin, int64_t end);
  void (*backward_rows)(const CausalAffine<T>&, int64_t begin, int64_t end);
};

}  // namespace nfkern

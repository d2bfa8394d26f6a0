// PLU mixing on tensors, in double whatever their dtype: see `reference.py`. Matrices are a few dozen wide at most.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "../dispatch/bindings.h"
#include "../dispatch/runtime.h"
#include "../dispatch/tensors.h"

namespace nfkern {
namespace {

using at::Tensor;

// A square matrix, row by row.
struct Matrix {
  int64_t size;
  std::vector<double> values;

  explicit Matrix(int64_t n) : size(n), values(static_cast<size_t>(n * n)) {}
  double* row(int64_t i) { return values.data() + i * size; }
  const double* row(int64_t i) const { return values.data() + i * size; }
};

// sums (n) += factors[0..3] * rows[0..3]: four at a time, or most of the work would be to load and store sums.
void add_four(int64_t n, const double* factors, const double* rows, double* __restrict sums) {
  const double a = factors[0], b = factors[1], c = factors[2], d = factors[3];
  for (int64_t j = 0; j < n; ++j)
    sums[j] += (a * rows[j] + b * rows[n + j]) + (c * rows[2 * n + j] + d * rows[3 * n + j]);
}

// sums (n) += factors (count) times rows (count, n).
void add_rows(int64_t count, int64_t n, const double* factors, const double* rows, double* __restrict sums) {
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) add_four(n, factors + k, rows + k * n, sums);
  for (; k < count; ++k)
    for (int64_t j = 0; j < n; ++j) sums[j] += factors[k] * rows[k * n + j];
}

// Every product is summed in full, so that what is not a number spreads as it does in the reference.
Matrix operator*(const Matrix& a, const Matrix& b) {
  Matrix result(a.size);
  for (int64_t i = 0; i < a.size; ++i) add_rows(a.size, a.size, a.row(i), b.row(0), result.row(i));
  return result;
}

Matrix transposed(const Matrix& a) {
  Matrix result(a.size);
  for (int64_t i = 0; i < a.size; ++i)
    for (int64_t j = 0; j < a.size; ++j) result.row(j)[i] = a.row(i)[j];
  return result;
}

template <class T>
struct Factors {
  Matrix lower, upper;  // L with its unit diagonal, and U + diag s

  Factors(int64_t n, const T* lu) : lower(n), upper(n) {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) (j < i ? lower : upper).row(i)[j] = static_cast<double>(lu[i * n + j]);
    for (int64_t i = 0; i < n; ++i) lower.row(i)[i] = 1;
  }

  // (P L (U + diag s))^-1: two triangular solves, then a permutation of columns.
  Matrix inverse(const int64_t* permutation) const {
    const int64_t n = lower.size;
    Matrix solved(n), result(n);
    // Each row is what was given, less the rows that are solved, times their factors.
    const auto subtract = [&](int64_t i, const Matrix& factors, int64_t first, int64_t end) {
      std::vector<double> sums(static_cast<size_t>(n));
      add_rows(end - first, n, factors.row(i) + first, solved.row(first), sums.data());
      for (int64_t j = 0; j < n; ++j) solved.row(i)[j] -= sums[static_cast<size_t>(j)];
    };
    for (int64_t i = 0; i < n; ++i) {
      solved.row(i)[i] = 1;
      subtract(i, lower, 0, i);
    }
    for (int64_t i = n - 1; i >= 0; --i) {
      if (i + 1 < n) subtract(i, upper, i + 1, n);
      for (int64_t j = 0; j < n; ++j) solved.row(i)[j] /= upper.row(i)[i];
    }
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) result.row(i)[j] = solved.row(i)[permutation[j]];
    return result;
  }
};

// Indices that can be trusted, (blocks, n).
const int64_t* checked(Pointers<int64_t>& tensors, const Tensor& permutation, int64_t blocks, int64_t n) {
  const int64_t* rows = tensors.pointer("permutation", permutation, {blocks, n});
  for (int64_t k = 0; k < blocks; ++k) {
    std::vector<bool> seen(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = rows[k * n + i];
      TORCH_CHECK_VALUE(0 <= row && row < n && !seen[static_cast<size_t>(row)],
                        "permutation: expected indices from 0 to ", n - 1, ", each once in a block");
      seen[static_cast<size_t>(row)] = true;
    }
  }
  return rows;
}

template <class T>
std::tuple<Tensor, Tensor> compose_of(const Tensor& lu, const Tensor& permutation, bool inverse) {
  const int64_t blocks = lu.size(0), n = lu.size(1);
  Pointers<T> tensors;
  Pointers<int64_t> indices;
  const T* from = tensors.pointer("lu", lu, {blocks, n, n});
  const int64_t* rows = checked(indices, permutation, blocks, n);
  Tensor result = at::empty(lu.sizes(), lu.options());
  T* to = result.data_ptr<T>();
  const pybind11::gil_scoped_release unlocked;
  double log_det = 0;
  for (int64_t k = 0; k < blocks; ++k)
    for (int64_t i = 0; i < n; ++i) log_det += std::log(std::abs(static_cast<double>(from[(k * n + i) * n + i])));
  over_parts(blocks, [&](int64_t k) {
    const Factors<T> factors(n, from + k * n * n);
    const Matrix matrix = inverse ? factors.inverse(rows + k * n) : factors.lower * factors.upper;
    for (int64_t i = 0; i < n; ++i) {
      const double* row = matrix.row(inverse ? i : rows[k * n + i]);
      for (int64_t j = 0; j < n; ++j) to[(k * n + i) * n + j] = static_cast<T>(row[j]);
    }
  });
  return {result, at::scalar_tensor(inverse ? -log_det : log_det, lu.options())};
}

template <class T>
Tensor backward_of(const Tensor& grad, const Tensor& grad_log_det, const Tensor& lu, const Tensor& permutation,
                   bool inverse) {
  const int64_t blocks = lu.size(0), n = lu.size(1);
  Pointers<T> tensors;
  Pointers<int64_t> indices;
  const T* from = tensors.pointer("lu", lu, {blocks, n, n});
  const T* grads = tensors.pointer("grad_matrix", grad, {blocks, n, n});
  const double log_det_grad = *tensors.pointer("grad_log_det", grad_log_det, {}) * (inverse ? -1.0 : 1.0);
  const int64_t* rows = checked(indices, permutation, blocks, n);
  Tensor result = at::empty(lu.sizes(), lu.options());
  T* to = result.data_ptr<T>();
  const pybind11::gil_scoped_release unlocked;
  over_parts(blocks, [&](int64_t k) {
    const Factors<T> factors(n, from + k * n * n);
    Matrix matrix_grad(n), product_grad(n);
    std::copy_n(grads + k * n * n, n * n, matrix_grad.values.begin());
    if (inverse) {
      // d(W^-1) = -W^-1 dW W^-1
      const Matrix turned = transposed(factors.inverse(rows + k * n));
      matrix_grad = turned * matrix_grad * turned;
      for (double& value : matrix_grad.values) value = -value;
    }
    for (int64_t i = 0; i < n; ++i) std::copy_n(matrix_grad.row(i), n, product_grad.row(rows[k * n + i]));
    const Matrix lower_grad = product_grad * transposed(factors.upper);
    const Matrix upper_grad = transposed(factors.lower) * product_grad;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double value = (j < i ? lower_grad : upper_grad).row(i)[j];
        if (i == j) value += log_det_grad / factors.upper.row(i)[i];
        to[(k * n + i) * n + j] = static_cast<T>(value);
      }
  });
  return result;
}

std::tuple<Tensor, Tensor> compose(const Tensor& lu, const Tensor& permutation, bool inverse) {
  const auto run = lu.scalar_type() == at::kDouble ? compose_of<double> : compose_of<float>;
  return run(lu, permutation, inverse);
}

Tensor backward(const Tensor& grad_matrix, const Tensor& grad_log_det, const Tensor& lu, const Tensor& permutation,
                bool inverse) {
  const auto run = lu.scalar_type() == at::kDouble ? backward_of<double> : backward_of<float>;
  return run(grad_matrix, grad_log_det, lu, permutation, inverse);
}

}  // namespace

NFKERN_BINDINGS {
  module.def("plu_compose", compose);
  module.def("plu_compose_backward", backward);
}

}  // namespace nfkern

// The shapes that the kernels rely on.
#pragma once

#include "../native/tensors.h"

namespace nfkern {

// Parameters in the order of `CouplingParameters`.
inline void check_parameters(const std::vector<std::optional<at::Tensor>>& parameters, int64_t blocks,
                             int64_t features) {
  const at::Tensor& hidden = *parameters.at(3);
  TORCH_CHECK_VALUE(hidden.dim() == 4, "hidden_weight: expected (blocks, 2, h2, h1), got ", hidden.sizes());
  const int64_t width1 = hidden.size(3), width2 = hidden.size(2), kept = (features + 1) / 2;
  const auto check = [&](const char* name, size_t which, std::initializer_list<int64_t> expected) {
    if (parameters.at(which)) check_shape(name, *parameters[which], expected);
  };
  check("input_weight", 0, {blocks, 2, width1, kept});
  check("norm1_weight", 1, {blocks, 2, width1});
  check("norm1_bias", 2, {blocks, 2, width1});
  check("hidden_weight", 3, {blocks, 2, width2, width1});
  check("hidden_bias", 4, {blocks, 2, width2});
  check("norm2_weight", 5, {blocks, 2, width2});
  check("norm2_bias", 6, {blocks, 2, width2});
  check("output_weight", 7, {blocks, 2, features - kept, width2});
  check("output_bias", 8, {blocks, 2, features - kept});
}

// (groups, blocks, 2, h1) with groups dividing the rows.
inline void check_context_term(const at::Tensor& term, int64_t rows, int64_t blocks, int64_t width1) {
  TORCH_CHECK_VALUE(term.dim() == 4 && term.size(0) > 0 && rows % term.size(0) == 0,
                    "context_term: expected groups that divide ", rows, " rows, got ", term.sizes());
  check_shape("context_term", term, {term.size(0), blocks, 2, width1});
}

}  // namespace nfkern

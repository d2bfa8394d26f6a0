// The coupling flow's kernels as functions on tensors.
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace nfkern {

void bind_coupling(pybind11::module_& module);

}  // namespace nfkern

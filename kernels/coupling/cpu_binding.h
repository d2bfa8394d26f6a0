// The coupling flow's kernels, as functions on tensors and as a flow for acting.
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace nfkern {

void bind_coupling(pybind11::module_& module);
void bind_acting(pybind11::module_& module);

}  // namespace nfkern

// What the extension module is made of; each ops' kernels as functions on tensors.
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace nfkern {

void bind_runtime(pybind11::module_& module);
void bind_base(pybind11::module_& module);
void bind_causal_affine(pybind11::module_& module);
void bind_linear(pybind11::module_& module);
void bind_plu(pybind11::module_& module);
void bind_causal(pybind11::module_& module);
void bind_coupling(pybind11::module_& module);
void bind_acting(pybind11::module_& module);

}  // namespace nfkern

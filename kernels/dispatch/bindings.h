// Adds a file's functions to the extension module: NFKERN_BINDINGS { module.def(...); }
#pragma once

#include <torch/csrc/utils/pybind.h>

namespace nfkern {

// Made before the module is: a file's functions on tensors.
struct Bindings {
  explicit Bindings(void (*add)(pybind11::module_&));
};

}  // namespace nfkern

#define NFKERN_BINDINGS                                     \
  static void add_bindings(pybind11::module_& module);      \
  static const nfkern::Bindings bindings_of_this_file(add_bindings); \
  static void add_bindings(pybind11::module_& module)

// The extension module: what the files of the ops and of the runtime add to it.
#include <vector>

#include "bindings.h"

namespace nfkern {
namespace {

// In a function, for the files' own initialisation has no order.
std::vector<void (*)(pybind11::module_&)>& files() {
  static std::vector<void (*)(pybind11::module_&)> found;
  return found;
}

}  // namespace

Bindings::Bindings(void (*add)(pybind11::module_&)) { files().push_back(add); }

}  // namespace nfkern

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.doc() = "Native CPU kernels; each op's `op.py` names its own.";
  for (const auto add : nfkern::files()) add(module);
}

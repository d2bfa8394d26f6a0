// The extension module: the machine's best instruction set, threads, and kernels as functions on tensors.
#include "bindings.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.doc() = "Native CPU kernels; see nfkern.kernels.cpu_registration.";
  nfkern::bind_runtime(module);
  nfkern::bind_base(module);
  nfkern::bind_causal_affine(module);
  nfkern::bind_linear(module);
  nfkern::bind_plu(module);
  nfkern::bind_causal(module);
  nfkern::bind_coupling(module);
  nfkern::bind_acting(module);
}

"""Functions on tensors: the flow's ops, each with one definition (`reference.py`) and one registration (`op.py`).

Nothing here knows of modules. A call goes through PyTorch's dispatcher: a kernel where one is registered for the
tensor's device, the reference everywhere else; `use_reference()` sends every call to the reference.
"""

if __name__ != "nfkern.kernels":
    raise ImportError(f"this package is nfkern.kernels, but was imported as {__name__!r}: use `import nfkern.kernels`")

from nfkern.kernels.activation import hidden_activation
from nfkern.kernels.affine import causal_affine
from nfkern.kernels.base import standard_normal_log_prob
from nfkern.kernels.causal import CausalParameters
from nfkern.kernels.coupling import CouplingParameters
from nfkern.kernels.dispatch.registry import backend_reasons, registered_backends, use_reference
from nfkern.kernels.linear import linear
from nfkern.kernels.plu import compose

__all__ = [
    "CausalParameters",
    "CouplingParameters",
    "backend_reasons",
    "causal_affine",
    "compose",
    "hidden_activation",
    "linear",
    "registered_backends",
    "standard_normal_log_prob",
    "use_reference",
]

"""Example arguments of the ops of a hidden layer's activation."""

from nfkern.kernels.dispatch.examples import Examples, normal


def examples(seed: int) -> Examples:
    """Return arguments by op; see `dispatch/examples.py`."""
    new, found = normal(seed), Examples()
    for variant, activation, norm, norm_first in (
        ("", "silu", True, True),
        (" norm last", "gelu", True, False),
        (" without norm", "gelu", False, True),
    ):
        grad, x, bias, *norms = new(6, 5), new(6, 5), new(5), new(5), new(5)
        arguments = (x, bias, *(norms if norm else (None, None)), 1e-5, activation, norm_first)
        found |= {f"hidden_activation{variant}": arguments, f"hidden_activation_backward{variant}": (grad, *arguments)}
    return found

"""Example arguments of the causal affine coupling's ops."""

from nfkern.kernels.dispatch.examples import Examples, normal


def examples(seed: int) -> Examples:
    """Return arguments by op; see `dispatch/examples.py`."""
    new, found = normal(seed), Examples()
    for variant, tokens, features, flipped in (("", 4, 3, True), (" wide", 40, 33, False)):
        event, pairs, log_det = (4, tokens, features), new(4, tokens - 1, 2, features), new(4)
        x, grad = new(event), new(event)
        found |= {
            f"causal_affine{variant}": (x, pairs, log_det, flipped, 1.5),
            f"causal_affine_backward{variant}": (grad, log_det, x, pairs, flipped, 1.5),
        }
    return found

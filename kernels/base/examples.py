"""Example arguments of the base density's ops."""

from nfkern.kernels.dispatch.examples import Examples, normal


def examples(seed: int) -> Examples:
    """Return arguments by op; see `dispatch/examples.py`."""
    new, found = normal(seed), Examples()
    for variant, rows, features in (("", 6, 5), (" wide", 300, 64)):
        z, grad = new(rows, features), new(rows)
        found |= {f"standard_normal_log_prob{variant}": (z,), f"standard_normal_log_prob_backward{variant}": (grad, z)}
    return found

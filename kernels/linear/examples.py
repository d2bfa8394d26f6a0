"""Example arguments of `linear`."""

from nfkern.kernels.dispatch.examples import Examples, normal


def examples(seed: int) -> Examples:
    """Return arguments by op; see `dispatch/examples.py`."""
    new = normal(seed)
    return {"linear": (new(6, 5), new(7, 5), new(7))}

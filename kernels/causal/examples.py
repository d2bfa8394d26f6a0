"""Example arguments of the causal flow's ops."""

from nfkern.kernels.causal.parameters import CausalParameters, shapes
from nfkern.kernels.dispatch.examples import Examples, normal

ROWS, GROUPS, TOKENS, FEATURES, BLOCKS, WIDTH = 4, 2, 4, 3, 3, 16


def examples(seed: int) -> Examples:
    """Return arguments by op; see `dispatch/examples.py`."""
    new, tensors = normal(seed), {}
    for name, shape in shapes(TOKENS + 1, FEATURES, BLOCKS, layers=2, width=WIDTH, hidden=4 * WIDTH).items():
        weight = name.endswith("_weight") and "norm" not in name
        tensors[name] = new(shape) * (0.5 / shape[-1] ** 0.5 if weight else 0.1) + ("norm_weight" in name)
    event, terms = (ROWS, TOKENS, FEATURES), (BLOCKS, WIDTH)
    x, grad, grad_log_det, term = new(event), new(event), new(ROWS), new(GROUPS, *terms)
    rest = (*CausalParameters(**tensors), 2, False, 1e-5, 1.5, None)
    return {
        "causal_flow_to_latent": (x, term, *rest),
        "causal_flow_to_latent kept": (x, term, *rest, True),
        "causal_flow_to_latent_backward": (grad, grad_log_det, new(BLOCKS, *event), term, *rest, True),
        "causal_flow_to_data": (x, term, *rest, new(1, *terms), 0.5, True, None),
        "causal_flow_to_data_with_score": (x, term, *rest),
    }

"""Example arguments of the coupling flow's ops."""

import torch

from nfkern.kernels.coupling.folding import fold
from nfkern.kernels.coupling.parameters import CouplingParameters
from nfkern.kernels.dispatch.examples import Examples, normal
from nfkern.kernels.plu.examples import factors
from nfkern.kernels.plu.reference import compose

ROWS, GROUPS, BLOCKS, FEATURES, WIDTH1, WIDTH2 = 6, 3, 3, 5, 16, 12


def examples(seed: int) -> Examples:
    """Return arguments by op; see `dispatch/examples.py`.

    Variants have folded weights, also with products in bfloat16, or keep hidden units.
    """
    new, pair = normal(seed), (BLOCKS, 2)
    parameters = CouplingParameters(
        input_weight=new(*pair, WIDTH1, (FEATURES + 1) // 2) / 2,
        norm1_weight=1 + new(*pair, WIDTH1) / 8,
        norm1_bias=new(*pair, WIDTH1) / 8,
        hidden_weight=new(*pair, WIDTH2, WIDTH1) / WIDTH1**0.5,
        hidden_bias=new(*pair, WIDTH2) / 8,
        norm2_weight=1 + new(*pair, WIDTH2) / 8,
        norm2_bias=new(*pair, WIDTH2) / 8,
        output_weight=0.3 * new(*pair, FEATURES // 2, WIDTH2) / WIDTH2**0.5,
        output_bias=new(*pair, FEATURES // 2) / 8,
    )
    x, grad, inputs = new(ROWS, FEATURES), new(ROWS, FEATURES), new(BLOCKS, ROWS, FEATURES)
    term, grad_log_det = new(GROUPS, *pair, WIDTH1), new(ROWS)
    mixing, inverse = (compose(*factors(seed, BLOCKS, FEATURES), direction) for direction in (False, True))
    found: Examples = {}
    for variant, weights, compute_dtype in (
        ("", parameters, None),
        (" folded", fold(parameters), None),
        (" folded bfloat16", fold(parameters, torch.bfloat16), torch.bfloat16),
    ):
        rest = (*weights, 1e-5, 1.5, compute_dtype)
        backward = (grad, grad_log_det, inputs, term, mixing[0], *rest)
        ops = {
            "to_latent": (x, term, *mixing, *rest),
            "to_data": (x, term, *inverse, *rest),
            "to_data_with_score": (x, term, mixing[0], *inverse, *rest),
            "to_latent_backward": (*backward, True),
            "to_data_backward": (*backward, False),
        }
        found |= {f"coupling_{name}{variant}": arguments for name, arguments in ops.items()}
    found["coupling_to_data kept"] = (*found["coupling_to_data"], True)
    return found

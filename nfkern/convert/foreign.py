"""Models that nfkern's flows cannot be, known by the names of their arrays."""

import re
from collections.abc import Iterable

_FOREIGN = {
    r"(^|\.)mixing_lu$": "these are nfkern's own weights: the folder with config.json is for from_pretrained",
    r"(^|\.)transforms?\.transforms\.\d+\.(hyper|params|\d+\.hyper)": (
        "this is a flow of zuko, whose networks have no LayerNorm and whose transforms are others: no weights of "
        "nfkern's flows make the same function"
    ),
    r"(^|\.)_transform\._transforms\.\d+\.": (
        "this is a flow of nflows, whose networks are residual or masked and whose scales are sigmoids or splines: "
        "no weights of nfkern's flows make the same function"
    ),
    r"(^|\.)flows\.\d+\.(flows\.\d+\.|param_map|s\.net|t\.net|mprqat|coupling|prqct)": (
        "this is a flow of normflows, whose networks have no LayerNorm: no weights of nfkern's flows make the same "
        "function"
    ),
    r"^(model\.)?(diffusion\.(unet|rgb_encoder)|vae_encoder|backbone\.|paligemma|vlm_with_expert|encoder\.pre_tdmpc)|"
    r"^normalize_(inputs|targets)\.buffer_": (
        "this is a policy of LeRobot (ACT, diffusion, pi0 or another), not a normalizing flow: train one on the same "
        "demonstrations with `nfkern data import` and `nfkern train nf_bc`"
    ),
}


def refuse_foreign(names: Iterable[str]) -> None:
    """Refuse what can be recognised and not converted.

    Raises:
        ValueError: the message says why.
    """
    for name in names:
        for pattern, why in _FOREIGN.items():
            if re.search(pattern, name):
                raise ValueError(f"source: {why} ({name})")

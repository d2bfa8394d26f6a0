"""The optimiser's kernel against its definition in float64."""

from collections.abc import Callable, Iterator

import torch

from nfkern.bench import gate
from nfkern.kernels.adamw import AdamWSettings, adamw_from_factors, reference

Step = Callable[..., torch.Tensor]


def check_optimizer(device: torch.device, step: Step = adamw_from_factors, rows: int = 300) -> Iterator[str]:
    """What is wrong with two steps of hidden weights from factors in each dtype, one line each; twice, bit for bit."""
    generator = torch.Generator().manual_seed(0)

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    lead, width2, width1 = (2, 2), 130, 320
    norms = (new(*lead, width1), new(*lead, width1))
    # Second moments far from 0, where a step amplifies rounding.
    start = (new(*lead, width2, width1), new(*lead, width2, width1), 1 + new(*lead, width2, width1).abs())
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        factors = (new(*lead, rows, width2).to(dtype), new(*lead, rows, width1).to(dtype))

        def run(function: Step, kind: torch.dtype, factors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
            state = [tensor.to(kind, copy=True) for tensor in start]
            for number in (1.0, 2.0):
                rate = torch.tensor(0.01, device=device, dtype=kind)
                settings = AdamWSettings(torch.tensor(number, device=device), rate, 0.9, 0.999, 1e-8, 0.1)
                grad = function(*state, *(norm.to(kind) for norm in norms), *factors, settings)
            return [*state, grad]

        wide, single = (tuple(f.to(kind) for f in factors) for kind in (torch.float64, torch.float32))
        exact = run(reference.adamw_from_factors, torch.float64, wide)
        rounded = run(reference.adamw_from_factors, torch.float32, single)
        found, again = (run(step, torch.float32, factors) for _ in range(2))
        names = ("weight", "first moment", "second moment", "grad of norm_weight")
        for name, f, a, e, r in zip(names, found, again, exact, rounded, strict=True):
            if wrong := gate.disagreement(f"adamw {dtype} {name}", f, e, r, gate.EPSILON["fp32"], rows):
                yield wrong
            if not torch.equal(f, a):
                yield f"adamw {dtype} {name}: a second run gives other bits"

"""Floors, the arithmetic alone: reading the weights once, and the matrix products by torch.mm.

They do a part of the job, so the gate has no say; a row's times are measured against them in the same turns.

`weights_read` is the largest entry of the parameters, taken as 32-bit integers: of PyTorch's and NumPy's sums, maxima,
dot and matrix-vector products within a tenth of the fastest on one thread, and the fastest on two (2026-11, 4 MB).
Between other variants' turns the weights come from the caches, as the flow's own do when it runs again and again.

`gemm` calls torch.mm for the products of both networks in all blocks, into outputs that exist, the first layers' for
both networks at once: forward when acting, with the inputs' gradients for a score, with the weights' for a training
step. Mixing and attention are left out. It is a floor of PyTorch's own products: nfkern's, which are faster, lie below.

A causal flow's inverse reads a block's weights once for each token that moves, and multiplies a batch of single tokens
as often; its density does both once, with all tokens in the batch.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from nfkern import CausalFlow, CouplingFlow
from nfkern.bench.core.declarations import Implementation, Precision, Variant
from nfkern.bench.problems.flow_problem import SEED
from nfkern.kernels.causal.parameters import HIDDEN

Product = tuple[torch.Tensor, torch.Tensor]

_PASSES = {
    **{"log_prob": 1, "inverse": 1, "denoised_action": 2, "training_step": 3},
    **{"causal_log_prob": 1, "causal_inverse": 1, "causal_training_step": 3},
}
"""1 forward, 2 with the inputs' gradients, 3 with the weights' gradients too."""


def _floor(problem: Any, run: Any) -> Implementation:
    """Nothing is right or wrong about a floor, but denormals and NaN would take other times."""

    def check(implementation: Implementation) -> str | None:
        results = implementation(*problem.inputs[0])
        return None if all(bool(result.isfinite().all()) for result in results) else "a floor that is not finite"

    return Implementation(run, check=check)


def _times(work: str, problem: Any) -> int:
    return problem.case.tokens - 1 if work == "causal_inverse" else 1


def _weights_read(dtype: torch.dtype, work: str, problem: Any) -> Implementation:
    flow, times = problem.flow, _times(work, problem)
    parts = [flow.parameters()]
    if work.startswith("causal"):
        parts = [[flow.get_parameter(name)[k] for name in HIDDEN] for k in range(problem.case.blocks)]
    joined = [torch.cat([weight.detach().flatten().to(dtype) for weight in part]) for part in parts]
    buffers = [each.view(torch.uint8)[: each.nbytes // 4 * 4].view(torch.int32) for each in joined]
    return _floor(problem, lambda *_: [torch.amax(words) for words in buffers for _ in range(times)])


def _gemm(dtype: torch.dtype, work: str, problem: Any) -> Implementation:
    times, generator = _times(work, problem), torch.Generator().manual_seed(SEED)
    causal = work.startswith("causal")
    # All tokens that move are in the batch, or one after the other.
    rows = problem.batch * (problem.case.tokens - 1) // times if causal else problem.batch
    products: list[Product] = []
    for weight in (_causal_weights if causal else _weights)(problem.flow):
        inputs = torch.randn(rows, weight.shape[0], generator=generator).to(weight.device, dtype)
        products += _with_gradients(inputs, weight.detach().to(dtype))[: _PASSES[work]]
    outputs = [torch.mm(left, right) for left, right in products]

    def run(*_: torch.Tensor) -> list[torch.Tensor]:
        for _time in range(times):
            for (left, right), output in zip(products, outputs, strict=True):
                torch.mm(left, right, out=output)
        return outputs

    return _floor(problem, run)


def _causal_weights(flow: CausalFlow) -> Iterator[torch.Tensor]:
    for block in range(flow.config["blocks"]):
        for name in HIDDEN:
            yield from (weight.t() for weight in flow.get_parameter(name)[block])


def _weights(flow: CouplingFlow) -> Iterator[torch.Tensor]:
    """Weights (in, out) of every forward product, each in the layout that multiplies faster."""
    context = [] if flow.context_weight is None else [flow.context_weight]
    for block, first in enumerate(torch.cat([flow.input_weight, *context], -1).flatten(1, 2)):
        yield first.t()
        for hidden, output in zip(flow.hidden_weight[block], flow.output_weight[block], strict=True):
            yield hidden.t().contiguous()
            yield output.t()


def _with_gradients(inputs: torch.Tensor, weight: torch.Tensor) -> list[Product]:
    """The product y = x W, then dx = dy W^T, then dW = x^T dy."""
    slope = torch.randn(len(inputs), weight.shape[1], generator=torch.Generator().manual_seed(SEED)).to(inputs)
    return [(inputs, weight), (slope, weight.t()), (inputs.t(), slope)]


def _variant(name: str, summary: str, build: Any, works: list[str], precision: Precision = "fp32") -> Variant:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return Variant(name, summary, {work: partial(build, dtype, work) for work in works}, precision, standing="floor")


_READ = [work for work, passes in _PASSES.items() if passes < 3]
VARIANTS = (
    _variant("weights_read", "reading the weights once", _weights_read, _READ),
    _variant("weights_read_bf16", "reading the weights once in bf16", _weights_read, _READ, "bf16"),
    _variant("gemm", "the matrix products alone, by torch.mm", _gemm, [*_PASSES]),
    _variant("gemm_bf16", "the matrix products alone in bf16", _gemm, [*_PASSES], "bf16"),
)

"""Floors, the arithmetic alone: reading the weights once, and the matrix products by torch.mm.

They do a part of the job, so the gate has no say; a row's times are measured against them in the same turns.

`weights_read` is the largest entry of one buffer as long as all parameters, taken as 32-bit integers. Of PyTorch's and
NumPy's sum, max, dot and matrix-vector products it is within a tenth of the fastest on one thread (2026-11, 4 MB:
46 us, where sums took 54 to 150 us and NumPy's dot 41 us), and the fastest on two (29 us).
In turns with other variants the weights come from the caches, as the flow's own do when it runs again and again.

`gemm` calls torch.mm for the products of both networks in all blocks, into outputs that exist, the first layers' for
both networks at once. An acting flow does them once, a score does their input gradients too, a training step the
weights' gradients as well. Mixing is left out. It is a floor of PyTorch's own products: nfkern's, which are faster, lie
below it from fifty rows on.

A causal flow's inverse reads a block's weights once for each token that moves, and multiplies a batch of single tokens
as often; its density does both once, with all tokens in the batch. Attention is left out.
"""

from collections.abc import Mapping
from functools import partial

import torch

from nfkern.bench.core.declarations import Builder, Implementation
from nfkern.bench.problems.causal_problem import CausalProblem
from nfkern.bench.problems.flow_problem import SEED, FlowProblem
from nfkern.kernels import CausalParameters
from nfkern.kernels.causal.parameters import HIDDEN


def _finite(implementation: Implementation, problem: FlowProblem | CausalProblem) -> str | None:
    """Nothing is right or wrong about a floor, but denormals and NaN would take other times."""
    results = implementation(*problem.inputs[0])
    return None if all(bool(result.isfinite().all()) for result in results) else "a floor that is not finite"


def weights_read(problem: FlowProblem, dtype: torch.dtype) -> Implementation:
    """The largest of the parameters' bits, in one pass."""
    weights = torch.cat([parameter.detach().flatten().to(dtype) for parameter in problem.flow.parameters()])
    words = weights.view(torch.uint8)[: weights.nbytes // 4 * 4].view(torch.int32)
    return Implementation(lambda *_: (torch.amax(words),), check=lambda it: _finite(it, problem))


def causal_weights_read(problem: CausalProblem, dtype: torch.dtype, times: int) -> Implementation:
    """The largest bits of each block's layers' weights, block after block, `times` in a row."""
    blocks = []
    for block in CausalParameters(*(getattr(problem.flow, name) for name in CausalParameters._fields)).blocks():
        weights = torch.cat([getattr(block, name).detach().flatten().to(dtype) for name in HIDDEN])
        blocks.append(weights.view(torch.int32))

    def run(*_: torch.Tensor) -> list[torch.Tensor]:
        return [torch.amax(words) for words in blocks for _ in range(times)]

    return Implementation(run, check=lambda it: _finite(it, problem))


Product = tuple[torch.Tensor, torch.Tensor]


def gemm(problem: FlowProblem, dtype: torch.dtype, passes: int) -> Implementation:
    """The products; 1 pass forward, 2 with the inputs' gradients, 3 with the weights' gradients too."""
    return _multiplied(problem, _layers(problem, dtype), passes, 1)


def causal_gemm(problem: CausalProblem, dtype: torch.dtype, passes: int, by_token: bool) -> Implementation:
    """The same of a causal flow's layers, of all tokens at once or of one after the other."""
    moved, flow, generator = problem.case.tokens - 1, problem.flow, torch.Generator().manual_seed(SEED)
    rows, times = (problem.batch, moved) if by_token else (problem.batch * moved, 1)

    def layer(weight: torch.Tensor) -> Product:
        inputs = torch.randn(rows, weight.shape[1], generator=generator).to(weight.device, dtype)
        return inputs, weight.detach().to(dtype).t()

    weights = [flow.get_parameter(name)[k] for k in range(problem.case.blocks) for name in HIDDEN]
    return _multiplied(problem, [layer(weight) for stacked in weights for weight in stacked], passes, times)


def _multiplied(problem: FlowProblem | CausalProblem, layers: list[Product], passes: int, times: int) -> Implementation:
    products = [product for layer in layers for product in _with_gradients(*layer)[:passes]]
    outputs = [torch.mm(left, right) for left, right in products]

    def run(*_: torch.Tensor) -> list[torch.Tensor]:
        for _time in range(times):
            for (left, right), output in zip(products, outputs, strict=True):
                torch.mm(left, right, out=output)
        return outputs

    return Implementation(run, check=lambda it: _finite(it, problem))


def _layers(problem: FlowProblem, dtype: torch.dtype) -> list[Product]:
    """Inputs (batch, in) and weights (in, out) of every forward product, each in the layout that multiplies faster."""
    case, generator, device = problem.case, torch.Generator().manual_seed(SEED), problem.inputs[0][0].device
    kept, (first, second) = (case.features + 1) // 2, case.hidden

    def made(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    found = []
    for _ in range(case.blocks):
        inputs = kept + case.context_features
        found.append((made(problem.batch, inputs), made(2 * first, inputs).t()))
        for _ in ("log_scale", "shift"):
            found.append((made(problem.batch, first), made(first, second)))
            found.append((made(problem.batch, second), made(case.features - kept, second).t()))
    return found


def _with_gradients(inputs: torch.Tensor, weight: torch.Tensor) -> list[Product]:
    """The product y = x W, then dx = dy W^T, then dW = x^T dy."""
    slope = torch.randn(len(inputs), weight.shape[1], generator=torch.Generator().manual_seed(SEED)).to(inputs)
    return [(inputs, weight), (slope, weight.t()), (inputs.t(), slope)]


_PASSES = {"log_prob": 1, "inverse": 1, "denoised_action": 2, "training_step": 3}
_CAUSAL_PASSES = {"causal_log_prob": 1, "causal_inverse": 1, "causal_training_step": 3}


def _gemm_builders(dtype: torch.dtype) -> Mapping[str, Builder]:
    builders: dict[str, Builder] = {work: partial(gemm, dtype=dtype, passes=passes) for work, passes in _PASSES.items()}
    for work, passes in _CAUSAL_PASSES.items():
        builders[work] = partial(causal_gemm, dtype=dtype, passes=passes, by_token=work == "causal_inverse")
    return builders


def _reading_builders(dtype: torch.dtype) -> Mapping[str, Builder]:
    def by_token(problem: CausalProblem) -> Implementation:
        return causal_weights_read(problem, dtype, problem.case.tokens - 1)

    return {
        **dict.fromkeys(("log_prob", "inverse", "denoised_action"), partial(weights_read, dtype=dtype)),
        "causal_log_prob": partial(causal_weights_read, dtype=dtype, times=1),
        "causal_inverse": by_token,
    }


GEMM_BUILDERS = _gemm_builders(torch.float32)
GEMM_BF16_BUILDERS = _gemm_builders(torch.bfloat16)
READING_BUILDERS = _reading_builders(torch.float32)
READING_BF16_BUILDERS = _reading_builders(torch.bfloat16)

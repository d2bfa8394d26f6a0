"""Flows of the same size from the packages nflows and normflows.

nflows: every block is its LU-parametrised mixing and its affine coupling, with two networks of nfkern's widths in place
of one that would give shift and scale together. Its scales are bounded, 1e-3 to 1.001.

normflows has no affine coupling with a context. Every block is its LU mixing with a permutation and its coupling by
rational-quadratic splines, whose residual network is as wide as makes the number of parameters nfkern's, within 1 %.

The context is concatenated, weights are the packages' own random ones. While it acts, nflows keeps the matrices of its
mixing and their inverses. normflows 1.7.3 cannot: its inverse calls a function that PyTorch no longer has.
"""

import warnings
from functools import partial

import torch
from torch import nn

from nfkern.bench.core.cases import FlowCase
from nfkern.bench.problems.flow_problem import SEED
from nfkern.bench.rivals.same_size import Library, Pair, variants, widened


class _Nflows(Library):
    def to_latent(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.flow._transform(x, context)[0]
        return z

    def to_data(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, log_det = self.flow._transform.inverse(z, context)
        return x, log_det


class _Normflows(Library):
    def to_latent(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.flow.inverse_and_log_det(x, context)[0]
        return z

    def to_data(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, log_det = self.flow.forward_and_log_det(z, context)
        return x, log_det


class _Conditioner(nn.Module):
    """Two networks of the case's widths on [kept features, context], as nflows calls one."""

    def __init__(self, inputs: int, outputs: int, case: FlowCase) -> None:
        super().__init__()

        def network() -> nn.Sequential:
            first, second = case.hidden
            return nn.Sequential(
                *(nn.Linear(inputs + case.context_features, first), nn.LeakyReLU(0.01), nn.LayerNorm(first)),
                *(nn.Linear(first, second), nn.LeakyReLU(0.01), nn.LayerNorm(second)),
                nn.Linear(second, outputs // 2),
            )

        self.pair = Pair(network(), network())

    def forward(self, inputs: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        # nflows wants all shifts and then all scales.
        in_turns: torch.Tensor = self.pair(torch.cat([inputs, context], 1))
        shifts_first: torch.Tensor = in_turns.unflatten(-1, (-1, 2)).mT.flatten(-2)
        return shifts_first


def nflows_flow(case: FlowCase) -> Library:
    """A flow of the case's shape, the same at every call."""
    from nflows.distributions.normal import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import AffineCouplingTransform, CompositeTransform, LULinear

    # Positive entries are transformed.
    mask = torch.arange(case.features) >= (case.features + 1) // 2
    transforms: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for _ in range(case.blocks):
            coupling = AffineCouplingTransform(mask.int(), partial(_Conditioner, case=case))
            transforms += [LULinear(case.features, using_cache=True, identity_init=False), coupling]
    flow = _Nflows(Flow(CompositeTransform(transforms), StandardNormal([case.features])))
    with warnings.catch_warnings(), torch.no_grad():
        # PyTorch says once in a process that a function is deprecated which nflows 0.14 calls to invert its mixing.
        warnings.filterwarnings("ignore", message="torch.triangular_solve is deprecated")
        flow.to_data(torch.zeros(1, case.features), torch.zeros(1, case.context_features))
    return flow


def normflows_flow(case: FlowCase) -> Library:
    """A flow of about the case's number of parameters, the same at every call."""
    flow: Library = widened(partial(_spline_flow, case), case)
    return flow


def _spline_flow(case: FlowCase, width: int) -> Library:
    import normflows

    flows: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for _ in range(case.blocks):
            spline = normflows.flows.CoupledRationalQuadraticSpline(
                case.features, 1, width, num_context_channels=case.context_features
            )
            flows += [spline, normflows.flows.LULinearPermute(case.features, identity_init=False)]
    base = normflows.distributions.DiagGaussian(case.features, trainable=False)
    return _Normflows(normflows.ConditionalNormalizingFlow(base, flows))


VARIANTS = (
    *variants("nflows", "nflows' coupling flow of this size", nflows_flow),
    # PyTorch 2.13 compiles wrong gradients of splines, as said of zuko's.
    *variants("normflows", "normflows' spline coupling flow of this size", normflows_flow, ("log_prob", "inverse")),
)

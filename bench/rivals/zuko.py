"""Flows of the same size from the package zuko: of affine couplings, and of splines.

Affine: every block is an LU-parametrised mixing and zuko's affine coupling transform, whose network is replaced by two
of zuko's MLPs of nfkern's widths: left alone, one network would give shift and scale, with half the weights.
Differences that remain: LayerNorm has no weights, log-scales are softly bounded, and the inverse solves its triangular
systems at every call.

Splines: zuko's `NSF` in its coupling form, whose inverse takes two passes instead of one for each number. Its masked
networks are as wide as makes the number of parameters nfkern's, within 1 %; nearly a quarter of them are masked to
zero, and multiplied all the same.

The context is concatenated, weights are zuko's own random ones. The inverse's log-determinant, in zuko, is that of the
way back: where it is asked for, as in the work `inverse`, every network is evaluated twice.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nfkern.bench.core.cases import FlowCase
from nfkern.bench.problems.flow_problem import SEED
from nfkern.bench.rivals.same_size import Library, Pair, variants, widened


class _Zuko(Library):
    def to_latent(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        z: torch.Tensor = self.flow.transform(context)(x)
        return z

    def to_data(self, z: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, log_det = self.flow.transform(context).inv.call_and_ladj(z)
        return x, log_det

    def log_prob(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        log_prob: torch.Tensor = self.flow(context).log_prob(x)
        return log_prob

    def sampled(
        self, z: torch.Tensor, context: torch.Tensor
    ) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        distribution = self.flow(context)
        return distribution.transform.inv(z), distribution.log_prob


def zuko_flow(case: FlowCase) -> Library:
    """A `zuko.flows.Flow` of the case's shape, the same at every call."""
    from zuko.distributions import DiagNormal
    from zuko.flows import Flow, GeneralCouplingTransform
    from zuko.lazy import UnconditionalDistribution, UnconditionalTransform
    from zuko.nn import MLP
    from zuko.transforms import LULinearTransform

    kept = (case.features + 1) // 2
    options = {"hidden_features": case.hidden, "activation": partial(nn.LeakyReLU, 0.01), "normalize": True}
    transforms = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for _ in range(case.blocks):
            # Near the identity: products of a dozen wilder ones throw samples so far that training them is chaotic.
            matrix = torch.eye(case.features) + 0.1 * torch.randn(case.features, case.features) / case.features**0.5
            coupling = GeneralCouplingTransform(
                case.features, case.context_features, mask=torch.arange(case.features) < kept
            )
            sizes = (kept + case.context_features, case.features - kept)
            coupling.hyper = Pair(MLP(*sizes, **options), MLP(*sizes, **options))
            transforms += [UnconditionalTransform(LULinearTransform, matrix), coupling]
    standard = torch.zeros(case.features), torch.ones(case.features)
    return _Zuko(Flow(transforms, UnconditionalDistribution(DiagNormal, *standard, buffer=True)))


def zuko_nsf_flow(case: FlowCase) -> Library:
    """A `zuko.flows.NSF` of about the case's number of parameters, the same at every call."""
    flow: Library = widened(partial(_spline_flow, case), case)
    return flow


def _spline_flow(case: FlowCase, width: int) -> Library:
    from zuko.flows import NSF

    sizes = {"transforms": case.blocks, "hidden_features": (width, width)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return _Zuko(NSF(case.features, case.context_features, passes=2, **sizes))


VARIANTS = (
    *variants("zuko", "zuko's coupling flow of this size", zuko_flow),
    # Of splines PyTorch 2.13 compiles wrong gradients for CPUs, off by up to 37 % of a tensor's largest.
    *variants("zuko_nsf", "zuko's neural spline flow of this size, couplings", zuko_nsf_flow, ("log_prob", "inverse")),
)

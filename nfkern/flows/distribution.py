"""A flow under one context, as a `torch.distributions.Distribution`."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from torch.distributions import Distribution, constraints, register_kl

from nfkern.flows.context import ProjectedContext

if TYPE_CHECKING:
    from nfkern.flows.flow import Flow

SampleShape = int | Sequence[int]


class FlowDistribution(Distribution):
    """p(. | context) of a flow: a thin view that shares the flow's parameters and projects the context once.

    Make one with `flow.condition(context)`. It is valid until the flow's parameters change. Mean, mode, variance and
    entropy of a flow have no closed form: asking for one is an error that says what to do instead.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, flow: "Flow", projected: ProjectedContext) -> None:
        super().__init__(torch.Size(projected.batch_shape), torch.Size(flow.event_shape), validate_args=False)
        self.flow = flow
        self.has_rsample = flow.reparameterized
        self.projected = projected

    def __repr__(self) -> str:
        shapes = f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)}"
        return f"{type(self).__name__}({type(self.flow).__name__}, {shapes})"

    @property
    def support(self) -> constraints.Constraint:
        """Real numbers, or the box of a bounded flow."""
        each = constraints.real if self.flow.bounds is None else constraints.interval(-1.0, 1.0)
        return constraints.independent(each, len(self.flow.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: "FlowDistribution | None" = None) -> "FlowDistribution":
        """The distribution with its batch broadcast to `batch_shape`; the projected context is copied.

        Raises:
            ValueError: the batch does not broadcast to that shape.
        """
        new = self._get_checked_instance(FlowDistribution, _instance)  # type: ignore[no-untyped-call]
        batch_shape, term = tuple(batch_shape), self.projected.term
        by_batch = term.reshape(*self.projected.batch_shape, *term.shape[1:])
        try:
            expanded = by_batch.expand(*batch_shape, *term.shape[1:])
        except RuntimeError:
            raise ValueError(
                f"batch_shape: expected one that {tuple(self.batch_shape)} broadcasts to, got {batch_shape}"
            ) from None
        projected = ProjectedContext(expanded.reshape(math.prod(batch_shape), *term.shape[1:]), batch_shape)
        FlowDistribution.__init__(new, self.flow, projected)
        found: FlowDistribution = new
        return found

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-density in nats: (*batch, *event) -> (*batch)."""
        return self.flow.log_prob(value, self.projected)

    def score(self, value: torch.Tensor) -> torch.Tensor:
        """Gradient of the log-density: (*batch, *event) -> (*batch, *event)."""
        return self.flow.score(value, self.projected)

    def sample(self, sample_shape: SampleShape = (), **options: Any) -> torch.Tensor:
        """Samples without gradient, sample_shape + batch_shape + event_shape; options of `Flow.rsample`.

        `sample_shape` is a sequence of ints, or one int n for (n,).
        """
        return self.flow.sample(_shape(sample_shape), self.projected, **options)

    def rsample(self, sample_shape: SampleShape = (), **options: Any) -> torch.Tensor:
        """Samples with gradient; as `sample`."""
        return self.flow.rsample(_shape(sample_shape), self.projected, **options)

    def rsample_and_log_prob(self, sample_shape: SampleShape = (), **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples and their log-probability in one pass; as `sample`."""
        return self.flow.rsample_and_log_prob(_shape(sample_shape), self.projected, **options)

    def sample_denoised(self, sigma: float, sample_shape: SampleShape = (), **options: Any) -> torch.Tensor:
        """Samples after one denoising step; as `sample`."""
        return self.flow.sample_denoised(sigma, _shape(sample_shape), self.projected, **options)

    @property
    def deterministic_sample(self) -> torch.Tensor:
        """What z = 0 decodes to, batch_shape + event_shape: TorchRL's deterministic action. It is not the mode."""
        draw = self.rsample if self.has_rsample else self.sample
        return draw(deterministic=True)

    @property
    def mode(self) -> torch.Tensor:
        """Not defined in closed form."""
        _refuse("mode", "deterministic_sample for z = 0 decoded, or the best of several samples by log_prob")

    @property
    def mean(self) -> torch.Tensor:
        """Not defined in closed form."""
        _refuse("mean", "sample((1000,)).mean(0), or deterministic_sample for z = 0 decoded")

    @property
    def variance(self) -> torch.Tensor:
        """Not defined in closed form."""
        _refuse("variance", "sample((1000,)).var(0)")

    def entropy(self) -> torch.Tensor:
        """Not defined in closed form."""
        _refuse("entropy", "-rsample_and_log_prob((1000,))[1].mean(0)")


def _kl(p: Distribution, q: Distribution) -> NoReturn:
    """Not defined in closed form."""
    _refuse("kl_divergence", "x = p.sample((1000,)), and (p.log_prob(x) - q.log_prob(x)).mean(0)")


for _pair in ((FlowDistribution, FlowDistribution), (FlowDistribution, Distribution), (Distribution, FlowDistribution)):
    register_kl(*_pair)(_kl)


def _refuse(name: str, instead: str) -> NoReturn:
    raise NotImplementedError(f"{name}: a flow has none in closed form; take {instead}")


def _shape(sample_shape: Any) -> tuple[int, ...]:
    try:
        return tuple(sample_shape)
    except TypeError:
        return (sample_shape,)

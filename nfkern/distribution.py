"""A flow under one context, as a `torch.distributions.Distribution`."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.distributions import Distribution, constraints

from nfkern.context import ProjectedContext

if TYPE_CHECKING:
    from nfkern.flow import Flow


class FlowDistribution(Distribution):
    """p(. | context) of a flow: a thin view that shares the flow's parameters and projects the context once.

    Make one with `flow.condition(context)`. It is valid until the flow's parameters change.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, flow: "Flow", projected: ProjectedContext) -> None:
        super().__init__(torch.Size(projected.batch_shape), torch.Size(flow.event_shape), validate_args=False)
        self.flow = flow
        self.has_rsample = flow.reparameterized
        self.projected = projected

    @property
    def support(self) -> constraints.Constraint:
        """Real numbers, or the box of a bounded flow."""
        each = constraints.real if self.flow.bounds is None else constraints.interval(-1.0, 1.0)
        return constraints.independent(each, len(self.flow.event_shape))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-density in nats: (*batch, *event) -> (*batch)."""
        return self.flow.log_prob(value, self.projected)

    def score(self, value: torch.Tensor) -> torch.Tensor:
        """Gradient of the log-density: (*batch, *event) -> (*batch, *event)."""
        return self.flow.score(value, self.projected)

    def sample(self, sample_shape: tuple[int, ...] = (), **options: Any) -> torch.Tensor:  # type: ignore[override]
        """Samples without gradient, sample_shape + batch_shape + event_shape; options of `Flow.rsample`."""
        return self.flow.sample(tuple(sample_shape), self.projected, **options)

    def rsample(self, sample_shape: tuple[int, ...] = (), **options: Any) -> torch.Tensor:  # type: ignore[override]
        """Samples with gradient; as `sample`."""
        return self.flow.rsample(tuple(sample_shape), self.projected, **options)

    def rsample_and_log_prob(
        self, sample_shape: tuple[int, ...] = (), **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples and their log-probability in one pass; as `sample`."""
        return self.flow.rsample_and_log_prob(tuple(sample_shape), self.projected, **options)

    def sample_denoised(self, sigma: float, sample_shape: tuple[int, ...] = (), **options: Any) -> torch.Tensor:
        """Samples after one denoising step; as `sample`."""
        return self.flow.sample_denoised(sigma, tuple(sample_shape), self.projected, **options)

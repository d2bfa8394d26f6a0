"""p(. | context) of a flow, as a distribution of torch."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn, Protocol

import torch
from torch.distributions import Distribution, constraints, register_kl

from nfkern.arguments import whole
from nfkern.flows.context import ProjectedContext
from nfkern.flows.data_map import DataMap
from nfkern.flows.noise import as_shape, expanded_sizes

SampleShape = int | Sequence[int]
Draw = Callable[..., torch.Tensor]


class _Conditional(Protocol):
    """What a distribution needs of a `nfkern.Flow`, which imports this module."""

    event_shape: tuple[int, ...]
    reparameterized: ClassVar[bool]

    @property
    def log_prob(self) -> Draw: ...
    @property
    def score(self) -> Draw: ...
    @property
    def sample(self) -> Draw: ...
    @property
    def rsample(self) -> Draw: ...
    @property
    def sample_denoised(self) -> Draw: ...
    @property
    def rsample_and_log_prob(self) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]: ...
    def _data_map(self) -> DataMap | None: ...


class FlowDistribution(Distribution):
    """p(. | context) of a flow: a thin view that shares the flow's parameters and projects the context once.

    Make one with `flow.condition(context)`. It is valid until the flow's parameters change. Mean, mode and variance of
    a flow have no closed form: asking for one is an error that says what to do instead. `entropy` is an estimate.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, flow: _Conditional, projected: ProjectedContext) -> None:
        super().__init__(torch.Size(projected.batch_shape), torch.Size(flow.event_shape), validate_args=False)
        self.flow = flow
        self.has_rsample = flow.reparameterized
        self.projected = projected

    def __repr__(self) -> str:
        shapes = f"batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)}"
        return f"{type(self).__name__}({type(self.flow).__name__}, {shapes})"

    @property
    def support(self) -> constraints.Constraint:
        """Real numbers, or those within the flow's bounds."""
        data_map = self.flow._data_map()
        each: constraints.Constraint = constraints.real
        if data_map is not None and data_map.bounds is not None:
            low, high = (-1.0, 1.0) if data_map.numbers is None else data_map.numbers[2:]
            each = constraints.interval(low, high)
        return constraints.independent(each, len(self.flow.event_shape))

    def expand(self, batch_shape: SampleShape, _instance: "FlowDistribution | None" = None) -> "FlowDistribution":
        """The distribution with its batch broadcast to `batch_shape`; the projected context is copied.

        `batch_shape` is as in `torch.Tensor.expand`: a sequence of ints, or one; -1 for a size of the batch's own.

        Raises:
            ValueError: the batch does not broadcast to that shape.
            TypeError: it is no shape.
        """
        new = self._get_checked_instance(FlowDistribution, _instance)  # type: ignore[no-untyped-call]
        batch_shape, term = expanded_sizes(batch_shape, self.batch_shape), self.projected.term
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
        return self.flow.sample(as_shape(sample_shape), self.projected, **options)

    def rsample(self, sample_shape: SampleShape = (), **options: Any) -> torch.Tensor:
        """Samples with gradient; as `sample`."""
        return self.flow.rsample(as_shape(sample_shape), self.projected, **options)

    def rsample_and_log_prob(self, sample_shape: SampleShape = (), **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples and their log-probability in one pass; as `sample`."""
        return self.flow.rsample_and_log_prob(as_shape(sample_shape), self.projected, **options)

    def sample_denoised(self, sigma: float, sample_shape: SampleShape = (), **options: Any) -> torch.Tensor:
        """Samples after one denoising step; as `sample`."""
        return self.flow.sample_denoised(sigma, as_shape(sample_shape), self.projected, **options)

    @property
    def deterministic_sample(self) -> torch.Tensor:
        """Data of z = 0, batch_shape + event_shape: TorchRL's deterministic action.

        It is one action of the policy, the image of the most probable noise; neither the mode nor the mean of actions.
        Of a distribution with several modes it may lie between them. Among samples, the best by `log_prob` or by a
        critic is a better action.
        """
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

    def entropy(self, samples: int = 1) -> torch.Tensor:
        """Estimate of the entropy from so many samples, (*batch), in nats, with gradients if samples have them.

        A flow has none in closed form. The estimate is unbiased, and its error falls with the root of `samples`: one is
        enough for a bonus in a loss, averaged over a batch. It is an estimate and no error by default because libraries
        take a distribution with this method for one that knows its entropy.

        Raises:
            ValueError: `samples` is below 1.
        """
        shape = (whole("samples", samples, 1),)
        if self.has_rsample:
            return -self.rsample_and_log_prob(shape)[1].mean(0)
        # Of samples without gradients, the density's gradient is not the entropy's.
        return -self.log_prob(self.sample(shape)).mean(0).detach()

    def cdf(self, value: torch.Tensor) -> torch.Tensor:
        """Not defined in closed form."""
        _refuse("cdf", "(sample((1000,)) <= value).all(-1).float().mean(0)")

    def icdf(self, value: torch.Tensor) -> torch.Tensor:
        """Not defined in closed form."""
        _refuse("icdf", "sample((1000,)).quantile(q, 0) for each feature, or flow.to_data for the map from noise")

    def enumerate_support(self, expand: bool = True) -> torch.Tensor:
        """Not defined: the support is not discrete."""
        _refuse("enumerate_support", "sample((1000,)): the support is continuous")


def _kl(p: Distribution, q: Distribution) -> NoReturn:
    """Not defined in closed form."""
    _refuse("kl_divergence", "x = p.sample((1000,)), and (p.log_prob(x) - q.log_prob(x)).mean(0)")


for _pair in ((FlowDistribution, FlowDistribution), (FlowDistribution, Distribution), (Distribution, FlowDistribution)):
    register_kl(*_pair)(_kl)


def _refuse(name: str, instead: str) -> NoReturn:
    raise NotImplementedError(f"{name}: a flow has none in closed form; take {instead}")

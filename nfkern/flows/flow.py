"""Base classes of conditional flows: densities, samples and scores over any batch shape."""

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import singledispatch
from itertools import chain
from typing import Any, ClassVar, Literal, NoReturn, Self

import numpy as np
import torch
from torch import nn
from torch.distributions import Distribution, constraints, register_kl

from nfkern.arguments import number, shape_of, whole
from nfkern.checkpoint import Pretrained, refuse_shards
from nfkern.flows import bounds as tanh_bounds
from nfkern.flows.context import Arrangement, ProjectedContext, autocast_on
from nfkern.flows.derivatives import readable, without_derivatives
from nfkern.flows.noise import as_shape, expanded_sizes, given_or_drawn, sizes
from nfkern.kernels import standard_normal_log_prob

Context = torch.Tensor | ProjectedContext | None
SampleShape = int | Sequence[int]

Map = Literal["log_prob", "to_latent", "score", "to_data", "to_data_with_score"]
"""Maps of rows that the calls of a flow come down to; a frozen flow has faster ways for some of them."""
ARGUMENT: dict[Map, str] = {"log_prob": "x", "to_latent": "x", "score": "x", "to_data": "z", "to_data_with_score": "z"}
"""Name of the events that a map takes: x for data, z for noise."""


class Flow(Pretrained, nn.Module, ABC):
    """Base of the flows. A subclass adds its parameters and the maps between rows of data and noise.

    Shape law: everything is `sample_shape + batch_shape + event_shape`, and the event is (features,) or, of a flow over
    tokens, (tokens, features); batch shapes of events and contexts broadcast. The base density is N(0, I);
    log-determinants and log-probabilities are in nats, summed over the event.
    """

    dtypes: ClassVar = (torch.float32, torch.float64)
    reparameterized: ClassVar[bool] = True
    """Whether samples have gradients."""

    def __init__(
        self,
        event_shape: tuple[int, ...],
        context_features: int,
        *,
        bounds: Literal["tanh"] | None,
        context_dropout: float,
    ) -> None:
        super().__init__()
        if bounds not in (None, "tanh"):
            raise ValueError(f"bounds: expected None or 'tanh', got {bounds!r}")
        self.event_shape = event_shape
        self.features = event_shape[-1]
        self.context_features = whole("context_features", context_features)
        self.bounds = bounds
        self.context_dropout = number("context_dropout", context_dropout, "a probability in [0, 1)", 1)

    def forward(self, x: torch.Tensor, context: Context = None) -> torch.Tensor:
        """Return `log_prob`: DDP, autocast, compile and export go through here."""
        return self.log_prob(x, context)

    def log_prob(self, x: torch.Tensor, context: Context = None) -> torch.Tensor:
        """Log-density of x, in nats.

        In training mode each context is dropped (replaced by none) with probability `context_dropout`.

        Args:
            x: (*batch, *event).
            context: (*batch, context_features), broadcasting against x; None for an unconditional flow, or for the
                marginal of a flow trained with `context_dropout`.

        Returns:
            (*batch).

        Raises:
            ValueError: a shape does not fit, a context is missing or unwanted, or a parameter is NaN.
            TypeError: a dtype or device differs from the parameters'.
        """
        (log_prob,) = self._run("log_prob", x, context, dropout=self.training)
        return log_prob

    def to_latent(self, x: torch.Tensor, context: Context = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Data to noise: z (*batch, *event) and log|det dz/dx| (*batch); arguments and errors of `log_prob`."""
        z, log_det = self._run("to_latent", x, context)
        return z, log_det

    def to_data(self, z: torch.Tensor, context: Context = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise to data: x (*batch, *event) and log|det dx/dz| (*batch); arguments and errors of `log_prob`."""
        x, log_det = self._run("to_data", z, context)
        return x, log_det

    def score(self, x: torch.Tensor, context: Context = None) -> torch.Tensor:
        """grad_x log p(x), (*batch, *event): analytic, needs no autograd and is not differentiable."""
        with torch.no_grad():
            results = self._run("score", x, context)
        instead = "it is not differentiable; take torch.func.hessian of log_prob"
        (score,) = self._constant(f"score: {instead}", results, x, context)
        return score

    def sample(self, sample_shape: tuple[int, ...] = (), context: Context = None, **options: Any) -> torch.Tensor:
        """Draw samples without gradient; options as in `rsample`."""
        with torch.no_grad():
            x = self.rsample(sample_shape, context, **options)
        (x,) = self._constant("sample: it has no derivatives; use rsample", (x,), context, options.get("noise"))
        return x

    def rsample(self, sample_shape: tuple[int, ...] = (), context: Context = None, **options: Any) -> torch.Tensor:
        """Draw samples with gradients of context and parameters.

        Args:
            sample_shape: leading shape of the result, a tuple or list; one sample per context by default.
            context: as in `log_prob`.
            **options: `noise` (sample_shape + batch_shape + event_shape) instead of fresh noise; `generator`;
                `temperature` (1.0), the standard deviation of fresh noise; `deterministic` (False), decode z = 0, which
                is not the mode.

        Returns:
            sample_shape + batch_shape + event_shape.
        """
        z, options = self._noise(sample_shape, context, **options)
        return self.to_data(z, context, **options)[0]

    def rsample_and_log_prob(
        self, sample_shape: tuple[int, ...] = (), context: Context = None, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples and their log-probability in one pass, differentiable in both; arguments of `rsample`.

        Returns:
            sample_shape + batch_shape + event_shape, and sample_shape + batch_shape in nats.
        """
        z, options = self._noise(sample_shape, context, **options)
        x, log_det = self.to_data(z, context, **options)
        return x, standard_normal_log_prob(z.flatten(-len(self.event_shape))) - log_det

    def sample_denoised(
        self, sigma: float, sample_shape: tuple[int, ...] = (), context: Context = None, **options: Any
    ) -> torch.Tensor:
        """Samples moved by one denoising step, `x + sigma^2 grad_x log p(x)`: the paper's action at test time.

        The posterior mean of clean data under a flow trained on data with N(0, sigma^2) noise (Tweedie). Arguments of
        `rsample`; sigma in the units of x. With guidance the step is that of the flow without it, as published.

        Raises:
            ValueError: sigma is negative, or the flow has `bounds`: noised data leave them, so there is no such mean.
        """
        if self.bounds is not None:
            raise ValueError(f"bounds: expected None for denoising, got {self.bounds!r}: noised data leave them")
        sigma, given = number("sigma", sigma), options.get("noise")
        with torch.no_grad():
            z, options = self._noise(sample_shape, context, **options)
            if options:
                x, _ = self.to_data(z, context, **options)
                score = self.score(x, context)
            else:
                x, _, score = self._run("to_data_with_score", z, context)
            # Not `torch.add` with alpha, which Inductor 2.13 drops after a product.
            x = x + sigma**2 * score
        (x,) = self._constant("sample_denoised: it has no derivatives; use rsample", (x,), context, given)
        return x

    def condition(self, context: Context = None) -> "FlowDistribution":
        """p(. | context) as a `torch.distributions.Distribution`; the context is projected once."""
        return FlowDistribution(self, self._project(context))

    def freeze(self, dtype: torch.dtype | None = None, encoder: nn.Module | None = None) -> "ActingFlow":
        """A copy for acting, such as a `FrozenFlow`: the same calls without autograd, and `act`.

        Args:
            dtype: of the hidden weights, float32, bfloat16, float16 or float64, or int8 for a coupling flow on a CPU;
                None for the flow's own. With 16 bits or int8 all else is float32.
            encoder: a module from observations (*batch, in_features) to contexts; the frozen flow then takes
                observations.

        Raises:
            ValueError: another dtype, an encoder that does not fit, or weights that are not finite in `dtype`.
            TypeError: `encoder` is not a module, or a weight is a shard.
        """
        refuse_shards(self)
        # By name: acting imports this module, and registers its classes in `frozen_copy`.
        importlib.import_module("nfkern.acting")
        return frozen_copy(self, dtype, encoder)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters for an optimiser, in two groups: weights of products, with this decay, and all others, with none.

        The usual rule, to decay parameters of two dimensions or more, does not fit stacked parameters: it decays every
        bias and norm. Mixing matrices are not decayed either: decay pulls their determinant to zero. The published
        training codes decay everything.
        """
        decay, groups = number("weight_decay", weight_decay), dict[bool, list[nn.Parameter]]({True: [], False: []})
        for name, parameter in self.named_parameters():
            groups[name.endswith("weight") and "norm" not in name].append(parameter)
        return [{"params": groups[True], "weight_decay": decay}, {"params": groups[False], "weight_decay": 0.0}]

    # A subclass defines these, on rows (rows, *event) and a projected context's term.

    @property
    @abstractmethod
    def _like(self) -> torch.Tensor:
        """A tensor with the dtype and device of the flow."""

    @abstractmethod
    def _project_rows(self, context: torch.Tensor | None) -> torch.Tensor: ...

    @abstractmethod
    def _map_to_latent(self, x: torch.Tensor, term: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    @abstractmethod
    def _map_to_data(self, z: torch.Tensor, term: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    @abstractmethod
    def _map_to_data_with_score(
        self, z: torch.Tensor, term: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]: ...

    @abstractmethod
    def _map_score(self, x: torch.Tensor, term: torch.Tensor) -> torch.Tensor: ...

    def _rows(self, which: Map, events: torch.Tensor, term: torch.Tensor, **options: Any) -> tuple[torch.Tensor, ...]:
        """Apply a map to rows; `options` are those of a causal flow's samples."""
        if which == "log_prob":
            z, log_det = self._rows_to_latent(events, term)
            return (standard_normal_log_prob(z.flatten(1)) + log_det,)
        if which == "to_latent":
            return self._rows_to_latent(events, term)
        if which == "to_data":
            return self._within_bounds(*self._map_to_data(events, term, **options))
        if which == "score":
            return self._rows_score(events, term)
        return self._map_to_data_with_score(events, term)

    # The maps with `bounds="tanh"`: data x = tanh(u), log|det dx/du| = sum log(1 - x^2).

    def _rows_to_latent(self, x: torch.Tensor, term: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.bounds is None:
            return self._map_to_latent(x, term)
        u = tanh_bounds.inverse(tanh_bounds.inside(x))
        z, log_det = self._map_to_latent(u, term)
        return z, log_det - tanh_bounds.log_det(u)

    def _within_bounds(self, x: torch.Tensor, log_det: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Data and log-det of the map without bounds -> those with them."""
        if self.bounds is None:
            return x, log_det
        x, squashed = tanh_bounds.squash(x)
        return x, log_det + squashed

    def _rows_score(self, x: torch.Tensor, term: torch.Tensor) -> tuple[torch.Tensor]:
        if self.bounds is None:
            return (self._map_score(x, term),)
        x = tanh_bounds.inside(x)
        return (tanh_bounds.score(x, self._map_score(tanh_bounds.inverse(x), term)),)

    def _run(
        self,
        which: Map,
        events: torch.Tensor,
        context: Context = None,
        dropout: bool = False,
        **options: Any,
    ) -> tuple[torch.Tensor, ...]:
        """Apply a map to events of any batch shape."""
        p = self._project(context, dropout)
        events = self._events(ARGUMENT[which], events)
        arrangement = Arrangement.of(tuple(events.shape[: -len(self.event_shape)]), p.batch_shape)
        results = self._rows(which, arrangement.rows(events, len(self.event_shape)), p.term, **options)
        self._explain_nan(results)
        return tuple(arrangement.restore(result) for result in results)

    def _project(self, context: Context, dropout: bool = False) -> ProjectedContext:
        if isinstance(context, ProjectedContext):
            return context
        if context is None:
            if self.context_features and not self.context_dropout:
                raise ValueError(
                    f"context: expected shape (..., {self.context_features}), got None; only a flow with "
                    "context_dropout > 0 has a marginal"
                )
            return ProjectedContext(self._project_rows(None), ())
        if not self.context_features:
            raise ValueError(f"context: this flow has context_features=0, got shape {shape_of(context)}")
        context = self._checked("context", context, (self.context_features,))
        if dropout and self.context_dropout:
            keep = torch.rand(context.shape[:-1], device=context.device) >= self.context_dropout
            context = context * keep.unsqueeze(-1)
        batch_shape = tuple(context.shape[:-1])
        return ProjectedContext(
            self._project_rows(context.reshape(math.prod(batch_shape), context.shape[-1])), batch_shape
        )

    def _noise(
        self,
        sample_shape: tuple[int, ...],
        context: Context,
        event_shape: tuple[int, ...] | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Noise for samples, and the options that are not about noise."""
        batch_shape = context.batch_shape if isinstance(context, ProjectedContext) else shape_of(context)[:-1]
        shape = (*sizes(sample_shape), *batch_shape, *(event_shape or self.event_shape))
        return given_or_drawn(shape, self._like, **options)

    def _events(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Events in the parameters' dtype, if they fit."""
        return self._checked(name, tensor, self.event_shape)

    def _checked(self, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor in the parameters' dtype, if its last dimensions have this shape."""
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
        like = self._like
        if like.dtype not in self.dtypes:
            raise TypeError(f"parameters: expected float32 or float64, got {like.dtype}; use autocast for 16 bits")
        if tensor.ndim < len(shape) or tensor.shape[-len(shape) :] != shape:
            raise ValueError(f"{name}: expected shape (..., {', '.join(map(str, shape))}), got {shape_of(tensor)}")
        if tensor.device != like.device:
            raise TypeError(f"{name}: expected a tensor on {like.device} as the parameters, got {tensor.device}")
        if tensor.dtype == like.dtype:
            return tensor
        if tensor.is_floating_point() and autocast_on(like.device):
            return tensor.to(like.dtype)
        raise TypeError(f"{name}: expected dtype {like.dtype} as the parameters, got {tensor.dtype}")

    def _constant(self, what: str, results: tuple[torch.Tensor, ...], *inputs: Any) -> tuple[torch.Tensor, ...]:
        """Results without derivatives, of these inputs and the parameters: see `without_derivatives`."""
        given = (each.term if isinstance(each, ProjectedContext) else each for each in inputs)
        return without_derivatives(what, results, chain(given, self.parameters(), self.buffers()))

    def _explain_nan(self, results: tuple[torch.Tensor, ...]) -> None:
        """Blame a NaN result on the parameter that is NaN."""
        if not readable(results[0]) or not any(math.isnan(result.detach().sum().item()) for result in results):
            return
        for name, parameter in chain(self.named_parameters(), self.named_buffers()):
            broken = parameter.isnan()
            if broken.any():
                where = broken.nonzero()[0].tolist()
                raise ValueError(f"{name}: expected finite parameters, got NaN first at index {where}")


class ActingFlow(Flow):
    """Base of flows frozen for acting, which `Flow.freeze` makes: the calls of `Flow` without autograd, and `act`."""

    dtype: torch.dtype
    encoder: nn.Module | None

    @abstractmethod
    def warmup(self, batch_sizes: Iterable[int], observation: torch.Tensor | None = None) -> Self:
        """Get ready for calls with so many rows."""

    @abstractmethod
    def act(
        self,
        observations: np.ndarray,
        sigma: float = 0.0,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        units: Any = None,
    ) -> np.ndarray:
        """Return an action for each observation, numpy to numpy."""

    @abstractmethod
    def refuse_broken(self) -> None:
        """Raise an error if a weight is not finite."""


@singledispatch
def frozen_copy(flow: Flow, dtype: torch.dtype | None, encoder: nn.Module | None) -> ActingFlow:
    """Freeze a flow, by its class: `nfkern.acting` registers how."""
    raise TypeError(f"flow: expected a flow that can be frozen, got a {type(flow).__name__}")


class FlowDistribution(Distribution):
    """p(. | context) of a flow: a thin view that shares the flow's parameters and projects the context once.

    Make one with `flow.condition(context)`. It is valid until the flow's parameters change. Mean, mode, variance and
    entropy of a flow have no closed form: asking for one is an error that says what to do instead.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, flow: Flow, projected: ProjectedContext) -> None:
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
        each = constraints.real if self.flow.bounds is None else constraints.interval(-1.0, 1.0)
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
        """Data of z = 0, batch_shape + event_shape: TorchRL's deterministic action. It is not the mode."""
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

"""Base classes of conditional flows: densities, samples and scores over any batch shape."""

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import singledispatch
from itertools import chain
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import nn

from nfkern.arguments import number, shape_of, whole
from nfkern.checkpoint import Pretrained, refuse_shards
from nfkern.flows.bounds import checked
from nfkern.flows.context import Arrangement, ProjectedContext, autocast_on
from nfkern.flows.data_map import DataMap, Units
from nfkern.flows.derivatives import readable, without_derivatives
from nfkern.flows.distribution import FlowDistribution
from nfkern.flows.noise import given_or_drawn, sizes
from nfkern.flows.normalizer import Normalizer
from nfkern.kernels import standard_normal_log_prob

Context = torch.Tensor | ProjectedContext | None

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

    _units: Units | None = None
    """Units of a frozen flow's data; those of a flow with parameters are its own."""
    _placed_map: DataMap | None = None

    def __init__(
        self,
        event_shape: tuple[int, ...],
        context_features: int,
        *,
        bounds: Any,
        context_dropout: float,
    ) -> None:
        super().__init__()
        self.event_shape = event_shape
        self.features = event_shape[-1]
        self.context_features = whole("context_features", context_features)
        self.bounds = checked(bounds, self.features)
        self._placed_map = self._make_data_map(torch.get_default_dtype(), torch.get_default_device())
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
            data_map = self._data_map()
            variance = sigma**2 if data_map is None else (sigma * data_map.scale) ** 2
            # Not `torch.add` with alpha, which Inductor 2.13 drops after a product.
            x = x + variance * score
        (x,) = self._constant("sample_denoised: it has no derivatives; use rsample", (x,), context, given)
        return x

    def condition(self, context: Context = None) -> FlowDistribution:
        """p(. | context) as a `torch.distributions.Distribution`; the context is projected once."""
        return FlowDistribution(self, self._project(context))

    def freeze(
        self,
        dtype: torch.dtype | None = None,
        encoder: nn.Module | None = None,
        *,
        normalizer: Normalizer | None = None,
        action_normalizer: Normalizer | None = None,
    ) -> "ActingFlow":
        """A copy for acting, such as a `FrozenFlow`: the same calls without autograd, and `act`.

        Args:
            dtype: of the hidden weights, float32, bfloat16, float16 or float64, or int8 for a coupling flow on a CPU;
                None for the flow's own. With 16 bits or int8 all else is float32.
            encoder: a module from observations (*batch, in_features) to contexts; the frozen flow then takes
                observations.
            normalizer: of observations: the frozen flow takes them in the data's units. It is folded, in float64, into
                the first layer of an `nfkern.Encoder`, and goes before another one; without an encoder it is the one.
            action_normalizer: of actions, over the event's last dimension: all calls take and return actions in the
                data's units, with densities and scores to match; only a `sigma` stays in the flow's own, where its
                noise was added.

        Raises:
            ValueError: another dtype, an encoder or normaliser that does not fit, or weights that are not finite in
                `dtype`.
            TypeError: `encoder` is not a module, a normaliser is something else, or a weight is a shard.
        """
        refuse_shards(self)
        # By name: acting imports this module, and registers its classes in `frozen_copy`.
        importlib.import_module("nfkern.acting")
        return frozen_copy(self, dtype, encoder, normalizer=normalizer, action_normalizer=action_normalizer)

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
        data_map = self._data_map()
        if data_map is None:
            return self._rows_unbounded(which, events, term, **options)
        inner, entered = data_map.enter(which, events)
        return data_map.leave(which, self._rows_unbounded(which, inner, term, **options), entered)

    def _rows_unbounded(
        self, which: Map, events: torch.Tensor, term: torch.Tensor, **options: Any
    ) -> tuple[torch.Tensor, ...]:
        """Apply the map of the flow without bounds and units."""
        if which == "log_prob":
            z, log_det = self._map_to_latent(events, term)
            return (standard_normal_log_prob(z.flatten(1)) + log_det,)
        if which == "to_latent":
            return self._map_to_latent(events, term)
        if which == "to_data":
            return self._map_to_data(events, term, **options)
        if which == "score":
            return (self._map_score(events, term),)
        return self._map_to_data_with_score(events, term)

    def _data_map(self) -> DataMap | None:
        """The map from the flow's events to data, on its device; None if they are the same."""
        if self.bounds is None and self._units is None:
            return None
        like, placed = self._like, self._placed_map
        if placed is not None and placed.fits(self.bounds, self._units, like):
            return placed
        # Not kept: inside a transform or a tracer its tensor would belong to that.
        return self._make_data_map(like.dtype, like.device)

    def _make_data_map(self, dtype: torch.dtype, device: torch.device) -> DataMap | None:
        if self.bounds is None and self._units is None:
            return None
        return DataMap.of(self.bounds, self._units, self.event_shape, dtype, device)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._placed_map = self._make_data_map(self._like.dtype, self._like.device)
        return self

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
def frozen_copy(flow: Flow, dtype: torch.dtype | None, encoder: nn.Module | None, **normalizers: Any) -> ActingFlow:
    """Freeze a flow, by its class: `nfkern.acting` registers how."""
    raise TypeError(f"flow: expected a flow that can be frozen, got a {type(flow).__name__}")

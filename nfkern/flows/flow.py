"""What every conditional flow offers: densities, samples and scores over any batch shape."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from nfkern.arguments import number, shape_of, whole
from nfkern.checkpoint import Pretrained
from nfkern.flows import bounds as tanh_bounds
from nfkern.flows.context import Arrangement, ProjectedContext, autocast_on
from nfkern.flows.distribution import FlowDistribution
from nfkern.flows.noise import draw, sizes
from nfkern.flows.transforms import readable, without_derivatives
from nfkern.kernels import standard_normal_log_prob

Context = torch.Tensor | ProjectedContext | None


class Flow(Pretrained, nn.Module, ABC):
    """Base of the flows. A subclass brings its parameters and the four maps between rows of data and noise.

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
        """`log_prob`: what DDP, autocast, compile and export see."""
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
        (log_prob,) = self._run(self._rows_log_prob, "x", x, context, dropout=self.training)
        return log_prob

    def to_latent(self, x: torch.Tensor, context: Context = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Data to noise: z (*batch, *event) and log|det dz/dx| (*batch); arguments and errors of `log_prob`."""
        z, log_det = self._run(self._rows_to_latent, "x", x, context)
        return z, log_det

    def to_data(self, z: torch.Tensor, context: Context = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise to data: x (*batch, *event) and log|det dx/dz| (*batch); arguments and errors of `log_prob`."""
        x, log_det = self._run(self._rows_to_data, "z", z, context)
        return x, log_det

    def score(self, x: torch.Tensor, context: Context = None) -> torch.Tensor:
        """grad_x log p(x), (*batch, *event): analytic, needs no autograd and is not differentiable."""
        with torch.no_grad():
            results = self._run(self._rows_score, "x", x, context)
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
            ValueError: sigma is negative, or the flow has `bounds`: noise leaves the box, so there is no such mean.
        """
        if self.bounds is not None:
            raise ValueError(f"bounds: expected None for denoising, got {self.bounds!r}: noised data leave the box")
        sigma, given = number("sigma", sigma), options.get("noise")
        with torch.no_grad():
            z, options = self._noise(sample_shape, context, **options)
            if options:
                x, _ = self.to_data(z, context, **options)
                score = self.score(x, context)
            else:
                x, _, score = self._run(self._map_to_data_with_score, "z", z, context)
            x = torch.add(x, score, alpha=sigma**2)
        (x,) = self._constant("sample_denoised: it has no derivatives; use rsample", (x,), context, given)
        return x

    def condition(self, context: Context = None) -> FlowDistribution:
        """p(. | context) as a `torch.distributions.Distribution`; the context is projected once."""
        return FlowDistribution(self, self._project(context))

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters for an optimiser, in two groups: weights of products, with this decay, and all others, with none.

        The usual rule, to decay what has two dimensions or more, does not fit stacked parameters: it decays every bias
        and norm. Mixing matrices are not decayed either: that pulls their determinant to zero. The published training
        codes decay everything.
        """
        decay, groups = number("weight_decay", weight_decay), dict[bool, list[nn.Parameter]]({True: [], False: []})
        for name, parameter in self.named_parameters():
            groups[name.endswith("weight") and "norm" not in name].append(parameter)
        return [{"params": groups[True], "weight_decay": decay}, {"params": groups[False], "weight_decay": 0.0}]

    # What a subclass brings, on rows (rows, *event) and a projected context's term.

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

    # The maps with the box of `bounds="tanh"`: data x = tanh(u), log|det dx/du| = sum log(1 - x^2).

    def _rows_to_latent(self, x: torch.Tensor, term: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.bounds is None:
            return self._map_to_latent(x, term)
        u = tanh_bounds.inverse(tanh_bounds.inside(x))
        z, log_det = self._map_to_latent(u, term)
        return z, log_det - tanh_bounds.log_det(u)

    def _rows_log_prob(self, x: torch.Tensor, term: torch.Tensor) -> tuple[torch.Tensor]:
        z, log_det = self._rows_to_latent(x, term)
        return (standard_normal_log_prob(z.flatten(1)) + log_det,)

    def _rows_to_data(self, z: torch.Tensor, term: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._boxed(*self._map_to_data(z, term))

    def _boxed(self, x: torch.Tensor, log_det: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Data and log-det of the map without the box -> those with it."""
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
        rows_map: Callable[..., tuple[torch.Tensor, ...]],
        name: str,
        events: torch.Tensor,
        context: Context = None,
        dropout: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """Apply a map of rows to events of any batch shape."""
        p = self._project(context, dropout)
        events = self._events(name, events)
        arrangement = Arrangement.of(tuple(events.shape[: -len(self.event_shape)]), p.batch_shape)
        results = rows_map(arrangement.rows(events, len(self.event_shape)), p.term)
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
        *,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        deterministic: bool = False,
        **options: Any,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """What samples are made of, and the options that are not about it."""
        batch_shape = context.batch_shape if isinstance(context, ProjectedContext) else shape_of(context)[:-1]
        shape = (*sizes(sample_shape), *batch_shape, *(event_shape or self.event_shape))
        if noise is None:
            return draw(shape, self._like, generator, temperature, deterministic), options
        if not isinstance(noise, torch.Tensor):
            raise TypeError(f"noise: expected a torch.Tensor, got {type(noise).__name__}")
        if tuple(noise.shape) != shape:
            raise ValueError(f"noise: expected shape {shape}, got {tuple(noise.shape)}")
        return noise, options

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

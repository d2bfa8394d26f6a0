"""Base of frozen flows: buffers instead of parameters, no autograd, numpy to numpy."""

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
import torch
from torch import nn

from nfkern.acting.cuda_graphs import CapturedCalls
from nfkern.acting.encoder import called, encoded, frozen_encoder, in_data_units, refuse_broken, statistics
from nfkern.acting.memory import place_together
from nfkern.acting.units import Units
from nfkern.arguments import shape_of, whole
from nfkern.flows.context import ProjectedContext, without_autocast
from nfkern.flows.derivatives import differentiating, readable
from nfkern.flows.distribution import FlowDistribution
from nfkern.flows.encoder import Encoder
from nfkern.flows.flow import ActingFlow, Context, Flow, Map
from nfkern.flows.int8 import quantized
from nfkern.flows.native_calls import NativeCalls
from nfkern.flows.normalizer import Normalizer
from nfkern.kernels.dispatch.registry import reference_forced

_NO_DERIVATIVES = "flow: a frozen one has no derivatives; use the flow that it came from"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Frozen(ActingFlow):
    """Base of frozen flows; a subclass also inherits the maps of the flow that it came from.

    Args:
        flow: the flow to freeze; left as it is.
        dtype: of the hidden weights; with 16 bits or int8, all else is float32. None for the flow's own.
        encoder: from observations (*batch, in_features) to contexts (*batch, context_features).
        normalizer: of observations, as in `Flow.freeze`.
        action_normalizer: of actions, likewise.
    """

    reparameterized = False
    frozen_dtypes: tuple[torch.dtype, ...] = DTYPES
    """Dtypes that `dtype` may name."""

    def __init__(
        self,
        flow: Flow,
        dtype: torch.dtype | None,
        encoder: nn.Module | None,
        *,
        normalizer: Normalizer | None = None,
        action_normalizer: Normalizer | None = None,
    ) -> None:
        super().__init__(
            flow.event_shape, flow.context_features, bounds=flow.bounds, context_dropout=flow.context_dropout
        )
        self.dtype = flow._like.dtype if dtype is None else dtype
        if self.dtype not in self.frozen_dtypes:
            known = ", ".join(map(str, self.frozen_dtypes))
            raise ValueError(f"dtype: expected one of {known} for a {type(flow).__name__}, got {dtype!r}")
        self._refuse_device(flow._like.device)
        if action_normalizer is not None:
            center, scale = statistics("action_normalizer", action_normalizer, self.features)
            self._units = (tuple(center.tolist()), tuple(scale.tolist()))
        if normalizer is not None:
            encoder = in_data_units(encoder, normalizer, flow.context_features)
        # Outside inference mode, so that the buffers are ordinary tensors.
        with torch.inference_mode(False), torch.no_grad():
            for name, tensor in self._tensors(flow).items():
                self.register_buffer(name, tensor)
            self.encoder = (
                None if encoder is None else frozen_encoder(encoder, self._like, self.dtype, flow.context_features)
            )
            if self._like.device.type == "cpu":
                place_together(chain(self.buffers(), self.parameters()))
        self._placed_map = self._make_data_map(self._like.dtype, self._like.device)
        self._action_units = self._make_action_units()
        self._calls = CapturedCalls()
        self._native = NativeCalls()
        self.eval()

    @abstractmethod
    def _tensors(self, flow: Any) -> Mapping[str, torch.Tensor | None]:
        """Tensors of the buffers, which share nothing with the flow."""

    def _make_action_units(self) -> np.ndarray | None:
        """Numbers of `Units` that leave observations as they are, if the actions of a flow without bounds have some."""
        if self._units is None or self.bounds is not None or not self.context_features:
            return None
        width = self.encoder.config["in_features"] if isinstance(self.encoder, Encoder) else self.context_features
        center, scale = (np.tile(part, math.prod(self.event_shape[:-1])) for part in self._units)
        ends = np.full(len(center), np.inf)
        return Units(np.zeros(width), np.ones(width), center, scale, -ends, ends).numbers

    def extra_repr(self) -> str:
        """Sizes and dtype."""
        return f"event_shape={self.event_shape}, context_features={self.context_features}, dtype={self.dtype}"

    def train(self, mode: bool = True) -> Self:
        """Do nothing: a frozen flow is always in evaluation mode."""
        return super().train(False)

    def warmup(self, batch_sizes: Iterable[int], observation: torch.Tensor | None = None) -> Self:
        """Prepare for calls with these numbers of rows: run each call once, and capture it as a CUDA graph on a GPU.

        Later calls of `log_prob`, `to_data`, `sample` and `sample_denoised` with one of these numbers of rows, and a
        context or observation for each row, replay the graph. Other calls run as without warm-up.

        Args:
            batch_sizes: numbers of rows.
            observation: (in_features,), an example; only for an encoder that is not an `nfkern.Encoder`.

        Returns:
            The flow itself.

        Raises:
            ValueError: a batch size below 1, or an example that is missing or unwanted.
        """
        example = self._example(observation)
        maps: list[Map] = ["log_prob", "to_data"]
        if self.bounds is None:
            maps.append("to_data_with_score")
        for rows in [whole("batch_sizes", rows, 1) for rows in batch_sizes]:
            events = self._like.new_zeros(rows, *self.event_shape)
            inputs = (events,) if example is None else (events, example.expand(rows, -1))
            for which in maps:
                self._calls.add(which, partial(super()._run, which), inputs)
        return self

    def act(
        self,
        observations: np.ndarray,
        sigma: float = 0.0,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        units: Units | None = None,
    ) -> np.ndarray:
        """Return an action for each observation, numpy to numpy: `sample`, or `sample_denoised` if sigma is above 0.

        On a CPU, encoder, coupling flow and denoising are one call of native code, which releases the interpreter lock.

        Args:
            observations: (*batch, in_features), or contexts (*batch, context_features) without an encoder.
            sigma: as in `sample_denoised`, in the units of the flow's actions.
            temperature: standard deviation of the noise.
            generator: of the noise; the global one if None.
            units: of observations and of the returned actions; the flow's own if None.

        Returns:
            (*batch, *event), float32.

        Raises:
            ValueError: a shape that does not fit, an observation or a weight that is not finite, a number out of range,
                or a flow without context.
            TypeError: observations are not an array of numbers, or sigma or temperature is no number.
        """
        if self.bounds is None and (units is None or self._units is None) and not reference_forced():
            numbers = self._action_units if units is None else units.numbers
            actions = self._native.act(self, observations, sigma, temperature, generator, numbers)
            if actions is not None and actions is not False:
                return actions
        if not isinstance(observations, np.ndarray) or observations.dtype.kind not in "fiu":
            kind = observations.dtype if isinstance(observations, np.ndarray) else type(observations).__name__
            raise TypeError(f"observations: expected a numpy array of numbers, got {kind}")
        if not self.context_features:
            raise ValueError("observations: this flow has context_features=0; use `sample`")
        for name, value in (("sigma", sigma), ("temperature", temperature)):
            try:
                fits = 0 <= value < math.inf
            except (TypeError, ValueError, RuntimeError):
                raise TypeError(f"{name}: expected a number, got {value!r}") from None
            if not fits:
                raise ValueError(f"{name}: expected a finite number >= 0, got {value!r}")
        if units is not None:
            observations = units.normalized(observations)
        found = self._act(observations, float(sigma), float(temperature), generator)
        return found if units is None else units.actions(found)

    def _act(
        self, observations: np.ndarray, sigma: float, temperature: float, generator: torch.Generator | None
    ) -> np.ndarray:
        """`act` for arguments that the native call did not take as they are."""
        # A number that is too large for float32 becomes infinite, and is refused then.
        with np.errstate(over="ignore"):
            numbers = np.ascontiguousarray(observations, np.float64 if self.dtype == torch.float64 else np.float32)
        numbers = numbers.reshape(observations.shape)
        if self.bounds is None or not sigma:
            actions = self._native.act_anew(self, numbers, sigma, temperature, generator, self._action_units)
            if actions is not None:
                return self._within_bounds(actions)
        if not (finite := np.isfinite(numbers)).all():
            where = np.argwhere(~finite)[0].tolist()
            number = called(numbers[tuple(where)])
            raise ValueError(f"observations: expected finite numbers, got {number} first at index {where}")
        context = torch.from_numpy(numbers).to(self._like)
        options = {"temperature": temperature, "generator": generator}
        result = self.sample_denoised(sigma, (), context, **options) if sigma else self.sample((), context, **options)
        found = result.float().cpu().numpy()
        if not np.isfinite(found).all():
            self.refuse_actions()
        return found

    def _within_bounds(self, actions: np.ndarray) -> np.ndarray:
        """Actions of the flow without bounds, in its units -> those with them."""
        data_map = None if self.bounds is None else self._data_map()
        return actions if data_map is None else data_map.data(torch.from_numpy(actions)).numpy()

    def refuse_actions(self) -> NoReturn:
        """Raise an error for actions that are not finite.

        Raises:
            ValueError: a weight is not finite, which the message names, or weights are too large.
        """
        self.refuse_broken()
        raise ValueError("actions: not finite for these observations: the weights are finite, but too large for them")

    def refuse_broken(self) -> None:
        """Check that all weights are finite.

        Raises:
            ValueError: a weight is not; the message names it.
        """
        refuse_broken(self, "expected finite parameters")

    def rsample(self, sample_shape: tuple[int, ...] = (), context: Context = None, **options: Any) -> torch.Tensor:
        """Sample as `sample` does; refused while gradients are recorded, for a frozen flow has none."""
        self._refuse_gradient("rsample")
        return super().rsample(sample_shape, context, **options)

    def rsample_and_log_prob(
        self, sample_shape: tuple[int, ...] = (), context: Context = None, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples and their log-probability in one pass. Refused, as `rsample`, while gradients are recorded."""
        self._refuse_gradient("rsample_and_log_prob")
        return super().rsample_and_log_prob(sample_shape, context, **options)

    def condition(self, context: Context = None) -> FlowDistribution:
        """p(. | context) as a `torch.distributions.Distribution`; the context is projected once, without gradients."""
        projected = self._project(context)
        (term,) = self._constant(_NO_DERIVATIVES, (projected.term,), context)
        return FlowDistribution(self, ProjectedContext(term, projected.batch_shape))

    def freeze(self, *args: Any, **options: Any) -> NoReturn:
        """Refused: frozen weights cannot be frozen again."""
        raise TypeError(
            f"flow: expected a flow with parameters, got a {type(self).__name__}; freeze the flow it came from"
        )

    def save_pretrained(self, path: str | Path) -> None:
        """Refused: a saved flow can be trained on and frozen in any dtype, a frozen one cannot."""
        raise TypeError(
            f"{type(self).__name__}: save the flow it came from, and freeze that once loaded: it takes milliseconds"
        )

    @classmethod
    def from_pretrained(cls, path: str | Path, device: torch.device | str = "cpu") -> Self:
        """Refused, as `save_pretrained`."""
        raise TypeError(f"{cls.__name__}: load the flow it came from with its class's from_pretrained, and freeze that")

    @property
    def _compute_dtype(self) -> torch.dtype | None:
        # The dtype was chosen when the flow was frozen: autocast does not change it.
        return None if self.dtype in (self._like.dtype, torch.int8) else self.dtype

    def _run(
        self,
        which: Map,
        events: torch.Tensor,
        context: Context = None,
        dropout: bool = False,
        **options: Any,
    ) -> tuple[torch.Tensor, ...]:
        if differentiating():
            with torch.no_grad():
                results = super()._run(which, events, context, **options)
            return self._constant(_NO_DERIVATIVES, results, events, context)
        if not options:
            found = self._native.run(self, which, events, context)
            if found is None:
                found = self._calls.replay(which, events, context, len(self.event_shape))
            if found is not None:
                return found
        with torch.no_grad():
            return super()._run(which, events, context, **options)

    def _explain_nan(self, results: tuple[torch.Tensor, ...]) -> None:
        if readable(results[0]) and not all(math.isfinite(result.sum().item()) for result in results):
            self.refuse_broken()

    @torch.no_grad()
    def _project(self, context: Context, dropout: bool = False) -> ProjectedContext:
        if self.encoder is None or context is None or isinstance(context, ProjectedContext):
            return super()._project(context)
        if isinstance(self.encoder, Encoder):
            context = self._checked("context", context, (self.encoder.config["in_features"],))
        if not isinstance(context, torch.Tensor):
            raise TypeError(f"context: expected a torch.Tensor of observations, got {type(context).__name__}")
        return super()._project(encoded(self.encoder, context, self.context_features))

    def _project_rows(self, context: torch.Tensor | None) -> torch.Tensor:
        # Every subclass also inherits from the maps, which define it.
        with without_autocast(self._like.device):
            return super()._project_rows(context)  # type: ignore[safe-super]

    def _example(self, observation: torch.Tensor | None) -> torch.Tensor | None:
        """One row of context or observations, as the calls take them."""
        if self.encoder is not None and not isinstance(self.encoder, Encoder):
            if observation is None or observation.ndim != 1:
                got = None if observation is None else shape_of(observation)
                raise ValueError(f"observation: expected an example of shape (in_features,), got {got}")
            return observation
        if observation is not None:
            raise ValueError(f"observation: expected None, its shape is known, got shape {shape_of(observation)}")
        features = self.context_features if self.encoder is None else self.encoder.config["in_features"]
        return self._like.new_zeros(features) if features else None

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move the tensors, for `to` and `cuda`; refuse casts such as `half`, which would undo the choice of dtype."""
        device = self._like.device
        for dtype in {t.dtype for t in chain(self.parameters(), self.buffers()) if t.is_floating_point()}:
            if (cast := fn(torch.empty(0, dtype=dtype, device=device)).dtype) != dtype:
                raise TypeError(f"dtype: expected {dtype} as frozen, got {cast}; freeze the flow it came from again")
        self._refuse_device(fn(torch.empty(0, device=device)).device)
        super()._apply(fn, recurse)
        self._native = NativeCalls()
        if self._like.device != device:
            self._calls = CapturedCalls()
        return self

    def _refuse_device(self, device: torch.device) -> None:
        """GPU kernels take folded rows to sum to zero, as those in int8 do not."""
        if self.dtype == torch.int8 and device.type != "cpu":
            raise ValueError(f"dtype: torch.int8 is for acting on a CPU, got a flow on {device}; use torch.bfloat16")

    def _refuse_gradient(self, name: str) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"{name}: a frozen flow has no gradients; use torch.no_grad() or the flow that it came from"
            )


def other_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of all tensors but the hidden weights."""
    return torch.float32 if dtype.itemsize <= 2 else dtype


def scale_name(weight: str) -> str:
    """Name of the buffer with the scales of a weight in int8."""
    return weight.removesuffix("weight") + "scale"


def rounded(
    tensors: Mapping[str, torch.Tensor | None], dtype: torch.dtype, hidden: Collection[str]
) -> dict[str, torch.Tensor | None]:
    """Copies of all tensors: those of `hidden` in `dtype`, the others in `other_dtype(dtype)`; scales follow int8.

    Raises:
        ValueError: a copy is not finite.
    """
    found: dict[str, torch.Tensor | None] = {}
    for name, tensor in tensors.items():
        wanted = dtype if name in hidden else other_dtype(dtype)
        if tensor is None:
            found[name] = copied = None
        elif wanted == torch.int8:
            found[name], copied = quantized(tensor)
            found[scale_name(name)] = copied
        else:
            found[name] = copied = tensor.to(wanted, copy=True).contiguous()
        if copied is not None and not copied.isfinite().all():
            raise ValueError(
                f"{name}: not finite when frozen in {wanted}: the flow has NaN, infinite or too large parameters"
            )
    return found

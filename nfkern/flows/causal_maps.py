"""Maps of rows that a causal flow and its frozen copy share, from stacked weights, for sequences of any length."""

from numbers import Integral
from typing import Any, Literal

import torch

from nfkern.arguments import number, shape_of
from nfkern.flows.chunked import Chunked
from nfkern.flows.context import ProjectedContext, autocast_dtype, project
from nfkern.flows.flow import Context
from nfkern.kernels import CausalParameters, causal

Method = Literal["auto", "cached", "jacobi"]
_DEFAULTS = {"method": "auto", "tolerance": None, "guidance": 0.0, "annealed": False}


class CausalMaps(Chunked):
    """A flow that runs the causal ops; a subclass adds the tensors, as parameters or as buffers.

    Samples have no gradients: to differentiate them is an error.
    """

    reparameterized = False

    heads: int
    context_mode: str
    norm_eps: float
    scale_bound: float | None
    input_bias: torch.Tensor
    context_weight: torch.Tensor | None

    @property
    def tokens(self) -> int:
        """Length of the longest sequence."""
        return self.event_shape[0]

    def forward(self, x: torch.Tensor, context: Context = None, *, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Return `log_prob`."""
        return self.log_prob(x, context, lengths=lengths)

    def log_prob(
        self, x: torch.Tensor, context: Context = None, *, lengths: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log-density of x, in nats, of sequences that may be padded.

        Errors are those of `Flow.log_prob`.

        Args:
            x: (*batch, tokens, features).
            context: (*batch, context_features), or None.
            lengths: (*batch), the number of tokens of each sequence, where the rest of x is padding; whole numbers.
                Padding is not looked at: the density is that of the sequence without it. Sequences of one length are
                taken together, so few lengths cost least. Not for a context that has been projected.

        Returns:
            (*batch).
        """
        if lengths is None:
            return super().log_prob(x, context)
        self._events("x", x)
        batch = tuple(x.shape[:-2])
        lengths = self._checked_lengths(lengths, batch, x.shape[-2])
        if isinstance(context, ProjectedContext):
            raise ValueError("context: expected a tensor or None beside lengths, got a projected context")
        rows, which = x.reshape(-1, *x.shape[-2:]), lengths.flatten()
        if isinstance(context, torch.Tensor):
            try:
                context = context.expand(*batch, context.shape[-1]).reshape(-1, context.shape[-1])
            except (RuntimeError, IndexError):
                shape = tuple(context.shape)
                raise ValueError(f"context: expected a batch that broadcasts to {batch}, got {shape}") from None
        order = torch.argsort(which, stable=True)
        found, start = [], 0
        for length, count in zip(*(each.tolist() for each in torch.unique(which, return_counts=True)), strict=True):
            chosen = order[start : start + count]
            found.append(super().log_prob(rows[chosen, :length], None if context is None else context[chosen]))
            start += count
        if not found:
            return super().log_prob(x, context)
        return torch.cat(found)[torch.argsort(order)].view(batch)

    def _checked_lengths(self, lengths: Any, batch: tuple[int, ...], tokens: int) -> torch.Tensor:
        if not isinstance(lengths, torch.Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
            kind = lengths.dtype if isinstance(lengths, torch.Tensor) else type(lengths).__name__
            raise TypeError(f"lengths: expected a tensor of whole numbers, got {kind}")
        if tuple(lengths.shape) != batch:
            raise ValueError(f"lengths: expected shape {batch}, a number for each sequence, got {tuple(lengths.shape)}")
        least, most = (int(lengths.min()), int(lengths.max())) if lengths.numel() else (tokens, tokens)
        if least < self._least_tokens or most > tokens:
            raise ValueError(f"lengths: expected {self._least_tokens} to {tokens}, got {least} to {most}")
        return lengths.to(self._like.device)

    def to_data(
        self,
        z: torch.Tensor,
        context: Context = None,
        *,
        method: Method = "auto",
        tolerance: float | None = None,
        guidance: float = 0.0,
        annealed: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise to data: x (*batch, tokens, features) and log|det dx/dz| (*batch). Not differentiable.

        Args:
            z: (*batch, tokens, features).
            context: as in `log_prob`.
            method: "cached" goes token by token and keeps the keys and values of earlier tokens; "jacobi" guesses all
                tokens at once and iterates until they no longer change; "auto" is "cached", which was faster than
                "jacobi" in all measurements.
            tolerance: "jacobi" stops when in every row the largest change, relative to the largest token, is below it;
                None for a tolerance by dtype.
            guidance: strength of classifier-free guidance, 0 for none; needs `context_dropout`.
            annealed: whether guidance grows linearly over the tokens, to its full value at the last.

        Raises:
            ValueError: as `log_prob`; an unknown method; guidance without a context or without `context_dropout`.
        """
        guidance = number("guidance", guidance)
        tolerance = None if tolerance is None else number("tolerance", tolerance)
        options: dict[str, Any] = {
            "method": method,
            "tolerance": tolerance,
            "guidance": guidance,
            "annealed": bool(annealed),
        }
        if options == _DEFAULTS:
            # A frozen flow may have captured this call.
            return super().to_data(z, context)
        unconditional = None
        if guidance > 0:
            if context is None or not self.context_dropout:
                what = "no context" if context is None else "context_dropout=0"
                raise ValueError(f"guidance: expected 0 for a flow with {what}, got {guidance!r}")
            unconditional = self._project_rows(None)
        x, log_det = self._run("to_data", z, context, unconditional_term=unconditional, **options)
        return x, log_det

    @property
    def _like(self) -> torch.Tensor:
        return self.input_bias

    @property
    def _parameters_tuple(self) -> CausalParameters:
        return CausalParameters(*(getattr(self, name) for name in CausalParameters._fields))

    @property
    def _compute_dtype(self) -> torch.dtype | None:
        return autocast_dtype(self.input_bias)

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "heads": self.heads,
            "prefix": self.context_mode == "prefix",
            "norm_eps": self.norm_eps,
            "scale_bound": self.scale_bound,
            "compute_dtype": self._compute_dtype,
        }

    def _project_rows(self, context: torch.Tensor | None) -> torch.Tensor:
        """(groups, C) -> (groups, K, width)."""
        return project(context, self.context_weight, self.input_bias)

    def _map_to_latent(self, x: torch.Tensor, term: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return causal.to_latent(x, term, self._parameters_tuple, **self._settings)

    def _map_to_data(self, z: torch.Tensor, term: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return causal.to_data(z, term, self._parameters_tuple, **self._settings, **options)

    def _map_score(self, x: torch.Tensor, term: torch.Tensor) -> torch.Tensor:
        return causal.score(x, term, self._parameters_tuple, **self._settings)

    def _map_to_data_with_score(
        self, z: torch.Tensor, term: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return causal.to_data_with_score(z, term, self._parameters_tuple, **self._settings)

    def _noise(  # type: ignore[override]
        self,
        sample_shape: tuple[int, ...],
        context: Context,
        *,
        tokens: int | None = None,
        noise: torch.Tensor | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Noise of `tokens` tokens; noise that is given has its own length."""
        if tokens is None:
            tokens = noise.shape[-2] if isinstance(noise, torch.Tensor) and noise.ndim > 1 else self.tokens
        elif not isinstance(tokens, Integral) or not self._least_tokens <= tokens <= self.tokens:
            raise ValueError(f"tokens: expected an int from {self._least_tokens} to {self.tokens}, got {tokens!r}")
        return super()._noise(sample_shape, context, (int(tokens), self.features), noise=noise, **options)

    @property
    def _least_tokens(self) -> int:
        return 1 if self.context_mode == "prefix" else 2

    def _events(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        shape = shape_of(tensor)
        if isinstance(tensor, torch.Tensor) and not (
            len(shape) >= 2 and self._least_tokens <= shape[-2] <= self.tokens and shape[-1] == self.features
        ):
            lengths = f"{self._least_tokens} to {self.tokens} tokens"
            raise ValueError(f"{name}: expected shape (..., {lengths}, {self.features}), got {shape}")
        return self._checked(name, tensor, shape[-2:])

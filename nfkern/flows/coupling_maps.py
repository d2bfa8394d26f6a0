"""Maps of rows that a coupling flow and its frozen copy share, from stacked weights and composed matrices."""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch.nn.functional import pad

from nfkern.flows.chunked import Chunked
from nfkern.flows.context import autocast_dtype, project
from nfkern.flows.flow import Map
from nfkern.kernels import CouplingParameters, coupling


class CouplingMaps(Chunked):
    """A flow that runs the coupling ops; a subclass adds the tensors, as parameters or as buffers."""

    norm_eps: float
    inverted: bool
    scale_bound: float | None
    input_bias: torch.Tensor
    context_weight: torch.Tensor | None

    @abstractmethod
    def _compose(self, inverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixing matrices (blocks, features, features) or their inverses, and the sum of their log|det|, ()."""

    @property
    def _composed_from(self) -> tuple[torch.Tensor, ...]:
        """Tensors that `_compose` composes anew when their contents change."""
        return ()

    @property
    def _like(self) -> torch.Tensor:
        return self.input_bias

    @property
    def _parameters_tuple(self) -> CouplingParameters:
        return CouplingParameters(*(self._operand(name) for name in CouplingParameters._fields))

    def _operand(self, name: str) -> Any:
        """A tensor as the ops take it, or None where there is none."""
        return getattr(self, name)

    @property
    def _compute_dtype(self) -> torch.dtype | None:
        return autocast_dtype(self.input_bias)

    @property
    def _settings(self) -> dict[str, Any]:
        return {"norm_eps": self.norm_eps, "scale_bound": self.scale_bound, "compute_dtype": self._compute_dtype}

    def _project_rows(self, context: torch.Tensor | None) -> torch.Tensor:
        """(groups, C) -> (groups, K, 2, h1): one product for all blocks and both networks."""
        return project(context, self._operand("context_weight"), self.input_bias)

    def _rows_unbounded(
        self, which: Map, events: torch.Tensor, term: torch.Tensor, **options: Any
    ) -> tuple[torch.Tensor, ...]:
        if self.features > 1:
            return super()._rows_unbounded(which, events, term, **options)
        # The ops transform the second half of the features, given the first: this one, given 0, which stays 0.
        results = super()._rows_unbounded(which, pad(events, (1, 0)), term, **options)
        if which == "log_prob":
            return (results[0] + 0.5 * math.log(2 * math.pi),)
        return tuple(result[:, 1:] if result.ndim > 1 else result for result in results)

    def _map_to_latent(self, x: torch.Tensor, term: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        function = coupling.to_data if self.inverted else coupling.to_latent
        return function(x, term, *self._compose(self.inverted), self._parameters_tuple, **self._settings)

    def _map_to_data(self, z: torch.Tensor, term: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        function = coupling.to_latent if self.inverted else coupling.to_data
        return function(z, term, *self._compose(not self.inverted), self._parameters_tuple, **self._settings)

    def _map_score(self, x: torch.Tensor, term: torch.Tensor) -> torch.Tensor:
        matrices = self._compose(self.inverted)
        parameters, settings = self._parameters_tuple, self._settings
        return coupling.score(x, term, *matrices, parameters, inverted=self.inverted, **settings)

    def _map_to_data_with_score(
        self, z: torch.Tensor, term: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.inverted:
            x, log_det = self._map_to_data(z, term)
            return x, log_det, self._map_score(x, term)
        mixing, (inverse, inverse_log_det) = self._compose(False)[0], self._compose(True)
        parameters, settings = self._parameters_tuple, self._settings
        return coupling.to_data_with_score(z, term, mixing, inverse, inverse_log_det, parameters, **settings)

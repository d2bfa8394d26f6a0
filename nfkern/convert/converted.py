"""What a conversion gives, tried out, and its folder."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from nfkern.checkpoint import Pretrained
from nfkern.flows.context import without_autocast
from nfkern.flows.encoder import Encoder
from nfkern.flows.flow import Flow
from nfkern.host.files import atomic_folder

ROWS = 4
"""Events that a converted flow is tried on."""

TOLERANCE = 1e-6
"""Error of a round trip in float64, relative to the largest number."""


@dataclass(frozen=True)
class Converted:
    """A converted flow, and the encoder of its contexts where the source has one; both in evaluation mode."""

    flow: Flow
    encoder: Encoder | None = None
    unused: tuple[str, ...] = ()
    """Names of the source's arrays that are part of neither, such as an optimiser's."""

    def checked(self, contexts: torch.Tensor | None = None) -> Self:
        """Return itself after a round trip of the flow in float64, noise to data and back.

        Args:
            contexts: (ROWS, context_features); None for random ones, or those of random observations.

        Raises:
            ValueError: numbers are not finite, or do not come back: the weights are damaged, or too extreme to invert.
        """
        generator = torch.Generator().manual_seed(0)
        double = copy.deepcopy(self.flow).double().eval()
        with torch.no_grad(), without_autocast(torch.device("cpu")):
            if contexts is None and self.flow.context_features:
                contexts = torch.randn(ROWS, self.flow.context_features, generator=generator, dtype=torch.float64)
            if self.encoder is not None:
                size = self.encoder.config["in_features"]
                observations = torch.randn(ROWS, size, generator=generator, dtype=torch.float64)
                contexts = copy.deepcopy(self.encoder).double()(observations)
            z = torch.randn(ROWS, *self.flow.event_shape, generator=generator, dtype=torch.float64)
            x, log_det = double.to_data(z, contexts)
            back, back_log_det = double.to_latent(x, contexts)
        found = {"contexts": z if contexts is None else contexts, "data": x, "noise": back, "log_det": log_det}
        for name, tensor in found.items():
            if not tensor.isfinite().all():
                raise ValueError(f"source: expected finite results of the flow, got NaN or infinity in {name}")
        errors = {"noise": (back - z).abs().max(), "log_det": (log_det + back_log_det).abs().max()}
        scales = {"noise": max(float(x.abs().max()), 1.0), "log_det": max(float(log_det.abs().max()), 1.0)}
        for name, error in errors.items():
            if not float(error) <= TOLERANCE * scales[name]:
                raise ValueError(
                    f"source: expected noise to data and back to be the identity within {TOLERANCE * scales[name]:.1g} "
                    f"in float64, got an error of {float(error):.1g} in {name}"
                )
        return self

    def save_pretrained(self, path: str | Path) -> None:
        """Write the flow to the folder `path`, and the encoder to `path/encoder`, both for `from_pretrained`.

        The folder appears once all of it was read again and is the same.

        Raises:
            ValueError: `path` exists and is not an empty folder.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"path: expected a new or an empty folder, got {path}")
        with atomic_folder(path) as folder:
            _save(self.flow, folder)
            if self.encoder is not None:
                _save(self.encoder, folder / "encoder")


def _save(module: Pretrained, folder: Path) -> None:
    module.save_pretrained(folder)
    restored = type(module).from_pretrained(folder)
    assert isinstance(module, torch.nn.Module)
    assert isinstance(restored, torch.nn.Module)
    ours, theirs = module.state_dict(), restored.state_dict()
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        raise ValueError(f"path: the weights in {folder} are not those that were written: is the disk faulty?")

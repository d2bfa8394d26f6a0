"""`nfkern convert`: a checkpoint of another code as a folder for `from_pretrained`."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from nfkern.convert.arrays import prefixes, shortened
from nfkern.convert.converted import Converted
from nfkern.convert.files import Tensors, tensors_of
from nfkern.convert.foreign import refuse_foreign
from nfkern.convert.initial import Rng
from nfkern.convert.paper import paper_jax, paper_torch
from nfkern.convert.tarflow import tarflow
from nfkern.errors import UserError

Kind = Literal["paper-torch", "paper-jax", "tarflow"]
_CONVERSIONS: dict[Kind, tuple[Any, str, frozenset[str]]] = {
    "paper-torch": (paper_torch, "blocks.0.l.P", frozenset({"norm_eps"})),
    "paper-jax": (paper_jax, "blocks_0.l.L", frozenset({"norm_eps", "rng", "inverted", "encoder"})),
    "tarflow": (tarflow, "blocks.0.proj_in.weight", frozenset({"norm_eps", "heads", "context_dropout"})),
}
"""For each kind the function, the end of a name by which it is known, and its options."""


@dataclass(frozen=True)
class Convert:
    """Convert a checkpoint of the paper's codes or of TarFlow to a folder for from_pretrained: the same function.

    Nothing in the file is executed. Sizes are read from its arrays; the options say what no array tells. OUT is written
    once the flow has taken noise to data and back, and the files were read again.

    Raises:
        UserError: a damaged or foreign file, options that are needed or do not belong to its kind, or OUT exists.
    """

    source: tyro.conf.Positional[Path]
    """File of torch.save, safetensors, flax's msgpack (needs msgspec) or a pickle of JAX's arrays."""
    out: tyro.conf.Positional[Path]
    """Folder to make, with the flow; its encoder, if the source has one, in OUT/encoder."""
    kind: Kind | None = None
    """Code that wrote the file; default by the names of its arrays."""
    norm_eps: float | None = None
    """Epsilon of the LayerNorms; default 1e-6 for paper-jax, else 1e-5, as in those codes."""
    rng: Rng | None = None
    """paper-jax: original for a model made by JAX before 0.5, partitionable for a later one; default by the factors."""
    inverted: Annotated[bool | None, tyro.conf.FlagConversionOff] = None
    """paper-jax: whether the model maps noise to data forward; default True for offline RL's actor."""
    encoder: str | None = None
    """paper-jax: beginning of the encoder's names, if several fit."""
    heads: int | None = None
    """tarflow: heads of each attention; default heads 64 wide."""
    context_dropout: float | None = None
    """tarflow: the training's --drop_label; above 0, samples can be guided. Default 0."""

    def run(self) -> int:
        """Convert, and say what was read and written."""
        try:
            tensors = tensors_of(self.source)
            kind = self.kind or recognised(tensors)
            converted = self._converted(kind, tensors)
            converted.save_pretrained(self.out)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(str(error)) from None
        print(f"{self.source} ({kind}) is the same function as")
        print(f"  {self.out}  {type(converted.flow).__name__}({_settings(converted.flow.config)})")
        if converted.encoder is not None:
            print(f"  {self.out / 'encoder'}  Encoder({_settings(converted.encoder.config)})")
        if converted.unused:
            print(f"not converted: {shortened(converted.unused)}")
        return 0

    def _converted(self, kind: Kind, tensors: Tensors) -> Converted:
        function, _, known = _CONVERSIONS[kind]
        names = ("norm_eps", "rng", "inverted", "encoder", "heads", "context_dropout")
        options = {name: value for name in names if (value := getattr(self, name)) is not None}
        for name in options.keys() - known:
            of = next(other for other, (_, _, theirs) in _CONVERSIONS.items() if name in theirs)
            raise UserError(f"--{name.replace('_', '-')}: an option of {of}, but {self.source} is {kind}")
        converted: Converted = function(tensors, **options)
        return converted


def recognised(tensors: Iterable[str]) -> Kind:
    """The kind of checkpoint that has arrays of these names.

    Raises:
        ValueError: none has, or several have.
    """
    names = dict.fromkeys(tensors)
    refuse_foreign(names)
    found = [kind for kind, (_, ending, _) in _CONVERSIONS.items() if prefixes(names, ending)]
    if len(found) != 1:
        raise ValueError(
            f"source: expected a checkpoint of {', '.join(get_args(Kind))}, got one with "
            f"{shortened(names)}{f', which fits {found}: give --kind' if found else ''}"
        )
    return found[0]


def _settings(config: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in config.items())

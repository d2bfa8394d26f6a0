"""Encoder of a frozen flow: a copy that is tried out, and refused if it fails, when the flow is frozen."""

import contextlib
import copy
import inspect
import math
from itertools import chain

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from nfkern.arguments import shape_of
from nfkern.checkpoint import refuse_shards
from nfkern.flows.context import without_autocast
from nfkern.flows.encoder import Encoder, lower_hidden
from nfkern.flows.normalizer import Normalizer

ROWS = 2
"""Rows of observations that an encoder is tried on: two, so that a lost batch dimension shows."""

MOST_WIDTHS = 16
"""Likely widths of observations that an encoder is tried on, if its first layer does not tell the width."""

WIDEST = 1024
"""Width up to which all are tried if it runs on no likely one."""

FOLDS = ("is invalid for input of size", "unflatten")
"""Words of PyTorch's errors about rows that are folded into images: these can be wider than any width tried."""


def frozen_encoder(encoder: nn.Module, like: torch.Tensor, dtype: torch.dtype, context_features: int) -> nn.Module:
    """A copy for acting: in evaluation mode, without gradients, on the device and in the dtype of `like`.

    Args:
        encoder: from observations (*batch, in_features) to contexts (*batch, context_features); left as it is.
        like: a tensor of the frozen flow.
        dtype: of an `nfkern.Encoder`'s hidden weights.
        context_features: of the flow.

    Raises:
        TypeError: it is not a module, takes other arguments than observations, or has a weight that is a shard.
        ValueError: it does not run, does not return contexts, or has weights that are not finite or not there yet.
    """
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"encoder: expected a torch.nn.Module, got {type(encoder).__name__}")
    if not context_features:
        raise ValueError("encoder: expected None for a flow with context_features=0, got a module")
    if isinstance(encoder, Encoder) and encoder.config["out_features"] != context_features:
        raise ValueError(
            f"encoder: expected out_features={context_features} as the flow's context_features, "
            f"got {encoder.config['out_features']}"
        )
    for name, tensor in chain(encoder.named_parameters(), encoder.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"encoder.{name}: expected a parameter with values, got none yet; call the encoder once")
        if tensor.is_meta and not like.is_meta:
            raise ValueError(f"encoder.{name}: expected a parameter with values, got one on the meta device")
    refuse_shards(encoder, "encoder.")
    copied = copy.deepcopy(encoder).to(device=like.device, dtype=like.dtype).eval()
    for parameter in copied.parameters():
        # One by one: modules of TorchScript refuse `requires_grad_` and `zero_grad`.
        parameter.requires_grad_(False).grad = None
    # An Encoder's LayerNorms stay as they are: SiLU stands between their weights and the next product.
    if isinstance(copied, Encoder) and dtype.itemsize <= 2:
        lower_hidden(copied, dtype)
    refuse_broken(copied, f"not finite when frozen in {like.dtype}: expected finite parameters", "encoder.")
    _try(copied, like, context_features)
    return copied


def statistics(name: str, normalizer: Normalizer, features: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Center and scale of a normaliser, (features,) each, in float64 on the CPU; of any size with `features` None.

    Raises:
        TypeError: it is not a normaliser.
        ValueError: it is of another size, or not finite, or a scale is not above 0.
    """
    if not isinstance(normalizer, Normalizer):
        raise TypeError(f"{name}: expected an nfkern.Normalizer, got {type(normalizer).__name__}")
    center, scale = (tensor.detach().double().cpu() for tensor in (normalizer.center, normalizer.scale))
    if features is not None and center.shape != (features,):
        raise ValueError(f"{name}: expected one of {features} features, got {center.numel()}")
    if not (center.isfinite() & scale.isfinite() & (scale > 0)).all():
        raise ValueError(f"{name}: expected finite centers and scales > 0, got {center.tolist()} and {scale.tolist()}")
    return center, scale


@torch.no_grad()
def in_data_units(encoder: nn.Module | None, normalizer: Normalizer, context_features: int) -> nn.Module:
    """An encoder of observations in the data's units, from one of normalised observations; None for contexts.

    Raises:
        TypeError, ValueError: as `statistics`.
    """
    width = context_features if encoder is None else _in_features(encoder)
    center, scale = statistics("normalizer", normalizer, width)
    if not isinstance(encoder, nn.Module):
        return normalizer if encoder is None else encoder
    first = next(encoder.children(), None)
    if type(encoder) is not Encoder or type(first) is not nn.Linear or _hooked(encoder) or _hooked(first):
        return nn.Sequential(normalizer, encoder)
    folded = copy.deepcopy(encoder)
    layer: nn.Linear = folded[0]  # type: ignore[assignment]
    weight = layer.weight.double().cpu() / scale
    layer.bias.copy_(layer.bias.double().cpu() - weight @ center)
    layer.weight.copy_(weight)
    return folded


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def encoded(encoder: nn.Module, observations: torch.Tensor, context_features: int) -> torch.Tensor:
    """Contexts (*batch, context_features) of observations (*batch, in_features).

    The encoder gets rows and no autocast, as when it was tried: layers such as BatchNorm1d need features on axis 1.

    Raises:
        ValueError: the encoder returns something else, or the observations have no dimension.
    """
    if not observations.ndim:
        raise ValueError("context: expected observations of shape (..., in_features), got ()")
    *batch, features = observations.shape
    rows = observations.reshape(math.prod(batch), features)
    with without_autocast(observations.device):
        contexts: torch.Tensor = encoder(rows)
    wanted, found = (rows.shape[0], context_features), shape_of(contexts)
    if found != wanted:
        raise _no_contexts(wanted, shape_of(rows), found)
    return contexts.reshape(*batch, context_features)


def refuse_broken(module: nn.Module, expected: str, prefix: str = "") -> None:
    """Check that all parameters and buffers are finite.

    Raises:
        ValueError: one is not; the message names it and says what was expected.
    """
    for name, tensor in chain(module.named_parameters(prefix.rstrip(".")), module.named_buffers(prefix.rstrip("."))):
        if tensor.is_floating_point() and not tensor.is_meta and not (finite := tensor.isfinite()).all():
            where = (~finite).nonzero()[0].tolist()
            raise ValueError(f"{name}: {expected}, got {called(tensor[tuple(where)].item())} first at index {where}")


def called(number: float) -> str:
    """Text for a number that is not finite, for messages."""
    return "NaN" if number != number else str(float(number))


def _try(encoder: nn.Module, like: torch.Tensor, context_features: int) -> None:
    """Run the encoder on zeros, as wide as its first layer says; if that does not say, on likely widths, then on all.

    Raises:
        TypeError: it takes other arguments.
        ValueError: it cannot return contexts, whatever the width.
    """
    try:
        inspect.signature(encoder.forward).bind(like)
    except TypeError as error:
        raise TypeError(f"encoder: expected a module that takes observations alone, got one with {error}") from None
    except ValueError:
        pass  # Its signature is unknown.
    wanted, known, shapes = (ROWS, context_features), _in_features(encoder), dict[int, tuple[int, ...]]()
    failure, folds = ValueError(), False
    sizes = dict.fromkeys([context_features, *(size for p in encoder.parameters() for size in p.shape)])
    # If the encoder runs on a width that no layer has, the layers' sizes do not tell its width.
    control = max(sizes) + 1
    for width in (known,) if known is not None else (control, *list(sizes)[:MOST_WIDTHS]):
        try:
            shapes[width] = _shape_of_contexts(encoder, like, width)
        except Exception as error:
            failure = ValueError(f"encoder: does not run on observations ({ROWS}, {width}): {error}")
            folds = folds or any(words in str(error) for words in FOLDS)
            if known is not None or isinstance(error, NotImplementedError):
                raise failure from error
    if wanted in shapes.values():
        return
    if not shapes:
        if folds or _runs_on_some_width(encoder, like, wanted):
            return
        raise failure
    if control in shapes and any(len(shape) == 2 and shape[0] == ROWS for shape in shapes.values()):
        return
    width, found = list(shapes.items())[-1]
    raise _no_contexts(wanted, (ROWS, width), found)


def _shape_of_contexts(encoder: nn.Module, like: torch.Tensor, width: int) -> tuple[int, ...]:
    with torch.random.fork_rng([like.device] if like.is_cuda else []), torch.no_grad():
        return shape_of(encoder(like.new_zeros(ROWS, width)))


def _runs_on_some_width(encoder: nn.Module, like: torch.Tensor, wanted: tuple[int, ...]) -> bool:
    """Whether the encoder returns contexts of this shape for observations of any width up to `WIDEST`."""
    # Not of a compiled module, which compiles again for every width.
    encoder = getattr(encoder, "_orig_mod", encoder)
    for width in range(1, WIDEST + 1):
        with contextlib.suppress(Exception):
            if _shape_of_contexts(encoder, like, width) == wanted:
                return True
    return False


def _in_features(encoder: nn.Module) -> int | None:
    """Width of observations, if the first layer tells it."""
    # A compiled module is a wrapper, and compiles again for every width that is tried.
    encoder = getattr(encoder, "_orig_mod", encoder)
    if isinstance(encoder, Encoder):
        return int(encoder.config["in_features"])
    if isinstance(encoder, nn.Sequential) and len(encoder):
        return _in_features(encoder[0])
    if isinstance(encoder, nn.Linear):
        return encoder.in_features
    if isinstance(encoder, Normalizer):
        return encoder.center.numel()
    return encoder.input_size if isinstance(encoder, nn.RNNBase) else None


def _no_contexts(wanted: tuple[int, ...], observed: tuple[int, ...], found: tuple[int, ...]) -> ValueError:
    return ValueError(f"encoder: expected contexts of shape {wanted} for observations {observed}, got {found}")

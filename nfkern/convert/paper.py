"""Checkpoints of the paper's own codes, in PyTorch and in JAX.

Codes: https://github.com/Princeton-RL/normalising-flows-4-reinforcement-learning, where `blocks.K.l` are the factors of
a block's mixing matrix, and `blocks.K.s` and `blocks.K.t` its networks for log_scale and shift.
"""

import re

import torch

from nfkern.arguments import flag
from nfkern.convert.arrays import Tensors, below, check, common_dtype, numbers, prefixes, shortened, size_of
from nfkern.convert.converted import Converted
from nfkern.convert.files import Source, tensors_of
from nfkern.convert.foreign import refuse_foreign
from nfkern.convert.initial import Rng, initial_mixing
from nfkern.flows.coupling import CouplingFlow
from nfkern.flows.encoder import Encoder

_LAYERS = {"input": 0, "norm1": 2, "hidden": 3, "norm2": 5, "output": 6}
"""Places of the layers in the networks of a block."""


def paper_torch(source: Source, *, norm_eps: float = 1e-5) -> Converted:
    """Convert the paper's PyTorch checkpoint, `{"model": ..., "encoder": ...}`, or the flow's state dict.

    Sizes, blocks and widths are read from the arrays.

    Args:
        source: a file of torch.save or safetensors, or the dict itself.
        norm_eps: epsilon of the LayerNorms, which no array tells; PyTorch's default as in the paper's code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another model, a damaged file, or weights that do not come back from a round trip.
    """
    tensors = tensors_of(source)
    refuse_foreign(tensors)
    prefix = _only("blocks.0.l.P", tensors, "the paper's PyTorch flow")
    encoders = prefixes(tensors, "fc_out.weight")
    model = below(tensors, prefix)
    if encoders:
        encoder_prefix = _only("fc_out.weight", tensors, "the paper's PyTorch encoder")
        model = model if prefix else {name: each for name, each in model.items() if not name.startswith(encoder_prefix)}
        unknown = [name for name in tensors if not name.startswith((prefix, encoder_prefix))]
    else:
        unknown = [name for name in tensors if not name.startswith(prefix)]
    if unknown:
        raise ValueError(f"source: expected the flow {prefix!r} and its encoder alone; unknown {shortened(unknown)}")
    blocks, features = numbers(model, r"blocks\.(\d+)\."), size_of(model, "blocks.0.l.P", 2)[0]
    permutations = _permutations(model, blocks, features)
    flow = _flow(model, permutations, norm_eps=norm_eps, stored_permutation=True, inverted=False)
    encoder = _torch_encoder(below(tensors, encoder_prefix), norm_eps) if encoders else None
    return _together(flow, encoder)


def paper_jax(
    source: Source,
    *,
    rng: Rng | None = None,
    inverted: bool | None = None,
    encoder: str | None = None,
    norm_eps: float = 1e-6,
) -> Converted:
    """Convert a checkpoint of the paper's JAX codes: imitation, offline RL, or unsupervised goal sampling.

    Sizes, blocks and widths are read from the arrays; what else the checkpoint has, such as critics and optimisers, is
    left out and named in `unused`. The permutation of the mixing matrices is in no checkpoint, and drawn as JAX does.

    Args:
        source: a pickle, flax's msgpack, safetensors, or the nested dicts themselves.
        rng: "original" if the model was made by JAX before 0.5, as the paper's was, "partitionable" if by a later one;
            None to tell by the factors L and U, which training leaves near those that they started from.
        inverted: whether the model maps noise to data forward; None for True of offline RL's actor, else False.
        encoder: beginning of the encoder's names, for a checkpoint with several that fit.
        norm_eps: epsilon of the LayerNorms, which no array tells; flax's default as in the paper's code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another model, a damaged file, what the arrays do not tell and the arguments do not say, or weights
            that do not come back from a round trip.
    """
    if rng not in (None, "original", "partitionable"):
        raise ValueError(f"rng: expected None, 'original' or 'partitionable', got {rng!r}")
    # Optimisers keep moments by the same names.
    tensors = {name: each for name, each in tensors_of(source).items() if "opt_state" not in name.split(".")}
    refuse_foreign(tensors)
    prefix = _only("blocks_0.l.L", tensors, "the paper's JAX flow")
    model = {_torch_name(name): _as_torch(name, each) for name, each in below(tensors, prefix).items()}
    blocks, features = numbers(model, r"blocks\.(\d+)\."), size_of(model, "blocks.0.l.L", 2)[0]
    if inverted is None:
        inverted = "modules_actor" in prefix.split(".")
    identity = torch.arange(features).repeat(blocks, 1)
    flow = _flow(model, identity, norm_eps=norm_eps, stored_permutation=False, inverted=flag("inverted", inverted))
    # After the arrays were checked.
    state = flow.state_dict()
    flow.load_state_dict(
        {**state, "permutation": _fixed_permutation(state["mixing_lu"].double(), rng).expand(blocks, -1)}
    )
    start, found = _jax_encoder(tensors, flow.context_features, encoder, norm_eps)
    used = tuple(each for each in (prefix, start) if each is not None)
    return _together(flow, found, tuple(sorted(name for name in tensors if not name.startswith(used))))


def _torch_name(name: str) -> str:
    """The PyTorch code's name of an array of the JAX code."""
    kinds = {"kernel": "weight", "scale": "weight"}
    start, _, kind = re.sub(r"(^|\.)(blocks|layers)_(\d+)(?=\.)", r"\1\2.\3", name).rpartition(".")
    return f"{start.replace('.layers.', '.')}.{kinds.get(kind, kind)}"


def _as_torch(name: str, array: torch.Tensor) -> torch.Tensor:
    return array.T if name.endswith("kernel") and array.ndim == 2 else array


def _fixed_permutation(packed: torch.Tensor, rng: Rng | None) -> torch.Tensor:
    """The permutation of all blocks, told by their factors (K, D, D) if it is not said.

    Raises:
        ValueError: the factors do not tell.
    """
    features = packed.shape[-1]
    kinds: tuple[Rng, Rng] = ("original", "partitionable")
    if rng is not None:
        return initial_mixing(features, rng).permutation
    first, second = (initial_mixing(features, kind) for kind in kinds)
    if torch.equal(first.permutation, second.permutation):
        return first.permutation
    far = [float((packed - each.packed).norm()) for each in (first, second)]
    if not min(far) < 0.5 * max(far):
        raise ValueError(
            "rng: expected 'original' (JAX before 0.5) or 'partitionable' (later): the mixing matrices' factors are "
            f"far from what either starts with ({far[0]:.3g} and {far[1]:.3g}), so they do not tell the permutation"
        )
    return (first if far[0] < far[1] else second).permutation


def _jax_encoder(
    tensors: Tensors, outputs: int, chosen: str | None, norm_eps: float
) -> tuple[str | None, Encoder | None]:
    """The encoder that fits, and the beginning of its names; None without one.

    Raises:
        ValueError: several fit, or the chosen one does not.
    """
    starts = prefixes(tensors, "Dense_0.kernel")
    if chosen is not None:
        chosen = chosen.rstrip(".") + "."
        if chosen not in starts:
            raise ValueError(
                f"encoder: expected one of {', '.join(map(repr, sorted(starts))) or 'none'}, got {chosen!r}"
            )
        starts = [chosen]
    fitting = [start for start in starts if chosen is not None or _ends_in(below(tensors, start), outputs)]
    if len(fitting) > 1:
        raise ValueError(f"encoder: expected one of {', '.join(map(repr, sorted(fitting)))}: the flow takes any")
    if not fitting:
        return None, None
    arrays = {_torch_name(name): _as_torch(name, each) for name, each in below(tensors, fitting[0]).items()}
    layers = numbers(arrays, r"LayerNorm_(\d+)\.")
    linears, norms = [f"Dense_{i}" for i in range(layers + 1)], [f"LayerNorm_{i}" for i in range(layers)]
    return fitting[0], _encoder(arrays, linears, norms, norm_eps)


def _ends_in(arrays: Tensors, outputs: int) -> bool:
    """Whether these are layers of an encoder to so many features."""
    layers = numbers(arrays, r"LayerNorm_(\d+)\.")
    last = arrays.get(f"Dense_{layers}.kernel")
    return layers > 0 and last is not None and last.ndim == 2 and last.shape[1] == outputs


def _only(ending: str, tensors: Tensors, what: str) -> str:
    """Beginning of the one name that ends so.

    Raises:
        ValueError: there is none, or several.
    """
    found = prefixes(tensors, ending)
    if len(found) != 1:
        got = f"several: {', '.join(map(repr, sorted(found)))}" if found else f"{shortened(tensors)}"
        raise ValueError(f"source: expected {what}, with one array called {ending}, got {got}")
    return found[0]


def _permutations(model: Tensors, blocks: int, features: int) -> torch.Tensor:
    """P of each block as places, (K, D).

    Raises:
        ValueError: it is no permutation matrix, or P_inv is not its inverse.
    """
    found = []
    for k in range(blocks):
        matrix = model.get(f"blocks.{k}.l.P", torch.zeros(0))
        if matrix.shape != (features, features):
            raise ValueError(f"source: expected shape {(features, features)} for blocks.{k}.l.P")
        places = matrix.argmax(1)
        exact = torch.nn.functional.one_hot(places, features).to(matrix.dtype)
        inverse = model.get(f"blocks.{k}.l.P_inv", matrix.T)
        if not torch.equal(exact, matrix) or not torch.equal(exact.sum(0), exact.sum(1)):
            raise ValueError(f"source: expected a permutation matrix of zeros and ones in blocks.{k}.l.P")
        if inverse.shape != matrix.shape or not torch.allclose(inverse.to(matrix.dtype), matrix.T, atol=1e-5):
            raise ValueError(f"source: expected the inverse of blocks.{k}.l.P in blocks.{k}.l.P_inv")
        found.append(places)
    return torch.stack(found)


def _flow(
    model: Tensors, permutations: torch.Tensor, *, norm_eps: float, stored_permutation: bool, inverted: bool
) -> CouplingFlow:
    """The flow of arrays by the names of the PyTorch code."""
    features, blocks = size_of(model, "blocks.0.l.s", 1)[0], permutations.shape[0]
    first, inputs = size_of(model, "blocks.0.s.0.weight", 2)
    second, kept = size_of(model, "blocks.0.s.3.weight", 2)[0], (features + 1) // 2
    if inputs < kept:
        raise ValueError(f"source: expected {kept} or more columns of blocks.0.s.0.weight for {features} features")
    square, transformed = (features, features), features // 2
    mixing = {"L": square, "U": square, "s": (features,)}
    mixing |= {"P": square, "P_inv": square} if stored_permutation else {}
    network = {
        **{"0.weight": (first, inputs), "0.bias": (first,), "2.weight": (first,), "2.bias": (first,)},
        **{"3.weight": (second, first), "3.bias": (second,), "5.weight": (second,), "5.bias": (second,)},
        **{"6.weight": (transformed, second), "6.bias": (transformed,)},
    }
    shapes = {f"blocks.{k}.l.{name}": shape for k in range(blocks) for name, shape in mixing.items()}
    shapes |= {f"blocks.{k}.{n}.{name}": shape for k in range(blocks) for n in "st" for name, shape in network.items()}
    check("the paper's flow", model, shapes)
    flow = CouplingFlow(
        features, inputs - kept, blocks=blocks, hidden=(first, second), norm_eps=norm_eps, inverted=inverted
    )
    dtype = common_dtype(model.values())

    def stacked(name: str) -> torch.Tensor:
        pairs = [torch.stack([model[f"blocks.{k}.s.{name}"], model[f"blocks.{k}.t.{name}"]]) for k in range(blocks)]
        return torch.stack(pairs).to(dtype)

    state = {
        f"{layer}_{kind}": stacked(f"{place}.{kind}") for layer, place in _LAYERS.items() for kind in ("weight", "bias")
    }
    both = state["input_weight"]
    state["input_weight"] = both[..., :kept].contiguous()
    if inputs > kept:
        state["context_weight"] = both[..., kept:].contiguous()
    state["mixing_lu"] = torch.stack([_packed(below(model, f"blocks.{k}.l.")) for k in range(blocks)]).to(dtype)
    state["permutation"] = permutations
    flow.to(dtype).load_state_dict(state)
    return flow


def _packed(factors: Tensors) -> torch.Tensor:
    """L below the diagonal, U above it and s on it; the paper's code, too, leaves out the rest."""
    return torch.tril(factors["L"], -1) + torch.triu(factors["U"], 1) + torch.diag(factors["s"])


def _torch_encoder(arrays: Tensors, norm_eps: float) -> Encoder:
    layers = numbers(arrays, r"fc(\d+)\.weight")
    linears = [*(f"fc{i + 1}" for i in range(layers)), "fc_out"]
    return _encoder(arrays, linears, [f"norm{i + 1}" for i in range(layers)], norm_eps)


def _encoder(arrays: Tensors, linears: list[str], norms: list[str], norm_eps: float) -> Encoder:
    """An encoder of layers that have these names."""
    if not norms:
        raise ValueError(f"source: expected an encoder of one hidden layer or more, got {shortened(arrays)}")
    width, inputs = size_of(arrays, f"{linears[0]}.weight", 2)
    outputs = size_of(arrays, f"{linears[-1]}.weight", 2)[0]
    heights = [*([width] * len(norms)), outputs]
    shapes: dict[str, tuple[int, ...]] = {}
    for index, (name, height) in enumerate(zip(linears, heights, strict=True)):
        shapes |= {f"{name}.weight": (height, width if index else inputs), f"{name}.bias": (height,)}
    shapes |= {f"{name}.{kind}": (width,) for name in norms for kind in ("weight", "bias")}
    check("the paper's encoder", arrays, shapes)
    encoder = Encoder(inputs, outputs, width=width, layers=len(norms), norm_eps=norm_eps)
    places = {name: 3 * index for index, name in enumerate(linears)} | {n: 3 * i + 1 for i, n in enumerate(norms)}
    dtype = common_dtype(arrays.values())
    state = {f"{places[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": arrays[name].to(dtype) for name in shapes}
    encoder.to(dtype=dtype).load_state_dict(state)
    return encoder


def _together(flow: CouplingFlow, encoder: Encoder | None, unused: tuple[str, ...] = ()) -> Converted:
    """The pair, tried out.

    Raises:
        ValueError: the encoder's contexts have another size.
    """
    if encoder is not None and encoder.config["out_features"] != flow.context_features:
        raise ValueError(
            f"source: expected an encoder to {flow.context_features} features, as the flow takes, got one to "
            f"{encoder.config['out_features']}"
        )
    return Converted(flow.eval(), None if encoder is None else encoder.eval(), unused).checked()

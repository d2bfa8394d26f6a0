"""Checkpoints of the paper's own codes, in PyTorch and in JAX.

Codes: https://github.com/Princeton-RL/normalising-flows-4-reinforcement-learning, where `blocks.K.l` are the factors of
a block's mixing matrix, and `blocks.K.s` and `blocks.K.t` its networks for log_scale and shift.
"""

import torch

from nfkern.convert.arrays import Tensors, below, check, common_dtype, numbers, prefixes, shortened, size_of
from nfkern.convert.converted import Converted
from nfkern.convert.files import Source, tensors_of
from nfkern.convert.foreign import refuse_foreign
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


def _together(flow: CouplingFlow, encoder: Encoder | None) -> Converted:
    """The pair, tried out.

    Raises:
        ValueError: the encoder's contexts have another size.
    """
    if encoder is not None and encoder.config["out_features"] != flow.context_features:
        raise ValueError(
            f"source: expected an encoder to {flow.context_features} features, as the flow takes, got one to "
            f"{encoder.config['out_features']}"
        )
    return Converted(flow.eval(), None if encoder is None else encoder.eval()).checked()

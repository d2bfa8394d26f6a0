"""Checkpoints of TarFlow's own code, https://github.com/apple/ml-tarflow."""

import torch
from torch.nn.functional import one_hot

from nfkern.arguments import number, whole
from nfkern.convert.arrays import Tensors, below, check, common_dtype, numbers, prefixes, shortened, size_of
from nfkern.convert.converted import ROWS, Converted
from nfkern.convert.files import Source, tensors_of
from nfkern.convert.foreign import refuse_foreign
from nfkern.flows.causal import CausalFlow

_LAYER = {
    "attention_norm": "attention.norm",
    "qkv": "attention.qkv",
    "projection": "attention.proj",
    "mlp_norm": "mlp.norm",
    "up": "mlp.main.0",
    "down": "mlp.main.2",
}
HEAD_WIDTH = 64


def tarflow(
    source: Source, *, heads: int | None = None, norm_eps: float = 1e-5, context_dropout: float = 0.0
) -> Converted:
    """Convert TarFlow's checkpoint, the state dict of its `Model`, to a `CausalFlow` over an image's patches.

    Events are what `Model.patchify` makes, (patches, channels * patch_size^2). Classes become one-hot contexts; no
    context is the mean over classes, as TarFlow's `y=None` is. Sizes, blocks and layers are read from the arrays.

    Args:
        source: a file of torch.save or safetensors, or the dict itself.
        heads: of each attention; None for heads 64 wide, which TarFlow's code always has.
        norm_eps: epsilon of the LayerNorms; PyTorch's default as in TarFlow's code.
        context_dropout: `--drop_label` of the training; above 0, the flow takes no context, too, and guidance.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another model, a damaged file, a learned prior variance (without NVP), or weights that do not come
            back from a round trip.
    """
    tensors = tensors_of(source)
    refuse_foreign(tensors)
    found = prefixes(tensors, "blocks.0.proj_in.weight")
    if len(found) != 1:
        raise ValueError(
            f"source: expected TarFlow's state dict, with one array called blocks.0.proj_in.weight, got "
            f"{len(found) or shortened(tensors)}"
        )
    if unknown := [name for name in tensors if not name.startswith(found[0])]:
        raise ValueError(f"source: expected TarFlow's state dict alone; unknown {shortened(unknown)}")
    model = below(tensors, found[0])
    blocks, layers = numbers(model, r"blocks\.(\d+)\."), numbers(model, r"blocks\.0\.attn_blocks\.(\d+)\.")
    width, features = size_of(model, "blocks.0.proj_in.weight", 2)
    tokens, outputs = size_of(model, "blocks.0.pos_embed", 2)[0], size_of(model, "blocks.0.proj_out.weight", 2)[0]
    hidden = size_of(model, "blocks.0.attn_blocks.0.mlp.main.0.weight", 2)[0]
    classes = size_of(model, "blocks.0.class_embed", 3)[0] if "blocks.0.class_embed" in model else 0
    check("TarFlow", model, _shapes(blocks, layers, width, features, tokens, outputs, hidden, classes))
    _refuse_others(model, blocks, outputs // features, hidden / width)
    flow = CausalFlow(
        tokens,
        features,
        classes,
        blocks=blocks,
        layers=layers,
        width=width,
        heads=_heads(heads, width),
        expansion=hidden // width,
        norm_eps=norm_eps,
        context_dropout=number("context_dropout", context_dropout, "a probability in [0, 1)", 1),
    )
    dtype = common_dtype(model.values())
    flow.to(dtype).load_state_dict(
        {name: each.to(dtype) for name, each in _state(model, blocks, layers, classes).items()}
    )
    labels = torch.arange(ROWS).remainder(max(classes, 1))
    return Converted(flow.eval()).checked(one_hot(labels, classes).double() if classes else None)


def _heads(heads: int | None, width: int) -> int:
    if heads is not None:
        return whole("heads", heads, 1)
    if width % HEAD_WIDTH:
        raise ValueError(
            f"heads: expected a number for the width {width}, which is no multiple of {HEAD_WIDTH}; no array tells it"
        )
    return width // HEAD_WIDTH


def _shapes(
    blocks: int, layers: int, width: int, features: int, tokens: int, outputs: int, hidden: int, classes: int
) -> dict[str, tuple[int, ...]]:
    layer = {
        "attention.norm": (width,),
        "attention.qkv": (3 * width, width),
        "attention.proj": (width, width),
        "mlp.norm": (width,),
        "mlp.main.0": (hidden, width),
        "mlp.main.2": (width, hidden),
    }
    linears = {f"attn_blocks.{index}.{name}": shape for index in range(layers) for name, shape in layer.items()}
    linears |= {"proj_in": (width, features), "proj_out": (outputs, width)}
    block: dict[str, tuple[int, ...]] = {"pos_embed": (tokens, width), "attn_mask": (tokens, tokens)}
    block |= {"class_embed": (classes, 1, width)} if classes else {}
    for name, shape in linears.items():
        block |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {"var": (tokens, features)} | {f"blocks.{k}.{name}": s for k in range(blocks) for name, s in block.items()}


def _refuse_others(model: Tensors, blocks: int, maps: int, expansion: float) -> None:
    """Refuse what the code could load but nfkern's flow cannot be.

    Raises:
        ValueError: the message says which.
    """
    outputs, features = model["blocks.0.proj_out.bias"].shape[0], model["var"].shape[1]
    if outputs not in (features, 2 * features):
        raise ValueError(
            f"source: expected {features} or {2 * features} rows of proj_out for {features} features, got {outputs}"
        )
    if expansion != int(expansion) or not expansion:
        raise ValueError(f"source: expected MLPs a whole number of times as wide as the layers, got {expansion} times")
    if not torch.equal(model["var"], torch.ones_like(model["var"])):
        why = "without NVP its prior has a learned variance" if maps == 1 else "with NVP the prior is a standard normal"
        raise ValueError(f"source: expected var of ones, got others: {why}, and nfkern's has variance 1")
    for k in range(blocks):
        mask = model[f"blocks.{k}.attn_mask"]
        if not torch.equal(mask, torch.ones_like(mask).tril()):
            raise ValueError(f"source: expected the causal mask in blocks.{k}.attn_mask, got another")


def _state(model: Tensors, blocks: int, layers: int, classes: int) -> Tensors:
    """The flow's state dict."""

    def stacked(name: str) -> torch.Tensor:
        return torch.stack([model[f"blocks.{k}.{name}"] for k in range(blocks)])

    state = {
        f"{ours}_{kind}": torch.stack([stacked(f"attn_blocks.{i}.{theirs}.{kind}") for i in range(layers)], 1)
        for ours, theirs in _LAYER.items()
        for kind in ("weight", "bias")
    }
    state |= {"input_weight": stacked("proj_in.weight"), "position": stacked("pos_embed")}
    state["input_bias"] = bias = stacked("proj_in.bias")
    if classes:
        embedded = stacked("class_embed").squeeze(2).double()
        mean = embedded.mean(1)
        state["input_bias"] = bias.double() + mean
        state["context_weight"] = (embedded - mean.unsqueeze(1)).mT.contiguous()
    features = model["var"].shape[1]
    for kind in ("weight", "bias"):
        output = stacked(f"proj_out.{kind}")
        if output.shape[1] == features:
            # Without NVP there is no scale.
            output = torch.cat([torch.zeros_like(output), output], 1)
        state[f"output_{kind}"] = output.unflatten(1, (2, features))
    return state

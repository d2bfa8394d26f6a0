"""Make the files of `stored/` with the original codes, which the tests do not need.

    python tests/nfkern/convert/make_stored.py PAPER TARFLOW KIND

PAPER is a checkout of https://github.com/Princeton-RL/normalising-flows-4-reinforcement-learning, TARFLOW one of
https://github.com/apple/ml-tarflow; KIND is `torch` (needs torch) or `jax` (needs jax, flax, optax, distrax and
safetensors). All weights are drawn at random. Some words of the originals' text are replaced: the encoders' width 512
by 16, TarFlow's heads by narrower ones, and its casts to float32 by nothing, so that it runs in float64.
"""

import sys
import types
from pathlib import Path

STORED = Path(__file__).parent / "stored"
FEATURES, CONTEXT, OBSERVED, ROWS = 3, 5, 4, 6


def original(path, **replaced):
    """The module of a file, with words of its text replaced."""
    text = path.read_text()
    for old, new in replaced.items():
        text = text.replace(old, new)
    module = types.ModuleType(path.stem)
    sys.modules[path.stem] = module
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


def drawn_torch(module, seed, scale=0.3):
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] in ("P", "P_inv"):
            continue
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        norm = parameter.ndim == 1 and bool((parameter == 1).all())
        parameter.data = (noise * scale + (1 if norm else parameter.data)).to(parameter.dtype)
    return module


def make_torch(paper, tarflow):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    code = original(paper / "il-and-cil/utils/torch_fcnf.py", **{"512": "16"})
    prior = torch.distributions.MultivariateNormal(torch.zeros(FEATURES).double(), torch.eye(FEATURES).double())
    model = drawn_torch(code.RealNVP(FEATURES, 8, CONTEXT, 3, prior).double(), 1)
    encoder = drawn_torch(code.GEncoder(OBSERVED, CONTEXT).double(), 2)
    x, z = torch.randn(2, ROWS, FEATURES).double()
    observations = torch.randn(ROWS, OBSERVED).double()
    with torch.no_grad():
        contexts = encoder(observations)
        noise, _, log_det = model(x, contexts)
        sampled = model.reverse(z, contexts)
    arrays = {f"source.model.{name}": value for name, value in model.state_dict().items()}
    arrays |= {f"source.encoder.{name}": value for name, value in encoder.state_dict().items()}
    arrays |= {"observations": observations, "contexts": contexts, "x": x, "noise": noise, "log_det": log_det}
    arrays |= {"log_prob": prior.log_prob(noise) + log_det, "z": z, "sampled": sampled}
    save_file({k: v.contiguous() for k, v in arrays.items()}, STORED / "paper_torch.safetensors")

    code = original(tarflow / "transformer_flow.py", **{"head_dim: int = 64": "head_dim: int = 2", ".float()": ""})
    for name, classes, nvp in (("tarflow", 3, True), ("tarflow_vp", 0, False)):
        # One channel, images 4 x 4 in patches of 2 x 2, width 4.
        model = drawn_torch(code.Model(1, 4, 2, 4, 3, 2, nvp=nvp, num_classes=classes).double(), 3, 0.15)
        images = torch.randn(ROWS, 1, 4, 4).double()
        x, z = model.patchify(images), torch.randn(ROWS, 4, 4).double()
        labels = torch.tensor([0, 1, 2, 0, 1, 2]) if classes else None
        arrays = {f"source.{key}": value for key, value in model.state_dict().items()}
        with torch.no_grad():
            for kind, y in {"": labels, "_marginal": None}.items():
                noise, _, mean_log_det = model(images, y)
                sampled = model.patchify(model.reverse(z.clone(), y))
                arrays |= {f"noise{kind}": noise, f"log_det{kind}": mean_log_det * 16, f"sampled{kind}": sampled}
            if classes:
                arrays["guided"] = model.patchify(model.reverse(z.clone(), labels, guidance=0.7))
        arrays |= {"x": x, "z": z} | ({"labels": labels} if classes else {})
        save_file({k: v.contiguous() for k, v in arrays.items()}, STORED / f"{name}.safetensors")


def main():
    STORED.mkdir(exist_ok=True)
    paper, tarflow, kind = sys.argv[1:]
    {"torch": make_torch}[kind](Path(paper), Path(tarflow))


if __name__ == "__main__":
    main()

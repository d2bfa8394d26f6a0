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


def make_jax(paper, _):
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import serialization
    from safetensors.numpy import save_file

    # Python 3.11 takes no array as a default of a dataclass.
    default = "object = __import__('dataclasses').field(default_factory=lambda: jax.random.PRNGKey(0))"
    replaced = {"jax.random.PRNGKey = jax.random.PRNGKey(0)": default, "512": "16"}
    random = np.random.default_rng(0)

    def drawn(tree, scale):
        return jax.tree_util.tree_map(
            lambda a: jnp.asarray(a + scale * random.standard_normal(a.shape), jnp.float32), tree
        )

    for rng in ("original", "partitionable"):
        jax.config.update("jax_threefry_partitionable", rng == "partitionable")
        code = original(paper / "il-and-cil/utils/flax_fcnf.py", **replaced)
        flow = code.RealNVP(num_blocks=3, in_channels=FEATURES, cond_channels=CONTEXT, channels=4)
        encoder = code.RealNVPEncoder(input_size=OBSERVED, rep_size=CONTEXT)
        x, z = random.standard_normal((2, ROWS, FEATURES)).astype(np.float32)
        observations = random.standard_normal((ROWS, OBSERVED)).astype(np.float32)
        key = jax.random.PRNGKey(1)
        params = {"model": flow.init(key, x=x, y=np.zeros((ROWS, CONTEXT)))}
        params["encoder"] = encoder.init(key, x=observations)
        params = drawn(params, 0.1)
        contexts = encoder.apply(params["encoder"], observations)
        noise, log_det = flow.apply(params["model"], x=x, y=contexts)
        sampled, _ = flow.apply(params["model"], x=z, y=contexts, reverse=True)
        log_prob = code.create_prior(FEATURES).log_prob(noise) + log_det
        arrays = {"contexts": contexts, "noise": noise, "log_det": log_det, "sampled": sampled, "log_prob": log_prob}
        arrays |= {"x": x, "z": z, "observations": observations}
        leaves = jax.tree_util.tree_flatten_with_path(params)[0]
        arrays |= {"source." + ".".join(key.key for key in path): leaf for path, leaf in leaves}
        arrays = {name: np.asarray(each) for name, each in arrays.items()}
        save_file(arrays, STORED / f"paper_jax_{rng}.safetensors")
    (STORED / "paper_jax.msgpack").write_bytes(serialization.to_bytes(params))


def main():
    STORED.mkdir(exist_ok=True)
    paper, tarflow, kind = sys.argv[1:]
    {"torch": make_torch, "jax": make_jax}[kind](Path(paper), Path(tarflow))


if __name__ == "__main__":
    main()

"""TarFlow's checkpoints: the same function with classes, without, and guided. `make_stored.py` made the numbers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import one_hot

import nfkern
from nfkern.convert import tarflow


def stored(name):
    arrays = load_file(Path(__file__).parent / "stored" / f"{name}.safetensors")
    return arrays, {key.removeprefix("source."): each for key, each in arrays.items() if key.startswith("source.")}


def assert_close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def assert_same(flow, arrays, context, kind=""):
    noise, log_det = flow.to_latent(arrays["x"], context)
    assert_close(noise, arrays[f"noise{kind}"])
    # TarFlow's log-determinants are means.
    assert_close(log_det, arrays[f"log_det{kind}"])
    assert_close(flow.to_data(arrays["z"], context)[0], arrays[f"sampled{kind}"])


def test_classes_are_one_hot_contexts(tmp_path):
    arrays, source = stored("tarflow")
    torch.save(source, tmp_path / "model.pth")
    converted = tarflow(tmp_path / "model.pth", heads=2, context_dropout=0.1)
    converted.save_pretrained(tmp_path / "out")
    flow = nfkern.CausalFlow.from_pretrained(tmp_path / "out").eval()
    context = one_hot(arrays["labels"], 3).double()
    assert_same(flow, arrays, context)
    assert_same(flow, arrays, None, "_marginal")
    assert_close(flow.to_data(arrays["z"], context, guidance=0.7)[0], arrays["guided"])
    assert tarflow(source, heads=2).flow.context_dropout == 0


def test_without_nvp_and_without_classes():
    arrays, source = stored("tarflow_vp")
    assert_same(tarflow(source, heads=2).flow, arrays, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["var"].mul_(2), r"expected var of ones, got others: with NVP the prior is a standard normal"),
        (lambda s: s["blocks.1.attn_mask"].fill_(1), "causal mask in blocks.1.attn_mask"),
        (lambda s: s.pop("blocks.2.attn_blocks.1.mlp.norm.bias"), r"missing \[blocks.2.attn_blocks.1.mlp.norm.bias\]"),
        (lambda s: s.update(colour=torch.zeros(1)), r"unknown \[colour\]"),
        (lambda s: s.pop("blocks.0.proj_in.weight"), r"one array called blocks.0.proj_in.weight, got \[blocks"),
        (lambda s: s.update({"blocks.1.pos_embed": torch.zeros(3, 4)}), r"expected shape \(4, 4\) for blocks.1.pos_"),
    ],
)
def test_damage_is_named(change, message):
    source = {name: each.clone() for name, each in stored("tarflow")[1].items()}
    change(source)
    with pytest.raises(ValueError, match=f"source: .*{message}"):
        tarflow(source, heads=2)


def test_heads_that_no_array_tells():
    source = stored("tarflow")[1]
    with pytest.raises(ValueError, match="heads: expected a number for the width 4, which is no multiple of 64"):
        tarflow(source)
    with pytest.raises(ValueError, match="heads: expected a divisor of the width 4, got 3"):
        tarflow(source, heads=3)


def test_a_learned_variance_is_refused():
    source = {name: each.clone() for name, each in stored("tarflow_vp")[1].items()}
    source["var"][0, 0] = 0.5
    with pytest.raises(ValueError, match="without NVP its prior has a learned variance"):
        tarflow(source, heads=2)

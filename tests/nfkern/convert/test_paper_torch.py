"""The paper's PyTorch checkpoints: the same function, and files that are refused. `make_stored.py` made the numbers."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nfkern
from nfkern.convert import paper_torch

STORED = load_file(Path(__file__).parent / "stored" / "paper_torch.safetensors")
SOURCE = {name.removeprefix("source."): value for name, value in STORED.items() if name.startswith("source.")}


def nested(tensors):
    """As the paper's code saves it."""
    names = {"model": "model.", "encoder": "encoder."}
    return {
        key: {name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)}
        for key, start in names.items()
    }


def assert_close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


def assert_the_same_function(flow, encoder):
    with torch.no_grad():
        contexts = encoder(STORED["observations"])
        assert_close(contexts, STORED["contexts"])
        noise, log_det = flow.to_latent(STORED["x"], contexts)
        assert_close(noise, STORED["noise"])
        assert_close(log_det, STORED["log_det"])
        assert_close(flow.log_prob(STORED["x"], contexts), STORED["log_prob"])
        assert_close(flow.sample((), contexts, noise=STORED["z"]), STORED["sampled"])


def test_the_function_is_the_same(tmp_path):
    torch.save(nested(SOURCE), tmp_path / "params_50.pth")
    converted = paper_torch(tmp_path / "params_50.pth")
    assert converted.flow.config | {"blocks": 3, "hidden": [8, 8], "context_features": 5} == converted.flow.config
    assert_the_same_function(converted.flow, converted.encoder)
    converted.save_pretrained(tmp_path / "out")
    flow = nfkern.CouplingFlow.from_pretrained(tmp_path / "out")
    assert_the_same_function(flow, nfkern.Encoder.from_pretrained(tmp_path / "out" / "encoder"))


def test_state_dicts_alone_and_other_files(tmp_path):
    state = nested(SOURCE)["model"]
    save_file(state, tmp_path / "flow.safetensors")
    for source in (state, {f"module.{name}": each for name, each in state.items()}, tmp_path / "flow.safetensors"):
        converted = paper_torch(source)
        assert converted.encoder is None
        with torch.no_grad():
            assert_close(converted.flow.log_prob(STORED["x"], STORED["contexts"]), STORED["log_prob"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model.blocks.1.t.3.bias"), r"missing \[blocks.1.t.3.bias\], unknown none"),
        (lambda s: s.update({"model.blocks.1.t.7.bias": torch.zeros(1)}), r"missing none, unknown \[blocks.1.t.7.bias"),
        (lambda s: s.update({"optimizer.step": torch.zeros(1)}), r"unknown \[optimizer.step\]"),
        (lambda s: s["model.blocks.2.l.s"].fill_(torch.nan), "NaN or infinity in blocks.2.l.s"),
        (lambda s: s["model.blocks.2.l.s"].fill_(0), "expected finite results"),
        (lambda s: s["model.blocks.2.l.P"].mul_(0.9), "permutation matrix of zeros and ones in blocks.2.l.P"),
        (lambda s: s["model.blocks.0.l.P_inv"].copy_(torch.eye(3)[[1, 2, 0]]), "expected the inverse of blocks.0.l.P"),
        (lambda s: s.update({"encoder.norm2.bias": torch.zeros(3)}), r"expected shape \(16,\) for norm2.bias"),
        (lambda s: s.update({"model.blocks.0.s.6.bias": torch.zeros(2)}), r"expected shape \(1,\) for blocks.0.s.6"),
        (lambda s: s.clear(), "expected the paper's PyTorch flow, with one array called blocks.0.l.P, got none"),
    ],
)
def test_damage_is_named(change, message):
    source = {name: each.clone() for name, each in SOURCE.items()}
    if "P_inv" in message or "inverse" in message:
        source["model.blocks.0.l.P"].copy_(torch.eye(3))
    change(source)
    with pytest.raises(ValueError, match=message):
        paper_torch(source)


class Hostile:
    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_hostile_files_are_refused_by_name_and_not_run(tmp_path):
    hostile = Hostile()
    hostile.file = tmp_path / "run"
    torch.save({"model": hostile}, tmp_path / "hostile.pth")
    (tmp_path / "hostile.pkl").write_bytes(pickle.dumps({"model": hostile}))
    for name in ("hostile.pth", "hostile.pkl"):
        with pytest.raises(ValueError, match=r"source: expected arrays alone .*posix.system"):
            paper_torch(tmp_path / name)
    assert not (tmp_path / "run").exists()


def edited(path, out, change, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, change(data) if entry.filename.endswith("data.pkl") else data)
    return out


def test_claims_of_sizes_are_refused_before_memory_is_taken(tmp_path):
    torch.save({"blocks.0.l.P": torch.ones(2, 3)}, tmp_path / "plain.pth")
    claims = {
        # Shape (2^28, 3) of six numbers, and storage of 2^30.
        "shape": (b"K\x02K\x03\x86", b"J\x00\x00\x00\x10K\x03\x86"),
        "storage": (b"K\x06t", b"J\x00\x00\x00\x40t"),
    }
    for name, (old, new) in claims.items():
        file = edited(tmp_path / "plain.pth", tmp_path / name, lambda d, old=old, new=new: d.replace(old, new))
        with pytest.raises(ValueError, match="source: expected arrays alone"):
            paper_torch(file)
    # Strides of 0 make any shape of one number.
    torch.save({"blocks.0.l.P": torch.ones(1).expand(1 << 40)}, tmp_path / "strides")
    with pytest.raises(ValueError, match="expected .* bytes at most, got more up to blocks.0.l.P"):
        paper_torch(tmp_path / "strides")
    with pytest.raises(ValueError, match="compressed"):
        paper_torch(edited(tmp_path / "plain.pth", tmp_path / "small", bytes, zipfile.ZIP_DEFLATED))


def test_damaged_and_foreign_files(tmp_path):
    torch.save(nested(SOURCE), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("no checkpoint")
    (tmp_path / "empty").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("a.txt", "a")
    torch.save([torch.ones(2)], tmp_path / "list")
    torch.save(SOURCE, tmp_path / "old", _use_new_zipfile_serialization=False)
    paper_torch(tmp_path / "whole").flow.save_pretrained(tmp_path / "own")
    expected = {
        "half": "damaged",
        "text": "which begins with b'no check'",
        "empty": "which begins with b''",
        "zip": "another zip file",
        "old": "in torch.save's form before torch 1.6",
        "list": "a dict of arrays .* got a list",
        "own": "nfkern's own, for CouplingFlow.from_pretrained",
        "own/model.safetensors": "nfkern's own weights",
    }
    for name, message in expected.items():
        with pytest.raises(ValueError, match=message):
            paper_torch(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="source: no such file"):
        paper_torch(tmp_path / "absent")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transform.transforms.0.hyper.0.weight", "zuko"),
        ("_transform._transforms.1._transform_net.initial_layer.weight", "nflows"),
        ("flows.0.flows.1.param_map.net.0.weight", "normflows"),
        ("model.diffusion.unet.down_modules.0.weight", "LeRobot"),
    ],
)
def test_what_cannot_be_the_same_function_is_refused_with_the_reason(name, message):
    with pytest.raises(ValueError, match=f"{message}.*{name.split('.')[-1]}"):
        paper_torch({name: torch.zeros(2)})


def test_only_a_new_folder_is_written(tmp_path):
    converted = paper_torch(SOURCE)
    (tmp_path / "out").mkdir()
    converted.save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="path: expected a new or an empty folder"):
        converted.save_pretrained(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

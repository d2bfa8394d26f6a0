"""Modules on disk: exact round trips, strict reading, nothing half-written."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import flows

import nfkern
from nfkern.host.files import atomic_folder

MODULES = {
    **{name: (lambda name=name: flows.make_flow(name, torch.float32)) for name in flows.OPTIONS},
    "double": lambda: flows.make_flow("paper", torch.float64),
    "encoder": lambda: nfkern.Encoder(3, 4, width=8, layers=2),
    "normalizer": lambda: nfkern.Normalizer.fit(torch.randn(10, 3), "min_max"),
}


@pytest.mark.parametrize("name", list(MODULES))
def test_round_trip(name, tmp_path):
    module = MODULES[name]()
    module.save_pretrained(tmp_path / "saved")
    restored = type(module).from_pretrained(tmp_path / "saved")
    assert restored.config == module.config
    assert set(restored.state_dict()) == set(module.state_dict())
    for key, value in module.state_dict().items():
        assert torch.equal(restored.state_dict()[key], value)
        assert restored.state_dict()[key].dtype == value.dtype
    # Saving again replaces, and leaves nothing else behind.
    restored.save_pretrained(tmp_path / "saved")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved"]
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["config.json", "model.safetensors"]


def saved_flow(tmp_path):
    flows.make_flow("paper", torch.float32).save_pretrained(tmp_path / "flow")
    return tmp_path / "flow"


def edit_header(folder, **changes):
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(header | changes))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: edit_header(f, format_version=99), ValueError, "expected format_version 1, got 99"),
        (lambda f: edit_header(f, **{"class": "Encoder"}), ValueError, "expected a saved CouplingFlow, got 'Encoder'"),
        (lambda f: edit_header(f, config={"features": 4, "colour": 1}), ValueError, "settings in .* do not fit"),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "expected JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), ValueError, "expected JSON"),
        (lambda f: (f / "config.json").write_text("[]"), ValueError, "expected a JSON object, got list"),
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "config.json"),
        (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "model.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"junk"), ValueError, "damaged file"),
        (lambda f: edit_weights(f, lambda w: w.pop("hidden_bias")), ValueError, r"missing \['hidden_bias'\]"),
        (lambda f: edit_weights(f, lambda w: w.update(old=torch.zeros(1))), ValueError, r"unknown \['old'\]"),
        (lambda f: edit_weights(f, lambda w: w.update(hidden_bias=torch.zeros(1))), ValueError, "do not fit"),
    ],
)
def test_damage_is_named(damage, error, message, tmp_path):
    folder = saved_flow(tmp_path)
    damage(folder)
    with pytest.raises(error, match=message):
        nfkern.CouplingFlow.from_pretrained(folder)


def test_nothing_else_is_ever_replaced(tmp_path):
    folder = saved_flow(tmp_path)
    with pytest.raises(ValueError, match="expected a new folder or a saved Encoder, but .* holds a CouplingFlow"):
        nfkern.Encoder(3, 4, width=8).save_pretrained(folder)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds .*thesis.tex"):
        flows.make_flow().save_pretrained(folder)
    with pytest.raises(ValueError, match="holds .*a file"):
        flows.make_flow().save_pretrained(folder / "thesis.tex")
    assert (folder / "thesis.tex").read_text() == "years of work"


def interrupted_save(folder):
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as temporary:  # noqa: PT012
        (temporary / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt


def test_an_interrupted_save_keeps_the_old_one(tmp_path):
    folder = saved_flow(tmp_path)
    before = (folder / "model.safetensors").read_bytes()
    interrupted_save(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["flow"]


def test_an_interrupted_first_save_leaves_nothing(tmp_path):
    interrupted_save(tmp_path / "flow")
    assert not list(tmp_path.iterdir())


def test_normalizer_modes():
    data = torch.randn(1000, 3) * torch.tensor([1.0, 10.0, 0.0]) + torch.tensor([0.0, 5.0, 2.0])
    standard = nfkern.Normalizer.fit(data)
    torch.testing.assert_close(standard(data).mean(0), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(standard(data).std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), rtol=0, atol=1e-5)
    boxed = nfkern.Normalizer.fit(data, "min_max")
    torch.testing.assert_close(boxed(data).abs().amax(0), torch.tensor([1.0, 1.0, 0.0]), rtol=0, atol=1e-5)
    identity = nfkern.Normalizer.fit(data, "none")
    assert torch.equal(identity(data), data)
    for normalizer in (standard, boxed, identity):
        torch.testing.assert_close(normalizer.inverse(normalizer(data)), data, rtol=1e-5, atol=1e-5)


def test_encoder_is_the_papers():
    encoder = nfkern.Encoder(7, 64)
    kinds = [type(module).__name__ for module in encoder]
    assert kinds == ["Linear", "LayerNorm", "SiLU"] * 4 + ["Linear"]
    assert encoder(torch.randn(2, 3, 7)).shape == (2, 3, 64)
    assert sum(p.numel() for p in encoder.parameters()) == 7 * 512 + 3 * 512 * 512 + 4 * 3 * 512 + 512 * 64 + 64


def test_encoders_keep_their_epsilon(tmp_path):
    encoder = nfkern.Encoder(3, 4, width=8, layers=2, norm_eps=0.5)
    encoder.save_pretrained(tmp_path)
    restored, x = nfkern.Encoder.from_pretrained(tmp_path), torch.randn(5, 3)
    assert [layer.eps for layer in restored if isinstance(layer, torch.nn.LayerNorm)] == [0.5, 0.5]
    assert torch.equal(restored(x), encoder(x))
    with pytest.raises(ValueError, match="norm_eps: expected a number > 0, got 0"):
        nfkern.Encoder(3, 4, norm_eps=0)

"""`nfkern convert`: what it prints and writes, and errors in one line."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nfkern
from nfkern.cli.commands import main

STORED = Path(__file__).parent / "stored"


def source_of(name, tmp_path):
    arrays = load_file(STORED / f"{name}.safetensors")
    source = {key.removeprefix("source."): each for key, each in arrays.items() if key.startswith("source.")}
    torch.save(source, tmp_path / f"{name}.pth")
    return str(tmp_path / f"{name}.pth")


def test_each_kind_is_recognised(tmp_path, capsys):
    calls = {
        "paper_torch": ["--norm-eps", "1e-4"],
        "paper_jax_original": ["--rng", "original", "--inverted", "True"],
        "tarflow": ["--heads", "2", "--context-dropout", "0.1"],
    }
    for name, options in calls.items():
        out = tmp_path / "runs" / name
        assert main(["convert", source_of(name, tmp_path), str(out), *options]) == 0
        told = capsys.readouterr().out
        kind = nfkern.CausalFlow if name == "tarflow" else nfkern.CouplingFlow
        flow = kind.from_pretrained(out)
        assert f"{out}  {kind.__name__}(" in told
        assert (f"{out / 'encoder'}  Encoder(" in told) == (name != "tarflow") == (out / "encoder").exists()
        if name == "tarflow":
            assert (flow.heads, flow.context_dropout) == (2, 0.1)
        else:
            encoder = nfkern.Encoder.from_pretrained(out / "encoder")
            expected = (1e-4, False) if name == "paper_torch" else (1e-6, True)
            assert (flow.norm_eps, flow.inverted) == (encoder.config["norm_eps"], expected[1]) == expected


def test_errors_are_one_line_and_nothing_is_written(tmp_path, capsys):
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    (tmp_path / "text").write_text("no checkpoint")
    whole = source_of("paper_torch", tmp_path)
    broken = torch.load(whole)
    broken["model.blocks.0.l.s"][0] = 0
    torch.save(broken, tmp_path / "broken.pth")
    out = tmp_path / "out"
    calls = {
        (
            str(tmp_path / "other.pth"),
        ): "expected a checkpoint of paper-torch, paper-jax, tarflow, got one with [weight]",
        (str(tmp_path / "text"),): "which begins with b'no check'",
        (str(tmp_path / "none"),): "no such file",
        (str(tmp_path / "broken.pth"),): "expected finite results",
        (whole, "--heads", "2"): "--heads: an option of tarflow",
        (whole, "--kind", "tarflow"): "expected TarFlow's state dict",
        (whole, "--norm-eps", "0"): "norm_eps: expected a number > 0",
    }
    for (source, *options), message in calls.items():
        assert main(["convert", source, str(out), *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("nfkern convert: ")
        assert error.count("\n") == 1
        assert not out.exists()
    out.write_text("mine")
    assert main(["convert", whole, str(out)]) == 2
    assert "expected a new or an empty folder" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_the_help_says_what_no_array_tells(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    told = capsys.readouterr().out
    for words in (
        "--norm-eps",
        "--rng",
        "--inverted",
        "--heads",
        "--context-dropout",
        "Nothing in the file is executed",
    ):
        assert words in told

"""What earlier versions saved loads and gives the same numbers. `make_old_saves.py` made the folders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import nfkern

SAVES = sorted((Path(__file__).parent / "old_saves").iterdir())
CLASSES = {"flow": nfkern.CouplingFlow, "causal": nfkern.CausalFlow, "encoder": nfkern.Encoder}
CLASSES["normalizer"] = nfkern.Normalizer


@pytest.mark.parametrize("folder", SAVES, ids=lambda folder: folder.name)
def test_old_saves_give_the_same_numbers(folder, tmp_path):
    results = load_file(folder / "results.safetensors")
    x, context = results["x"], results["context"]
    arguments = {"flow": (x, context), "causal": (x.unsqueeze(-1), context), "encoder": (x,), "normalizer": (x,)}
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    assert {"flow", "encoder", "normalizer"} <= {*names}
    for name in names:
        module = CLASSES[name].from_pretrained(folder / name)
        # Saved again, in today's form, it is the same.
        module.save_pretrained(tmp_path / name)
        for each in (module, CLASSES[name].from_pretrained(tmp_path / name)):
            with torch.no_grad():
                torch.testing.assert_close(each(*arguments[name]), results[name], rtol=1e-12, atol=1e-12)


def test_old_flows_bring_permutations_of_their_own():
    flows = [nfkern.CouplingFlow.from_pretrained(folder / "flow") for folder in SAVES]
    own = nfkern.CouplingFlow(3, blocks=2).permutation
    assert any(not torch.equal(flow.permutation, own) for flow in flows)


@pytest.mark.parametrize("version", [2, 99])
def test_newer_saves_are_refused_with_the_reason(version, tmp_path):
    shutil.copytree(SAVES[0] / "flow", tmp_path / "flow")
    header = json.loads((tmp_path / "flow/config.json").read_text())
    (tmp_path / "flow/config.json").write_text(json.dumps(header | {"format_version": version}))
    with pytest.raises(
        ValueError, match=f"expected format_version 1, got {version} .*: a newer nfkern wrote it; update"
    ):
        nfkern.CouplingFlow.from_pretrained(tmp_path / "flow")
    (tmp_path / "flow/config.json").write_text(json.dumps(header | {"format_version": "0"}))
    with pytest.raises(ValueError, match=r"expected format_version 1, got '0' in [^:]*$"):
        nfkern.CouplingFlow.from_pretrained(tmp_path / "flow")

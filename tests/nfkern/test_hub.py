"""Models on the Hugging Face Hub, against a stand-in of its package: no test asks the network."""

import shutil
import sys
import types
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from support import flows

import nfkern
from nfkern.hub import HubName


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A Hub of folders; `calls` has what was asked of it."""
    module, calls, root = types.ModuleType("huggingface_hub"), [], tmp_path / "hub"

    class HfApi:
        def create_repo(self, repo, **options):
            calls.append(("create_repo", repo, options))
            (root / repo).mkdir(parents=True, exist_ok=options["exist_ok"])

        def upload_folder(self, *, repo_id, folder_path, path_in_repo, commit_message):
            calls.append(("upload_folder", repo_id, commit_message))
            shutil.copytree(folder_path, root / repo_id / (path_in_repo or ""), dirs_exist_ok=True)

    def snapshot_download(repo, *, revision, allow_patterns):
        calls.append(("snapshot_download", repo, revision))
        if not (root / repo).exists():
            raise OSError("404 Client Error.\nRepository Not Found")
        target = tmp_path / "cache" / repo
        for file in (root / repo).rglob("*"):
            name = str(file.relative_to(root / repo))
            if file.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target / name)
        return str(target)

    module.HfApi, module.snapshot_download, module.calls, module.root = HfApi, snapshot_download, calls, root
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.chdir(tmp_path)
    return module


def test_up_and_down_again(fake):
    flow, encoder = flows.make_flow("paper", torch.float32), nfkern.Encoder(3, 5, width=8, layers=2)
    assert flow.push_to_hub("user/cube") == "https://huggingface.co/user/cube"
    encoder.push_to_hub("user/cube/encoder", private=True, message="The encoder")
    assert fake.calls[0] == ("create_repo", "user/cube", {"private": False, "exist_ok": True})
    assert fake.calls[-1] == ("upload_folder", "user/cube", "The encoder")
    restored = nfkern.CouplingFlow.from_pretrained("user/cube@v1")
    assert fake.calls[-1] == ("snapshot_download", "user/cube", "v1")
    for name, tensor in flow.state_dict().items():
        assert torch.equal(restored.state_dict()[name], tensor)
    assert nfkern.Encoder.from_pretrained("user/cube/encoder").config == encoder.config
    # Only the two files of each were asked for.
    assert {file.name for file in Path("cache").rglob("*") if file.is_file()} == {"config.json", "model.safetensors"}


def test_the_card_says_how_to_load(fake):
    flow = flows.make_flow("paper", torch.float32)
    flow.push_to_hub("user/cube")
    text = (fake.root / "user/cube/README.md").read_text()
    assert text.startswith("---\nlibrary_name: nfkern\n")
    assert f"{sum(p.numel() for p in flow.parameters()):,} parameters" in text
    assert f"| features | `{flow.features}` |" in text
    scope = {}
    exec(text.split("```python\n")[1].split("```")[0], scope)
    assert scope["model"].config == flow.config


def test_folders_come_before_names(fake):
    flow = flows.make_flow("paper", torch.float32)
    flow.save_pretrained("runs/flow")
    assert nfkern.CouplingFlow.from_pretrained("runs/flow").config == flow.config
    with pytest.raises(FileNotFoundError, match=r"absent.*config.json"):
        nfkern.CouplingFlow.from_pretrained(Path("runs/absent"))
    assert fake.calls == []
    with pytest.raises(
        FileNotFoundError, match=r"a folder here or a model on the .*Hub, got runs/absent: 404 Client Error\.$"
    ):
        nfkern.CouplingFlow.from_pretrained("runs/absent")


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"path: no folder user/cube/ here; .*pip install .*huggingface.hub"):
        nfkern.CouplingFlow.from_pretrained("user/cube")
    with pytest.raises(ModuleNotFoundError, match=r"push_to_hub: needs the package huggingface_hub: `pip install"):
        flows.make_flow("paper", torch.float32).push_to_hub("user/cube")


def test_what_is_no_name():
    for text in ("cube", "/tmp/cube", "./user/cube", "../user/cube", "user/../cube", "user/cube/../..", "a b/c", ""):
        assert HubName.of(text) is None, text
    assert HubName.of("user/cube/a/b@main") == ("user/cube", "a/b", "main")
    with pytest.raises(ValueError, match="name: expected 'user/name' or 'user/name/folder', got 'cube'"):
        flows.make_flow("paper", torch.float32).push_to_hub("cube")

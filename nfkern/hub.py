"""Saved modules on the Hugging Face Hub, through the package huggingface_hub, which is part of an extra."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from nfkern.host.packages import install_command

_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:/([\w-][\w./-]*))?(?:@([\w-][\w./-]*))?")
FILES = ("config.json", "model.safetensors")


class HubName(NamedTuple):
    """A model's place on the Hub, `user/name`; with `/folder` if it lies in one there, and with `@revision`."""

    repo: str
    folder: str
    revision: str | None

    @classmethod
    def of(cls, text: str) -> "HubName | None":
        """The place that a text names; None if it cannot be one, as an absolute path."""
        found = _NAME.fullmatch(text)
        if found is None or ".." in text.split("/"):
            return None
        return cls(found[1], (found[2] or "").rstrip("/"), found[3])


def download(name: HubName) -> Path:
    """Folder with a model's two files, from the Hub or its cache on this machine.

    Raises:
        FileNotFoundError: huggingface_hub is not installed, or the Hub has no such model or cannot be reached.
    """
    start = f"{name.folder}/" if name.folder else ""
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise FileNotFoundError(
            f"path: no folder {name.repo}/{start} here; to look for it on the Hugging Face Hub: "
            f"`{install_command('huggingface_hub')}`"
        ) from error
    try:
        found = snapshot_download(name.repo, revision=name.revision, allow_patterns=[start + file for file in FILES])
    except (OSError, ValueError) as error:
        words = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(
            f"path: expected a folder here or a model on the Hugging Face Hub, got {name.repo}: {words}"
        ) from error
    return Path(found) / name.folder


def upload(folder: Path, name: HubName, *, private: bool, message: str) -> str:
    """Upload a folder; return the address of the model.

    Raises:
        ModuleNotFoundError: huggingface_hub is not installed; the message says how to install it.
    """
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"push_to_hub: needs the package huggingface_hub: `{install_command('huggingface_hub')}`",
            name="huggingface_hub",
        ) from error
    api = HfApi()
    api.create_repo(name.repo, private=private, exist_ok=True)
    api.upload_folder(repo_id=name.repo, folder_path=folder, path_in_repo=name.folder or None, commit_message=message)
    return f"https://huggingface.co/{name.repo}"


def card(name: HubName, kind: str, config: dict[str, Any], parameters: int) -> str:
    """The model card: what the module is, how to load it, and its settings."""
    place = f"{name.repo}/{name.folder}" if name.folder else name.repo
    rows = "\n".join(f"| {key} | `{value!r}` |" for key, value in config.items())
    return f"""---
library_name: nfkern
tags:
- normalizing-flow
- reinforcement-learning
---

# {place.rpartition("/")[2]}

A {kind} of nfkern with {parameters:,} parameters. To load it:

```python
import nfkern

model = nfkern.{kind}.from_pretrained("{place}")
```

| Setting | Value |
| --- | --- |
{rows}
"""

"""Packages that are not installed, and how to install them; modules of the current folder."""

import importlib
import os
import re
import shlex
import sys
from importlib import metadata
from types import ModuleType

# The one whose distribution is not called as its module is.
_DISTRIBUTIONS = {"vl_convert": "vl-convert-python"}


def install_command(*modules: str) -> str:
    """Return the command that installs modules, such as `pip install 'h5py>=3.10'`.

    The requirements are those of nfkern's own metadata, in whichever extra they stand. The extras themselves would not
    do: an nfkern that was installed from source may be on no index.

    Args:
        modules: their names in `import`, with submodules or without.
    """
    try:
        declared = [text.partition(";")[0].strip() for text in metadata.requires("nfkern") or ()]
    except metadata.PackageNotFoundError:
        # A checkout on the path.
        declared = []
    requirements = {re.split(r"[^\w.-]", text)[0]: text for text in declared}
    roots = [name.partition(".")[0] for name in modules]
    names = [_DISTRIBUTIONS.get(root, root.replace("_", "-")) for root in roots]
    return shlex.join(["pip", "install", *dict.fromkeys(requirements.get(name, name) for name in names)])


def import_from_here(module: str) -> ModuleType:
    """Import a module, which may be a file of the current folder.

    Raises:
        ImportError: as of `import`.
    """
    # Last, so that it hides nothing. `python -m nfkern` has the current folder there, the script `nfkern` has not;
    # worker processes take the path over.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(module)

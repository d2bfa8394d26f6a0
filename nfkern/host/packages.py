"""Packages that are not installed, and how to install them."""

import re
import shlex
from importlib import metadata

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

"""Package map and C++ extension, and the build backend that pip calls: setuptools', which finds the torch to build for.

The four top-level folders install as one package, `nfkern`: `kernels`, `bench` and `algorithms` are taken names on
PyPI. Everything else about the distribution is in pyproject.toml. The extension fits one minor version of torch, which
its name tells: `kernels/dispatch/native_extension.py` loads no other.
"""

import os
import shlex
import shutil
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.build_meta import *  # noqa: F403  the hooks of a build backend

HOW_TO_BUILD = "python setup.py build_ext --inplace"

# An isolated build is run by the Python of the environment that it is for, without its packages. The torch there is the
# one to build for; one that is fetched for the build could be another, and several gigabytes large.
installed = [path for path in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")} if path not in sys.path]
if not PathFinder.find_spec("torch") and PathFinder.find_spec("torch", installed):
    sys.path += installed
has_torch = PathFinder.find_spec("torch") is not None


def _requirements(settings=None):
    """Return what a build needs beside pyproject.toml's `requires`."""
    return ["ninja"] if has_torch else ["ninja", "torch>=2.10"]


get_requires_for_build_wheel = get_requires_for_build_editable = _requirements


def get_requires_for_build_sdist(settings=None):
    """Return nothing: a source distribution has no extension."""
    return []


def without_extension():
    """Return why no extension is built; nothing if one is."""
    if sys.platform != "linux":
        return f"they are for Linux, and this is {sys.platform}"
    if os.environ.get("NFKERN_NATIVE") == "0":
        return "NFKERN_NATIVE is 0"
    if not has_torch:
        return "torch is not installed here"
    compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
    return "" if shutil.which(compiler) else f"there is no C++ compiler ({compiler})"


def native_extension():
    """Return the extension and its build command; nothing where none is built."""
    if reason := without_extension():
        # pip shows this with -v alone; the first call of a kernel tells the rest.
        print(f"nfkern: no native CPU kernels are built, for {reason}; all runs on the reference", file=sys.stderr)
        return {}

    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    class Build(BuildExtension):
        def build_extensions(self):
            try:
                super().build_extensions()
            except Exception as error:  # compilers and torch's checks of them fail in ways of their own
                raise SystemExit(
                    f"\nnfkern: the native CPU kernels could not be built: {error.__cause__ or error}\n"
                    f"To try again: {HOW_TO_BUILD}\n"
                    "To install without them, on the reference, which is several times slower: set NFKERN_NATIVE=0"
                ) from None

    sources = sorted(str(path) for path in Path("kernels").glob("*/*.cpp"))
    headers = sorted(str(path) for suffix in ("h", "inc") for path in Path("kernels").glob(f"*/*.{suffix}"))
    # No errno from sqrt, or it is not vectorised. No debug information, which for torch's headers is most of the file.
    # Compiled for OpenMP but not linked with it: the one that runs is torch's, already loaded, with its threads.
    flags = ["-O3", "-fno-math-errno", "-fvisibility=hidden", "-g0", "-fopenmp"]
    minor = "_".join(torch.__version__.split(".")[:2])
    extension = CppExtension(f"nfkern.kernels._native_{minor}", sources, depends=headers, extra_compile_args=flags)
    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build}}


def packages():
    """Return the packages and the folder that each top-level one lies in."""
    folders = {
        "nfkern": "nfkern",
        "nfkern.kernels": "kernels",
        "nfkern.algorithms": "algorithms",
        "nfkern.bench": "bench",
    }
    found = []
    for name, folder in folders.items():
        # The links inside nfkern/ repeat the sibling folders: map each package once, from where it really lies.
        links = [f"{link}{rest}" for link in ("kernels", "algorithms", "bench") for rest in ("", ".*")]
        below = find_packages(folder, exclude=links if name == "nfkern" else ())
        found += [name, *(f"{name}.{package}" for package in below)]
    return {"packages": found, "package_dir": folders}


# setuptools runs this file as a script; pip imports it for the hooks above.
if __name__ == "__main__":
    setup(
        package_data={
            "nfkern": ["py.typed"],
            "nfkern.bench": ["results/*.json"],
            "nfkern.bench.report": ["page.html", "page.css", "page.js"],
        },
        include_package_data=False,
        **packages(),
        **native_extension(),
    )

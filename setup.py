"""Package map and C++ extension: the four top-level folders install as one package, `nfkern`.

`kernels`, `bench` and `algorithms` are taken names on PyPI, so nothing installs under them; everything else about
the distribution is in pyproject.toml. The extension is built against the torch that is installed; without torch or a
C++ compiler the package installs all the same, and runs on its reference.
"""

import sys
from pathlib import Path

from setuptools import find_packages, setup

folders = {"nfkern": "nfkern", "nfkern.kernels": "kernels", "nfkern.algorithms": "algorithms", "nfkern.bench": "bench"}

packages = []
for name, folder in folders.items():
    packages.append(name)
    # The links inside nfkern/ repeat the sibling folders: map each package once, from where it really lies.
    links = [f"{link}{rest}" for link in ("kernels", "algorithms", "bench") for rest in ("", ".*")]
    below = find_packages(folder, exclude=links if name == "nfkern" else ())
    packages.extend(f"{name}.{package}" for package in below)


def native_extension():
    """The extension and its build command; nothing where torch is missing."""
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        # pip shows this with -v alone; the first call of a kernel tells the rest.
        print(
            "nfkern: torch is not installed here, or pip's build isolation hides it, so no native CPU kernels are\n"
            "built. With torch installed: pip install --no-build-isolation --no-deps --force-reinstall .",
            file=sys.stderr,
        )
        return {}

    class Build(BuildExtension):
        def build_extensions(self):
            try:
                super().build_extensions()
            except Exception as error:  # compilers and torch's checks of them fail in ways of their own
                reason = str(error.__cause__ or error).strip().splitlines()[:1]
                print(
                    f"\nnfkern: the native CPU kernels could not be built ({''.join(reason)}).\n"
                    "nfkern works without them, on its slower reference. They need a C++ compiler, as torch's own\n"
                    "headers do; to see its words and to try again:\n    python setup.py build_ext --inplace\n",
                    file=sys.stderr,
                )
                self.extensions.clear()

    sources = sorted(str(path) for path in Path("kernels").glob("*/*.cpp"))
    headers = sorted(str(path) for suffix in ("h", "inc") for path in Path("kernels").glob(f"*/*.{suffix}"))
    # No errno from sqrt, or it is not vectorised. No debug information, which for torch's headers is most of the file.
    flags = ["-O3", "-fno-math-errno", "-fvisibility=hidden", "-g0"]
    if sys.platform == "linux":
        # Compiled for OpenMP but not linked with it: the one that runs is torch's, already loaded, with its threads.
        flags.append("-fopenmp")
    extension = CppExtension("nfkern.kernels._native", sources, depends=headers, extra_compile_args=flags)
    return {"ext_modules": [extension], "cmdclass": {"build_ext": Build}}


setup(
    packages=packages,
    package_dir=folders,
    package_data={
        "nfkern": ["py.typed"],
        "nfkern.bench": ["results/*.json"],
        "nfkern.bench.report": ["page.html", "page.css", "page.js"],
    },
    include_package_data=False,
    **native_extension(),
)

"""Package map: the four top-level folders install as one package, `nfkern`.

`kernels`, `bench` and `algorithms` are taken names on PyPI, so nothing installs under them; everything else about
the distribution is in pyproject.toml.
"""

from setuptools import find_packages, setup

folders = {"nfkern": "nfkern", "nfkern.kernels": "kernels", "nfkern.algorithms": "algorithms", "nfkern.bench": "bench"}

packages = []
for name, folder in folders.items():
    packages.append(name)
    # The links inside nfkern/ repeat the sibling folders: map each package once, from where it really lies.
    below = [] if name == "nfkern" else find_packages(folder)
    packages.extend(f"{name}.{package}" for package in below)

setup(packages=packages, package_dir=folders, package_data={"nfkern": ["py.typed"]}, include_package_data=False)

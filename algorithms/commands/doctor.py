"""`nfkern doctor`: what this installation has, and which implementations would run."""

import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

import nfkern
from nfkern.algorithms.data import DEFAULT_DATASET_DIR
from nfkern.host.packages import install_command
from nfkern.kernels import backend_reasons, registered_backends
from nfkern.kernels.dispatch.native_extension import instruction_set, instruction_sets, threads_in_use

PACKAGES = {
    "core": ("torch", "numpy", "safetensors", "tyro", "tqdm", "filelock"),
    "rl": ("gymnasium", "ogbench", "mujoco", "scipy", "requests", "diffusers", "gymnasium-robotics"),
    "imitation": ("gym-pusht", "pymunk", "shapely", "zarr", "h5py", "pyarrow"),
    "log": ("tensorboard", "matplotlib", "imageio", "imageio-ffmpeg"),
    "optional": ("triton", "wandb", "ray", "pytest-benchmark"),
}


@dataclass(frozen=True)
class Doctor:
    """Say what this installation has: versions, devices, backends with reasons, threads, rendering, datasets."""

    dataset_dir: Path = DEFAULT_DATASET_DIR
    """Where datasets lie."""

    numerics: bool = False
    """Measure rounding errors of this installation, training and frozen in each precision (minutes)."""

    def run(self) -> int:
        """Print the sections; 1 if something that the package needs is missing."""
        missing = [name for name in PACKAGES["core"] if _version(name) is None]
        for title, lines in (
            ("versions", _versions()),
            ("devices", _devices()),
            ("ops", _backends()),
            ("rendering", _rendering()),
            ("datasets", _datasets(self.dataset_dir.expanduser())),
        ):
            print(title)
            print("\n".join(f"  {line}" for line in lines))
        if self.numerics:
            from nfkern.numerics import table

            print("numerics")
            print("\n".join(f"  {line}" for line in table()))
        if missing:
            print(f"missing: {', '.join(missing)}; install with `{install_command(*missing)}`")
        return 1 if missing else 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> list[str]:
    lines = [f"nfkern {nfkern.__version__}, Python {platform.python_version()}, {platform.system().lower()}"]
    for extra, packages in PACKAGES.items():
        lines.append(f"{extra}: " + ", ".join(f"{name} {_version(name) or '(missing)'}" for name in packages))
    return lines


def _devices() -> list[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    lines = [f"CPU: {cores} cores usable, torch uses {torch.get_num_threads()} threads, instruction set {capability}"]
    if not torch.cuda.is_available():
        reason = "this torch is a CPU build" if torch.version.cuda is None else "torch sees no device or driver"
        return [*lines, f"CUDA: none ({reason})"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        lines.append(f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    return lines


def _backends() -> list[str]:
    """Per device, which ops run native kernels, and for each reason which run the reference."""
    lines = []
    for device in ("cpu", "cuda"):
        groups: dict[tuple[str, ...], list[str]] = {}
        for name in registered_backends(device):
            groups.setdefault(tuple(backend_reasons(name, device)), []).append(name)
        for reasons, names in groups.items():
            which = f"all {len(names)} ops" if len(groups) == 1 else ", ".join(names)
            what = f"the reference (stacked PyTorch) for {which}; reason: {', '.join(reasons)}"
            lines.append(f"{device}: {what if reasons else f'native kernels for {which}'}")
    if found := instruction_sets():
        lines.append(
            f"cpu: {threads_in_use()} threads; instruction set {instruction_set()}, of {', '.join(found)} here"
        )
    return lines


def _rendering() -> list[str]:
    try:
        from nfkern.algorithms.evaluation.video import rendering_backends
    except ModuleNotFoundError as error:
        return [f"none: the package {error.name} is missing (`{install_command(error.name or '')}`)"]
    chosen = os.environ.get("MUJOCO_GL")
    lines = [f"MUJOCO_GL={chosen}" if chosen else "MUJOCO_GL is not set: each backend is tried in a process of its own"]
    for name, reason in rendering_backends().items():
        lines.append(f"{name}: {'works' if reason is None else reason.splitlines()[-1]}")
    return lines


def _datasets(folder: Path) -> list[str]:
    if not folder.is_dir():
        return [f"{folder}: not there yet; `nfkern data generate` makes it"]
    names = sorted(path.stem for path in folder.glob("*.npz") if not path.stem.endswith("-val"))
    free = shutil.disk_usage(folder).free / 2**30
    return [f"{folder}: {', '.join(names) or 'no datasets'} ({free:.0f} GiB free)"]

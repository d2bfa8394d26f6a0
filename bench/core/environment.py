"""Where a measurement was taken: device, versions, commit, clock."""

import importlib
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

import nfkern
from nfkern.kernels import registered_backends

_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True)
class Environment:
    """Values that must be equal for two measurements to be comparable.

    Attributes:
        device: "cpu" or "cuda".
        device_name: the processor's name; of a CPU with its family and model, which a name may share with others, and
            the instruction set that PyTorch uses.
        cores: CPU cores this process may use.
        versions: of nfkern, python, torch, numpy; on a GPU of triton, on a CPU of the rivals that are installed.
        commit: of nfkern's source tree, with "-dirty" if it was changed since; None for an installed package.
        backends: which implementation each op runs here, "native" or "reference".
    """

    device: str
    device_name: str
    cores: int
    versions: dict[str, str]
    commit: str | None
    backends: dict[str, str]


def current_environment(device: torch.device) -> Environment:
    """Read it off this process."""
    return Environment(
        device=device.type,
        device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        versions={
            "nfkern": nfkern.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            **_compilers_and_rivals(device),
        },
        commit=_commit(Path(__file__).resolve()),
        backends=registered_backends(device),
    )


def _compilers_and_rivals(device: torch.device) -> dict[str, str]:
    """Versions of the compiler of kernels on a GPU, of the packages whose speed is measured on a CPU."""
    if device.type == "cuda":
        # Its distribution has several names, the module one.
        return {"triton": str(importlib.import_module("triton").__version__)} if find_spec("triton") else {}
    rivals = ("onnxruntime", "onnx", "onnxscript", "jax", "optax", "zuko", "nflows", "normflows", "diffusers")
    return {name: metadata.version(name) for name in rivals if find_spec(name) is not None}


def clock_state(device: torch.device) -> str:
    """Clock and governor of the device as far as they can be read, e.g. `3400 MHz, governor performance`."""
    if device.type == "cuda":
        try:
            return f"{torch.cuda.clock_rate(device)} MHz"
        except Exception:
            # NVML has errors of its own, of a module that may be missing.
            return "unreadable"
    kilohertz = [_read(path) for path in sorted(_CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))]
    clocks = [float(value) / 1e3 for value in kilohertz if value] or [float(value) for value in _cpuinfo("cpu MHz")]
    governor = _read(_CPUS / "cpu0/cpufreq/scaling_governor")
    states = [f"{sum(clocks) / len(clocks):.0f} MHz"] if clocks else []
    return ", ".join([*states, f"governor {governor}"] if governor else states) or "unreadable"


def others_cpu_s() -> float | None:
    """CPU seconds that others than this process took since the machine's start; None where the system does not tell.

    Other processes, and other machines on the same processor; a child of this process counts until it has ended.
    """
    fields = (_read(Path("/proc/stat")) or "").partition("\n")[0].split()[1:9]
    if len(fields) < 8:
        return None
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = map(int, fields)
    own = os.times()
    busy = (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
    return busy - own.user - own.system - own.children_user - own.children_system


def _cpu_name() -> str:
    name = next(iter(_cpuinfo("model name")), None) or platform.processor() or platform.machine()
    numbers = {"family": _cpuinfo("cpu family"), "model": _cpuinfo("model")}
    parts = [f"{part} {found[0]}" for part, found in numbers.items() if found]
    return f"{name} ({', '.join([*parts, torch.backends.cpu.get_cpu_capability()])})"


def _cpuinfo(field: str) -> list[str]:
    lines = (_read(Path("/proc/cpuinfo")) or "").splitlines()
    pairs = [line.partition(":") for line in lines]
    return [value.strip() for name, _, value in pairs if name.strip() == field]


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _commit(file: Path) -> str | None:
    """The commit of the repository that tracks `file`: an unrelated one around a site-packages does not count."""
    try:
        for arguments in (["ls-files", "--error-unmatch", file.name], ["rev-parse", "HEAD"]):
            answer = _git(file.parent, arguments)
        return answer + ("-dirty" if _git(file.parent, ["status", "--porcelain", "--untracked-files=no"]) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, arguments: list[str]) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

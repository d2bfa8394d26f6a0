"""The C++ kernels as a program for 64-bit ARM: made without torch, run by qemu, called as the extension is."""

import atexit
import contextlib
import functools
import hashlib
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from nfkern.kernels.dispatch import native_extension, registry

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
SOURCES = (*sorted(ROOT.glob("kernels/*/cpu.cpp")), ROOT / "kernels/dispatch/portable.cpp", HERE / "server.cpp")
STAND_INS = (
    *("ATen/ATen.h", "ATen/Parallel.h", "c10/util/FunctionRef.h", "c10/util/SmallVector.h"),
    *("pybind11/stl.h", "torch/csrc/utils/pybind.h"),
)
"""Headers of torch for which `stand_in.h` stands in."""

COMPILERS = {"aarch64-gcc": ("aarch64-linux-gnu-g++",), "aarch64-clang": ("clang++", "--target=aarch64-linux-gnu")}
NEEDED = ("aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump", "qemu-aarch64")
# The first as `setup.py` has them, so that it is the same code.
FLAGS = ("-O3", "-fno-math-errno", "-fvisibility=hidden", "-g0", "-std=c++20", "-Wall", "-Wextra", "-Werror")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int8)
FUNCTIONS = (
    *("coupling_map", "coupling_to_data_with_score", "coupling_backward", "causal_map", "linear", "causal_affine"),
    *("causal_affine_backward", "plu_compose", "plu_compose_backward", "standard_normal_log_prob"),
    *("standard_normal_log_prob_backward", "hidden_activation", "hidden_activation_backward"),
)
NONE, INTEGER, FLOAT, TENSOR, LIST, TEXT, ERROR = range(7)


@functools.cache
def build(name: str) -> Path:
    """Return the program that a compiler makes of the kernels; skips the test where it or qemu is missing."""
    compiler = COMPILERS[name]
    for tool in (*NEEDED, compiler[0]):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} on the path: see CONTRIBUTING.md")
    read = sorted({*SOURCES, *ROOT.glob("kernels/*/*.h"), *ROOT.glob("kernels/*/*.inc"), HERE / "stand_in.h"})
    contents = b"".join(path.read_bytes() for path in read)
    program = ROOT / "build/aarch64" / hashlib.sha256(contents).hexdigest()[:12] / name
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder, ThreadPoolExecutor(2) as pool:
        made = Path(folder)
        for header in STAND_INS:
            (made / header).parent.mkdir(parents=True, exist_ok=True)
            (made / header).write_text('#include "stand_in.h"\n')
        command = [*compiler, *FLAGS, f"-I{made}", f"-I{HERE}", f"-I{ROOT}"]
        objects = [made / f"{i}.o" for i in range(len(SOURCES))]
        jobs = [[*command, "-c", source, "-o", to] for source, to in zip(SOURCES, objects, strict=True)]
        list(pool.map(functools.partial(subprocess.run, check=True), jobs))
        subprocess.run([*compiler, "-static", *objects, "-o", made / name], check=True)
        # In one step, for another process may do the same.
        (made / name).replace(program)
    return program


class Machine:
    """A running program; its functions are those of the extension that are called with tensors.

    Attributes:
        program: the file.
        called: names of those that were called.
    """

    def __init__(self, program: Path) -> None:
        self.program = program
        self.called: set[str] = set()
        self._process = subprocess.Popen(["qemu-aarch64", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout

    def close(self) -> None:
        """End the program."""
        self._to.close()
        self._from.close()
        self._process.wait()

    def call(self, name: str, *arguments: Any) -> Any:
        """Return a function's result, a tensor or several.

        Raises:
            RuntimeError: what the program says.
        """
        self.called.add(name)
        self._to.write(_text(name) + _value(list(arguments)))
        self._to.flush()
        return self._result()

    def _result(self) -> Any:
        kind = self._integer()
        if kind == TENSOR:
            return self._tensor()
        if kind == LIST:
            return tuple(self._result() for _ in range(self._integer()))
        raise RuntimeError(self._read(self._integer()).decode())

    def _tensor(self) -> torch.Tensor:
        dtype = DTYPES[self._integer()]
        sizes = [self._integer() for _ in range(self._integer())]
        data = self._read(torch.Size(sizes).numel() * dtype.itemsize)
        return torch.frombuffer(data, dtype=dtype).view(sizes) if data else torch.empty(sizes, dtype=dtype)

    def _integer(self) -> int:
        (value,) = struct.unpack("<q", self._read(8))
        return int(value)

    def _read(self, count: int) -> bytearray:
        data = bytearray(self._from.read(count))
        if len(data) < count:
            raise RuntimeError(f"the program for ARM has ended with status {self._process.wait()}")
        return data


@contextlib.contextmanager
def use(name: str) -> Iterator[Machine]:
    """Run what the C++ kernels of all ops would run on a program for ARM inside the context, in the whole process."""
    machine, extension = _machine(name), native_extension.load()
    with pytest.MonkeyPatch.context() as patch:
        for function in FUNCTIONS:
            patch.setattr(extension, function, functools.partial(machine.call, function))
        _forget()
        yield machine
    _forget()


def _forget() -> None:
    """Let the ops that keep a function of the extension look it up again."""
    for function in FUNCTIONS:
        kernel = registry.find_kernel(function, "cpu")
        if kernel is not None and hasattr(kernel.load, "cache_clear"):
            kernel.load.cache_clear()


@functools.cache
def _machine(name: str) -> Machine:
    machine = Machine(build(name))
    atexit.register(machine.close)
    return machine


def _text(text: str) -> bytes:
    return struct.pack("<q", len(text)) + text.encode()


def _value(value: Any) -> bytes:
    if value is None:
        return struct.pack("<q", NONE)
    if isinstance(value, int):
        return struct.pack("<qq", INTEGER, value)
    if isinstance(value, float):
        return struct.pack("<qd", FLOAT, value)
    if isinstance(value, str):
        return struct.pack("<q", TEXT) + _text(value)
    if isinstance(value, torch.Tensor):
        head = struct.pack(f"<{3 + value.ndim}q", TENSOR, DTYPES.index(value.dtype), value.ndim, *value.shape)
        return head + value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return struct.pack("<qq", LIST, len(value)) + b"".join(map(_value, value))

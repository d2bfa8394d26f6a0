"""Pickles of NumPy's and JAX's arrays, read without calling anything they name.

A pickle is a list of instructions that may call any function. Here the names that arrays need stand for classes of this
file, which keep bytes, and every other name is refused.
"""

import math
import pickle
import pickletools
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGES = ("numpy.core", "numpy._core")


class _Array:
    """An array in the making: NumPy's state, checked before memory is taken for it."""

    def __init__(self, *_: Any) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("an array without its state")
        _, shape, dtype, columns_first, raw = state
        self.array = _filled(raw, dtype, shape, "F" if columns_first else "C")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        if self.array is None:
            raise ValueError("source: expected arrays with values, got one without")
        return self.array


class _DType:
    """A dtype of numbers."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise ValueError("a dtype that is no number's")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        kinds = {"b1", *(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8"}
        if self.name not in kinds:
            raise ValueError(f"expected an array of numbers, got dtype {self.name!r}")
        kind: np.dtype[Any] = np.dtype(self.name).newbyteorder(self.order)
        return kind


class _Opaque:
    """Stands for an object that holds no weights, such as distrax's base density: nothing of it is kept."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take any arguments."""

    def __setstate__(self, _: Any) -> None:
        """Take any state."""


class _Name:
    """Stands for a class that a pickle may name but not call."""


def _filled(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise ValueError("an array without dtype or shape")
    if not isinstance(raw, bytes | bytearray) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("an array without bytes or sizes")
    kind = dtype.numpy()
    if math.prod(shape) * kind.itemsize != len(raw):
        raise ValueError(f"expected an array of {len(raw)} bytes, got shape {shape} of {kind}")
    return np.frombuffer(raw, kind).astype(kind.newbyteorder("=")).reshape(shape, order=order)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> np.ndarray:
    return _filled(raw, dtype, shape, order)


def _scalar(dtype: Any, raw: Any = None) -> np.ndarray:
    return _filled(raw, dtype, (), "C")


def _jax_array(function: Any, arguments: Any, state: Any, _: Any = None) -> np.ndarray:
    made = function(*arguments)
    if isinstance(made, _Array):
        made.__setstate__(state)
        made = made.array
    if function not in (_reconstruct, _frombuffer) or made is None:
        raise ValueError("an array of JAX without NumPy's")
    return made  # type: ignore[no-any-return]


def _encode(text: Any, encoding: Any = None) -> bytes:
    # Protocol 2 keeps bytes as text.
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("text in the place of an array's bytes")
    return text.encode("latin1")


def _frozen_dict(content: Any = None) -> dict[Any, Any]:
    return content if isinstance(content, dict) else {}


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Name,
    ("numpy", "dtype"): _DType,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _encode,
    ("jax._src.array", "_reconstruct_array"): _jax_array,
    ("flax.core.frozen_dict", "FrozenDict"): _frozen_dict,
    **{(f"{package}.multiarray", "_reconstruct"): _reconstruct for package in _PACKAGES},
    **{(f"{package}.multiarray", "scalar"): _scalar for package in _PACKAGES},
    **{(f"{package}.numeric", "_frombuffer"): _frombuffer for package in _PACKAGES},
}


class _RefusedError(Exception):
    """A name that arrays do not need."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "distrax":
            return _Opaque
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"{module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("something outside the file")


def read_pickle(path: Path) -> Any:
    """Dicts, lists and objects with `__array__` of a pickle.

    Raises:
        ValueError: it names anything but arrays and dicts, or is damaged.
    """
    data = path.read_bytes()
    try:
        # First in Python, which reads no more than there is: C takes the memory that a length or an index claims.
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(data), 1):
            if "PUT" in opcode.name and isinstance(argument, int) and argument > steps:
                raise ValueError(f"index {argument} after {steps} steps")
        return _Unpickler(BytesIO(data)).load()
    except _RefusedError as refused:
        raise ValueError(
            f"source: expected arrays alone in {path}, got a pickle that asks for {refused}; nothing of it was run"
        ) from None
    except Exception as error:
        # A damaged pickle may raise anything.
        raise ValueError(f"source: {path} is no pickle of arrays, or damaged: {error}") from None

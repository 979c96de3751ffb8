"""CuPy's part in the CUDA twins, on the host: arrays with guarded ends, kernels compiled with g++ (see cuda_shim.h)."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cupy_array import TRAFFIC, Device, DeviceArray, asarray, function

__all__ = ["TRAFFIC", "Device", "DeviceArray", "HostCupy", "build", "host_cupy", "kernels", "place", "same"]

SHIM = Path(__file__).with_name("cuda_shim.h")
FLAGS = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
FLAGS += ["-ffp-contract=off"]  # as the intrinsics that round once do
TRAPS = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
"""Addresses that are no multiples of what is read there, and shifts too far, end the process."""
_FOLDER = tempfile.TemporaryDirectory(prefix="cuda_host")
GUARD = 256
"""Bytes of noise on both sides of an array; also the alignment of device memory."""


def kernels(source: Path) -> list[str]:
    """Names of the kernels in a file."""
    return re.findall(r"__global__ void[^(]*(?:\([\d, ]+\))? *\b(\w+)\(", source.read_text(encoding="utf-8"))


def build(source: Path, folder: Path, defines: tuple[str, ...] = ()) -> ctypes.CDLL:
    """A CUDA source as a library for the host."""
    wrapper, library = folder / f"{source.stem}.cpp", folder / f"{source.stem}.so"
    launchers = "\n".join(f"LAUNCHER({name})" for name in kernels(source))
    wrapper.write_text(f'#include "{SHIM}"\n#include "{source}"\n{launchers}\n', encoding="utf-8")
    (folder / "cuda_fp16.h").touch()  # the shim has what it declares
    command = ["g++", *FLAGS, *TRAPS, *defines, f"-I{folder}", str(wrapper), "-o", str(library)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    return ctypes.CDLL(str(library))


@cache
def built(code: str, defines: tuple[str, ...]) -> ctypes.CDLL:
    """The library of a text that is compiled when it is first used, as CuPy does it."""
    folder = Path(tempfile.mkdtemp(dir=_FOLDER.name))
    source = folder / "kernels.cu"
    source.write_text(code, encoding="utf-8")
    return build(source, folder, defines)


class _Linalg(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return function(name, np.linalg)


class HostCupy(ModuleType):
    """CuPy on the host: NumPy's functions for :class:`DeviceArray`. ``launches`` lists the kernels that ran."""

    ndarray = DeviceArray
    asarray = array = staticmethod(asarray)

    def __init__(self, library: Mapping[str, ctypes.CDLL] = MappingProxyType({})) -> None:
        super().__init__("cupy")
        stream = SimpleNamespace(synchronize=lambda: None, ptr=0)
        self.cuda = SimpleNamespace(get_current_stream=lambda: stream, Device=Device, is_available=lambda: True)
        self.linalg = _Linalg("cupy.linalg")
        self.launches: list[str] = []
        self._library = library
        self._guarded: list[tuple[np.ndarray, int]] = []
        self._noise = np.random.default_rng(0)
        DeviceArray.allocate = self._allocate
        TRAFFIC.clear()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return function(name)

    def _allocate(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        room = self._noise.integers(0, 256, count + 3 * GUARD, dtype=np.uint8)
        start = GUARD + -room.ctypes.data % GUARD
        room[start - GUARD : start] = room[start + count : start + count + GUARD] = 0xA5
        self._guarded.append((room[start - GUARD : start + count + GUARD], count))
        return room[start : start + count].view(dtype).reshape(shape)

    def empty(self, shape: tuple[int, ...], dtype: Any = float) -> DeviceArray:
        return DeviceArray(self._allocate((shape,) if isinstance(shape, int) else tuple(shape), dtype))

    def zeros(self, shape: tuple[int, ...], dtype: Any = float) -> DeviceArray:
        x = self.empty(shape, dtype)
        x[...] = 0
        return x

    def ascontiguousarray(self, x: DeviceArray, dtype: Any = None) -> DeviceArray:
        if x.flags.c_contiguous and dtype in (None, x.dtype):
            return x
        copy = self.empty(x.shape, dtype or x.dtype)
        copy[...] = x
        return copy

    def from_dlpack(self, x: Any) -> DeviceArray:
        """Any library's arrays of the host play those of a device."""
        return DeviceArray(np.from_dlpack(x))

    def RawKernel(self, code: str, name: str, *, options: tuple[str, ...]) -> Any:  # noqa: N802
        assert f" {name}(" in code
        defines = tuple(option for option in options if option.startswith("-D"))
        library = self._library[name] if name in self._library else built(code, defines)
        return partial(self._launch, library, name)

    def check(self) -> None:
        """No byte beside an array was written."""
        for room, count in self._guarded:
            assert (room[:GUARD] == 0xA5).all(), "written before an array"
            assert (room[GUARD + count :] == 0xA5).all(), "written beyond an array"

    def _launch(
        self,
        library: ctypes.CDLL,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        given: Any,
        *,
        shared_mem: int,
    ) -> None:
        values, sizes = [], []
        for argument in given:
            if isinstance(argument, DeviceArray):
                values.append(ctypes.c_uint64(argument.data.ptr))
                sizes.append(8)
            else:
                assert isinstance(argument, np.generic), f"{argument!r} has no certain size"
                values.append(ctypes.c_uint64(int.from_bytes(argument.tobytes(), "little")))
                sizes.append(argument.itemsize)
        function = getattr(library, f"launch_{name}")
        function.restype = ctypes.c_char_p
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        fault = function(
            (ctypes.c_uint * 3)(*grid),
            ctypes.c_uint(block[0]),
            ctypes.c_size_t(shared_mem),
            pointers,
            (ctypes.c_uint * len(sizes))(*sizes),
            ctypes.c_size_t(len(sizes)),
        )
        assert not fault, f"{name}: {fault.decode()}"
        assert block[1:] == (1, 1)
        self.launches.append(name)
        self.check()


def forget() -> None:
    """No kernel or table is kept from one CuPy to another."""
    for name, module in list(sys.modules.items()):
        if name.startswith("factorq.kernels") and name.endswith("cuda_twin"):
            for kept in vars(module).values():
                getattr(kept, "cache_clear", int)()


@contextmanager
def host_cupy() -> Iterator[HostCupy]:
    """The twins run on the host, their kernels compiled when first used: CuPy is the stand-in."""
    if sys.platform != "linux" or not shutil.which("g++"):
        pytest.skip("the shim for CUDA needs Linux and g++")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cupy := HostCupy())
        forget()
        try:
            yield cupy
        finally:
            forget()


def place(name: str) -> Callable[[], AbstractContextManager[Any]]:
    """CuPy as a context: ``host`` for the stand-in, ``gpu`` for the real one where there is a GPU."""
    if name == "host":
        return host_cupy
    module = pytest.importorskip("cupy", reason="cupy is not installed")
    if not module.cuda.is_available():
        pytest.skip("no CUDA device")
    return partial(nullcontext, module)


def same(made: Any, expected: np.ndarray) -> None:
    """Equal to the last bit, signs of zeros included."""
    assert made.dtype == expected.dtype
    assert made.shape == expected.shape
    found = np.ascontiguousarray(made.get())
    np.testing.assert_array_equal(found, expected)
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()

"""CuPy's part in the CUDA twins, on the host: arrays with guarded ends, kernels compiled with g++ (see cuda_shim.h)."""

from __future__ import annotations

import contextlib
import ctypes
import re
import subprocess
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

SHIM = Path(__file__).with_name("cuda_shim.h")
FLAGS = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
TRAPS = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
"""Addresses that are no multiples of what is read there, and shifts too far, end the process."""
GUARD = 256
"""Bytes of noise on both sides of an array; also the alignment of device memory."""


def kernels(source: Path) -> list[str]:
    """Names of the kernels in a file."""
    return re.findall(r"__global__ void[^(]*(?:\(\d+\))? *\b(\w+)\(", source.read_text(encoding="utf-8"))


def build(source: Path, folder: Path) -> ctypes.CDLL:
    """A CUDA source as a library for the host."""
    wrapper, library = folder / f"{source.stem}.cpp", folder / f"{source.stem}.so"
    launchers = "\n".join(f"LAUNCHER({name})" for name in kernels(source))
    wrapper.write_text(f'#include "{SHIM}"\n#include "{source}"\n{launchers}\n', encoding="utf-8")
    found = subprocess.run(
        ["g++", *FLAGS, *TRAPS, str(wrapper), "-o", str(library)], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    return ctypes.CDLL(str(library))


class DeviceArray(np.ndarray):
    """An array that host code takes for one on a device."""

    @property
    def device(self) -> Any:
        return _Device()


class _Device(contextlib.nullcontext[None]):
    id = -1  # no real one


class HostCupy(ModuleType):
    """The names of CuPy that the twins use. ``launches`` lists the kernels that ran."""

    def __init__(self, library: dict[str, ctypes.CDLL]) -> None:
        super().__init__("cupy")
        self.cuda = SimpleNamespace(get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None))
        self.launches: list[str] = []
        self._library = library
        self._guarded: list[tuple[np.ndarray, int]] = []
        self._noise = np.random.default_rng(0)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        room = self._noise.integers(0, 256, count + 3 * GUARD, dtype=np.uint8)
        start = GUARD + -room.ctypes.data % GUARD
        room[start - GUARD : start] = room[start + count : start + count + GUARD] = 0xA5
        self._guarded.append((room[start - GUARD : start + count + GUARD], count))
        return room[start : start + count].view(dtype).reshape(shape).view(DeviceArray)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        x = self.empty(shape, dtype)
        x[...] = 0
        return x

    def asarray(self, x: Any) -> DeviceArray:
        if isinstance(x, DeviceArray):
            return x
        copy = self.empty(x.shape, x.dtype)
        copy[...] = x
        return copy

    def ascontiguousarray(self, x: DeviceArray) -> DeviceArray:
        if x.flags.c_contiguous:
            return x
        copy = self.empty(x.shape, x.dtype)
        copy[...] = x
        return copy

    def RawKernel(self, code: str, name: str, *, options: tuple[str, ...]) -> Any:  # noqa: N802
        assert f" {name}(" in code
        return partial(self._launch, name)

    def check(self) -> None:
        """No byte beside an array was written."""
        for room, count in self._guarded:
            assert (room[:GUARD] == 0xA5).all(), "written before an array"
            assert (room[GUARD + count :] == 0xA5).all(), "written beyond an array"

    def _launch(
        self, name: str, grid: tuple[int, int, int], block: tuple[int, int, int], given: Any, *, shared_mem: int
    ) -> None:
        values, sizes = [], []
        for argument in given:
            if isinstance(argument, DeviceArray):
                values.append(ctypes.c_uint64(argument.ctypes.data))
                sizes.append(8)
            else:
                assert isinstance(argument, np.generic), f"{argument!r} has no certain size"
                values.append(ctypes.c_uint64(int(argument)))
                sizes.append(argument.itemsize)
        function = getattr(self._library[name], f"launch_{name}")
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

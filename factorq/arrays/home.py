"""Where an array lives, so that results can go back there."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any

import array_api_compat as compat
import numpy as np
from numpy.typing import NDArray

from ..errors import refuse, refuse_type
from .libraries import FLOATS, NUMPY, Array, dtype_name, is_host, library, namespace
from .transfer import cupy, note_to_device, on_gpu, ordinal, to_host


@dataclass(frozen=True)
class Home:
    """Where an array lives: its namespace, device and dtype name."""

    xp: ModuleType
    device: Any
    dtype: str

    def __reduce__(self) -> tuple[Any, ...]:
        device = self.device  # a module pickles by its name only, and some devices by none
        if self.library == "cupy":
            device = device.id
        elif self.library == "jax" and hasattr(device, "platform"):
            device = device.platform, device.id
        return _home, (self.xp.__name__, device, self.dtype)

    @classmethod
    def of(cls, x: Array) -> Home:
        """The home of ``x``."""
        if type(x) is np.ndarray and x.dtype in _HOSTS:
            return _HOSTS[x.dtype]
        return cls(namespace(x), compat.device(x) if not is_host(x) else "cpu", dtype_name(x))

    @cached_property
    def library(self) -> str:
        """The library as users spell it."""
        return library(self.xp)

    @cached_property
    def gpu(self) -> int | None:
        """The number of the NVIDIA GPU it is on, or None."""
        return ordinal(self.library, self.device)

    def check_neighbour(self, other: Home, name: str) -> None:
        """Raise unless arrays of ``other`` are of the same library and on the same device."""
        if other is self:
            return
        if other.xp is not self.xp:
            found, remedy = f"{self.library} and {other.library}", f"convert {name}, or use F.like({name})"
            raise refuse_type("arrays", found=found, allowed="arrays of one library", remedy=remedy)
        other.check_values(name)
        if other.device != self.device:
            found, allowed = f"an array on {other.device}", f"one on {self.device}, where the factors are"
            raise refuse(name, found=found, allowed=allowed, remedy=f"move it there, or use F.like({name})")

    def check_values(self, name: str) -> None:
        """Raise if arrays here have no values: torch's on the device "meta", and what JAX traces."""
        if self.device is None or str(self.device) == "meta":
            remedy = "call this outside of jax.jit, grad and vmap, or through jax.pure_callback"
            raise refuse(name, found="an array without values", allowed="one with them", remedy=remedy)

    def put(self, x: NDArray[Any]) -> Array:
        """The host array ``x`` as kernels read it here: itself, or a CuPy array on this GPU."""
        return x if self.gpu is None else on_gpu(x, self.gpu)

    def place(self, x: Array, dtype: str | None = None) -> Array:
        """``x``, a NumPy array or a CuPy array on this GPU, in this home, as ``dtype`` (the home's own if None)."""
        name = dtype or self.dtype
        kind = FLOATS.get(name, x.dtype)
        if self.gpu is None:
            return self._on_host(np.ascontiguousarray(to_host(x), dtype=kind), name)
        there = (self.put(x) if is_host(x) else x).astype(kind, copy=False)
        if self.library == "cupy":
            return there
        with self.active():  # torch and JAX take the same memory
            return self.xp.from_dlpack(cupy(self.device).ascontiguousarray(there))

    def _on_host(self, host: NDArray[Any], name: str) -> Array:
        if self.xp is NUMPY:
            return host
        if "cpu" not in str(self.device).lower():  # a device that no kernel of ours reaches
            note_to_device(host)
        if name == "bfloat16" and self.library == "torch":
            return self.xp.asarray(host.view(np.int16), device=self.device).view(self.xp.bfloat16)
        return self.xp.asarray(host, device=self.device)

    def active(self) -> AbstractContextManager[Any]:
        """A context in which new CuPy arrays are on this GPU."""
        if self.gpu is None:
            return nullcontext()
        device: AbstractContextManager[Any] = cupy(self.device).cuda.Device(self.gpu)
        return device

    def with_dtype(self, dtype: str) -> Home:
        """The same place for arrays of ``dtype``.

        Raises
        ------
        ArgumentTypeError
            If the library has no such arrays.
        """
        home = replace(self, dtype=dtype)
        if self.library in ("numpy", "torch", "cupy"):
            return home
        with warnings.catch_warnings(action="ignore"):  # JAX warns where it holds float64 as float32
            try:
                kept = dtype_name(home.place(np.zeros(1, FLOATS[dtype]))) == dtype
            except (TypeError, ValueError, AttributeError):
                kept = False
        if not kept:
            remedy = "enable jax_enable_x64" if self.library == "jax" else "decompose the array in another dtype"
            found = f"{dtype} factors for {self.library}, which has no such arrays"
            raise refuse_type("dtype", found=found, allowed="a dtype of the library", remedy=remedy)
        return home


def _home(xp: str, device: Any, dtype: str) -> Home:
    module = import_module(xp)
    if xp == "cupy":
        device = module.cuda.Device(device)
    elif isinstance(device, tuple):
        platform, number = device
        device = next(d for d in import_module("jax").devices(platform) if d.id == number)
    return Home(module, device, dtype)


HOST = Home(NUMPY, "cpu", "float32")
"""The home of arrays that were read from a file."""

_HOSTS = {dtype: replace(HOST, dtype=name) for name, dtype in FLOATS.items()}

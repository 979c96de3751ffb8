"""Ways between libraries and memories: to the host, to arrays that kernels read, and beside another array.

Arrays on the host become NumPy arrays of the same memory, those in the memory of an NVIDIA GPU CuPy arrays of the same
memory, through DLPack. Copies of arrays between the two memories are made by functions of this module, and counted;
not counted are the arguments of a launch, as offsets of blocks or tables of a few numbers.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import array_api_compat as compat
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..errors import refuse, refuse_type
from .libraries import Array, dtype_name, is_cupy, is_host, library, namespace


@dataclass(frozen=True)
class Transfers:
    """Arrays that were copied between the memories of the host and of devices.

    Attributes
    ----------
    to_host, to_device : int
        Their number.
    bytes_to_host, bytes_to_device : int
        Their sizes together.
    """

    to_host: int = 0
    to_device: int = 0
    bytes_to_host: int = 0
    bytes_to_device: int = 0

    def __add__(self, other: Transfers) -> Transfers:
        return Transfers(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Transfers) -> Transfers:
        return Transfers(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


_REMEDY = "convert it first; what jax.jit, grad or vmap trace goes through jax.pure_callback"

_made = Transfers()
_lock = threading.Lock()


def transfers() -> Transfers:
    """What was copied so far, by all threads: the difference of two calls is what was moved between them."""
    return _made


def _count(more: Transfers) -> None:
    global _made
    with _lock:
        _made = _made + more


def note_to_host(x: NDArray[Any]) -> NDArray[Any]:
    """``x``, which was copied from a device, counted."""
    _count(Transfers(to_host=1, bytes_to_host=x.nbytes))
    return x


def note_to_device(x: NDArray[Any]) -> NDArray[Any]:
    """``x``, which is about to be copied to a device, counted."""
    _count(Transfers(to_device=1, bytes_to_device=x.nbytes))
    return x


def to_host(x: Array) -> NDArray[Any]:
    """``x`` as a NumPy array of the same shape and dtype; a view where the library shares host memory.

    Raises
    ------
    ArgumentTypeError
        If there are no plain numbers to read: masked, sparse or traced arrays.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise refuse_type("array", found="a masked array", allowed="plain numbers", remedy="use filled(0) first")
    if is_host(x):
        return np.asarray(x)
    try:
        return _copied(x)
    except (TypeError, RuntimeError, ValueError, BufferError, AttributeError) as error:  # no numbers to read
        kind = f"{type(x).__module__}.{type(x).__name__}"
        found = f"a {kind} that cannot be read ({str(error).strip().splitlines()[0][:80]})"
        raise refuse_type("array", found=found, allowed="a dense array with values", remedy=_REMEDY) from None


def _copied(x: Array) -> NDArray[Any]:
    if is_cupy(x):
        return note_to_host(np.asarray(x.get()))
    if compat.is_torch_array(x):
        host = _of_torch(x.detach().cpu())
        return host if x.device.type == "cpu" else note_to_host(host)
    if compat.is_jax_array(x):
        return np.asarray(x) if gpu(x) is None else note_to_host(np.asarray(x))
    return np.asarray(np.from_dlpack(x))


def _of_torch(x: Array) -> NDArray[Any]:
    x = x.resolve_conj().resolve_neg()  # signs that torch has put off
    if dtype_name(x) == "bfloat16":  # torch refuses bfloat16 -> NumPy; its bits are the same
        return np.asarray(x.view(namespace(x).int16)).view(ml_dtypes.bfloat16)
    return np.asarray(x)


def gpu(x: Array) -> int | None:
    """The number of the NVIDIA GPU in whose memory ``x`` is, or None."""
    return None if is_host(x) else ordinal(library(x), compat.device(x))


def ordinal(library: str, device: Any) -> int | None:
    """The number of the NVIDIA GPU that a library calls ``device``, or None if it is none."""
    if library == "cupy":
        return int(device.id)
    if library == "torch" and device.type == "cuda":
        return int(device.index or 0)
    if library == "jax" and getattr(device, "platform", "") in ("gpu", "cuda"):
        return int(device.local_hardware_id)
    return None


def native(x: Array) -> Array:
    """The same numbers as an array that kernels read: a NumPy array, or a CuPy array if ``x`` is on an NVIDIA GPU.

    A view wherever the library shares its memory.

    Raises
    ------
    ArgumentTypeError
        As :func:`to_host`.
    ArgumentError
        If ``x`` is on a GPU and CuPy is not installed.
    """
    if type(x) is np.ndarray or is_cupy(x):
        return x
    if gpu(x) is None:
        return to_host(x)
    return cupy(x).from_dlpack(x.detach() if library(x) == "torch" else x)


def cupy(x: Any) -> ModuleType:
    """The module, for the array or the device ``x``, which is on a GPU."""
    try:
        import cupy
    except ImportError:
        found = f"{getattr(x, 'device', x)} without CuPy"
        remedy = "pip install factorq[cuda], or move the array to the host"
        raise refuse("device", found=found, allowed="a GPU whose arrays CuPy can reach", remedy=remedy) from None
    module: ModuleType = cupy
    return module


def beside(x: NDArray[Any], other: Array) -> Array:
    """The host array ``x`` in the library and on the device of ``other``."""
    if is_host(other):
        return x
    if is_cupy(other):
        return on_gpu(x, other.device.id)
    return namespace(other).asarray(x, device=compat.device(other))


def constant(other: Array, make: Callable[..., NDArray[Any]], *arguments: Hashable) -> Array:
    """``make(*arguments)``, a table of numbers, beside ``other``: on a GPU, the copy that was made there before."""
    return _constant(make, arguments, other.device.id) if is_cupy(other) else make(*arguments)


@lru_cache(maxsize=64)
def _constant(make: Callable[..., NDArray[Any]], arguments: tuple[Hashable, ...], ordinal: int) -> Array:
    return on_gpu(make(*arguments), ordinal)


def on_gpu(x: NDArray[Any], ordinal: int) -> Array:
    """The host array ``x`` as a CuPy array on a GPU; the copy has ended when this returns."""
    module = cupy(f"GPU {ordinal}")
    with module.cuda.Device(ordinal):
        return module.asarray(note_to_device(x), blocking=True)


def on_device(x: Array) -> AbstractContextManager[Any]:
    """A context in which new arrays of the library of ``x`` are on its device."""
    if is_cupy(x):
        device: AbstractContextManager[Any] = x.device
        return device
    return nullcontext()


def needs_gradient(x: Array) -> bool:
    """Whether ``x`` is a tensor of which PyTorch would now record what is computed from it."""
    needs = getattr(x, "requires_grad", False) is True and library(x) == "torch"
    return needs and bool(sys.modules["torch"].is_grad_enabled())

"""What lossless stores share: another codec's array, some of its buffers written in another way."""

from __future__ import annotations

import math
import mmap
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...arrays import FLOATS
from ...errors import ArtifactError
from ...forms.axes import Axes
from .encoded import Encoded, Points, buffer, decode_config
from .shadow import Rewrapped, Shadow

BUFFER_DTYPES = {"uint8": np.dtype(np.uint8), **FLOATS}
"""What a buffer that is stored as a stream may hold, by name: packed codes, or floating numbers."""


def untouched(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros that take no memory until they are read, so that a codec can be asked about its layout."""
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return np.zeros(shape, dtype)
    try:
        return np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)
    except (OSError, OverflowError, ValueError) as error:
        raise MemoryError(f"{size:,} bytes: {error}") from None


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Wrapped(Encoded):
    """The array of another ``Encoded``, some of whose buffers are streams.

    Parameters
    ----------
    inner : mapping
        The configuration of the other one.
    coded : tuple
        What is needed to read each of the streams back, the buffer's name first.
    parts : mapping from str to NDArray
        All buffers under the other one's names: streams of uint8, or as they were.
    """

    inner: Mapping[str, Any]
    coded: tuple[tuple[Any, ...], ...]
    parts: Mapping[str, NDArray[Any]] = buffer()

    @classmethod
    @abstractmethod
    def encode(cls, encoded: Any) -> Self:
        """What ``encoded`` stores, in the other way."""

    @abstractmethod
    def restored(self) -> Encoded:
        """The other ``Encoded`` as it was."""

    @abstractmethod
    def blanks(self) -> dict[str, NDArray[Any]]:
        """For each stream an array of zeros as it stood in its place, or :class:`ArtifactError` if there is none."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **extra: Any) -> Self:
        plain = dict(config)
        inner, parts = plain.pop("inner"), dict(extra.pop("buffers"))
        return super(Encoded, cls).from_config(plain, inner=inner, parts=parts)

    def buffers(self) -> dict[str, NDArray[Any]]:
        return dict(self.parts)

    def check(self) -> None:
        self.require(isinstance(self.inner, Mapping) and self.inner.get("id") != self.id, "no codec inside")
        for part in self.coded:
            stream = self.parts.get(part[0]) if isinstance(part, tuple) and part and isinstance(part[0], str) else None
            good = stream is not None and stream.dtype == np.uint8 and stream.ndim == 1 and stream.flags.c_contiguous
            self.require(good, f"{part!r} is no uint8 vector")
        try:
            blank = self.rebuilt(self.blanks())
        except ArtifactError:
            raise
        except (MemoryError, ValueError) as error:
            self.require(False, f"its codes do not fit in memory ({error})")
            raise
        fits = blank.shape == self.shape and blank.dtype == self.dtype
        self.require(fits, f"codec {blank.id} of shape {blank.shape}, expected {self.shape} of {self.dtype}")

    def rebuilt(self, buffers: Mapping[str, NDArray[Any]]) -> Encoded:
        """The other ``Encoded`` with ``buffers`` in place of the streams."""
        return decode_config(self.inner, {**self.parts, **buffers})

    def decode(self) -> NDArray[Any]:
        return self.restored().decode()

    def shadow(self, reselect: bool = False) -> Shadow:
        return Rewrapped(self, self.restored().shadow(reselect), self.encode)

    @property
    def on_gpu(self) -> bool:
        return self.rebuilt(self.blanks()).on_gpu

    def placed(self, put: Callable[[NDArray[Any]], Any]) -> Any:
        return self.restored().placed(put)  # streams are read on the host, once

    @cached_property
    def opened(self) -> Encoded:
        """What multiplies in its place, made for the first product; as a rule the other one as it was."""
        return self.restored()

    def matmul(self, x: NDArray[Any]) -> NDArray[Any]:
        return self.opened.matmul(x)

    def rmatmul(self, x: NDArray[Any]) -> NDArray[Any]:
        return self.opened.rmatmul(x)

    def contract(self, x: NDArray[Any], axes: Axes) -> NDArray[Any]:
        return self.opened.contract(x, axes)

    def nearest(self, x: NDArray[Any]) -> Self:
        return self.encode(self.restored().nearest(x))

    def points(self) -> Points:
        return self.restored().points()

    def reshaped(self, shape: tuple[int, ...]) -> Self:
        return self.encode(self.restored().reshaped(shape))

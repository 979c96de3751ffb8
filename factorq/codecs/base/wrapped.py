"""What lossless stores share: another codec's array, some of its buffers written in another way."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...arrays import FLOATS
from ...errors import ArtifactError
from .encoded import Encoded, Points, buffer, decode_config

BUFFER_DTYPES = {"uint8": np.dtype(np.uint8), **FLOATS}
"""What a buffer that is stored as a stream may hold, by name: packed codes, or floating numbers."""


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
        try:  # zeros that are never touched take no memory
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

    def nearest(self, x: NDArray[Any]) -> Self:
        return self.encode(self.restored().nearest(x))

    def points(self) -> Points:
        return self.restored().points()

    def reshaped(self, shape: tuple[int, ...]) -> Self:
        return self.encode(self.restored().reshaped(shape))

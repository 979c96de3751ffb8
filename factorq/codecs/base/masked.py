"""What codecs of sparse arrays share: a mask, stored in one way or another, around the codec of the kept entries."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from .encoded import Encoded, Packed, Points


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Masked(Encoded):
    """``x[mask] = inner, x[~mask] = 0``; a subclass says how the mask is stored.

    It also has the field ``inner = buffer()``, after its own buffers: the kept entries (count,) in C order.
    """

    if TYPE_CHECKING:
        inner: Encoded

    @abstractmethod
    def mask(self) -> NDArray[np.bool_]:
        """Which entries are kept: ``shape``, bool."""

    def smallest(self) -> Self:
        """The same array with its mask in the fewest bytes of all ways to store it."""
        return self

    def check(self) -> None:
        self.require(isinstance(self.inner, Encoded), "no inner codec")
        count = self.inner.size
        self.require(len(self.inner.shape) == 1 and count <= self.size, f"{count} kept entries of {self.size}")
        self.require(self.inner.dtype == self.dtype, f"inner dtype {self.inner.dtype}, expected {self.dtype}")

    def packed(self) -> dict[str, Packed]:
        return {f"inner.{name}": layout for name, layout in self.inner.packed().items()}

    def decode(self) -> NDArray[Any]:
        out = np.zeros(self.shape, self.dtype)
        out[self.mask()] = self.inner.decode()
        return out

    def nearest(self, x: NDArray[Any]) -> Self:
        return replace(self, inner=self.inner.nearest(np.ascontiguousarray(x[self.mask()])))

    def points(self) -> Points:
        keep, inner = self.mask(), self.inner.points()

        def scattered(values: NDArray[Any] | None) -> NDArray[Any] | None:
            if values is None:
                return None
            full = np.zeros(self.shape)
            full[keep] = values
            return full

        return Points(inner.levels, scattered(inner.scale), scattered(inner.offset), keep)

    @property
    def density(self) -> float:
        """Share of entries that are kept, 0 to 1."""
        return self.inner.size / max(self.size, 1)

"""What codecs of sparse arrays share: a mask, stored in one way or another, around the codec of the kept entries."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ...arrays import namespace
from ...errors import ArtifactError
from ...kernels import deposit, sparse
from . import products
from .encoded import Encoded, Packed, Points
from .kept import Kept, Selected
from .shadow import Frozen, Shadow

_CUT = 1 << 16
"""Kept entries of a cut, about, of at most four times as many."""
_RANK = 4096
"""Entries after which kept ones are counted."""
_COUNTED = 1 << 20
"""Entries that are counted at a time."""
_DENSE = 1.3
"""Share of kept entries, times columns of x up to 8, beyond which a cut is made dense for BLAS. 4096 x 4096, 16
columns, 5 / 10 / 20 / 50 % kept: 10 / 14 / 50 / 45 ms entry by entry, 21 / 22 / 28 / 32 ms by BLAS."""


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

    @abstractmethod
    def bitmap(self) -> NDArray[np.uint8]:
        """The mask as one bit per entry in C order, lowest bit first: (ceil(size / 8),); never more than that."""

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

    def cuts(self) -> Sequence[tuple[slice, slice]]:
        _ = self.kept  # made once, before threads ask for it
        return products.strips(*self.matrix, int(_CUT / max(self.density, 0.25)))

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        first, values = self._range(rows, columns)
        m, n = rows.stop - rows.start, columns.stop - columns.start
        return sparse.expand(self.kept[0], first, values, m * n).reshape(m, n)

    def multiply(self, rows: slice, columns: slice, x: NDArray[Any], out: NDArray[Any], transposed: bool) -> None:
        if self.density * min(x.shape[1], 8) > _DENSE:
            super().multiply(rows, columns, x, out, transposed)
            return
        first, values = self._range(rows, columns)
        product = sparse.rmatmul if transposed else sparse.matmul
        product(self.kept[0], first, values.astype(out.dtype, copy=False), x, out)

    @property
    def on_gpu(self) -> bool:
        return self.inner.on_gpu

    def placed(self, put: Callable[[NDArray[Any]], Any]) -> MaskedOnGpu:
        return MaskedOnGpu(self.shape, self.dtype, put(self.kept[0]), self.inner.placed(put))

    @cached_property
    def kept(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bitmap, and how many entries are kept before each range of it: made once, for products."""
        bitmap, ranks = self.bitmap(), np.zeros(-(-self.size // _RANK) + 1, np.int64)
        for at in range(0, self.size, _COUNTED):
            part = min(_COUNTED, self.size - at)
            found = deposit.ranks(bitmap[at // 8 : -(-(at + part) // 8)], part, _RANK)
            ranks[at // _RANK : at // _RANK + found.size] = found + ranks[at // _RANK]
        if int(ranks[-1]) != self.inner.size:
            raise ArtifactError(f"{self.id}: {int(ranks[-1])} entries kept by the mask, expected {self.inner.size}")
        return bitmap, ranks

    def _range(self, rows: slice, columns: slice) -> tuple[int, NDArray[Any]]:
        """Where a cut begins in C order, and its kept entries."""
        n = self.matrix[1]
        first, stop = rows.start * n + columns.start, (rows.stop - 1) * n + columns.stop
        begin, end = deposit.rank(*self.kept, np.array([first, stop]), _RANK).tolist()
        return first, np.ascontiguousarray(self.inner.part(begin, end))

    def nearest(self, x: NDArray[Any]) -> Self:
        return replace(self, inner=self.inner.nearest(np.ascontiguousarray(x[self.mask()])))

    def shadow(self, reselect: bool = False) -> Shadow:
        if not self.inner.size:
            return Frozen(self)
        return Selected(self) if reselect and self.selects else Kept(self)

    @property
    def selects(self) -> bool:
        """Whether any mask of as many entries can be stored."""
        return False

    def remade(self, mask: NDArray[np.bool_], inner: Encoded) -> Self:
        """Another mask, stored in the same way, around other kept entries; where :attr:`selects`."""
        raise ArtifactError(f"{self.id}: its masks are not any masks")

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


@dataclass(frozen=True, eq=False)
class MaskedOnGpu:
    """The same in CuPy arrays: the mask as one bit per entry, however it is stored."""

    shape: tuple[int, ...]
    dtype: str
    bitmap: Any
    inner: Any

    def decode_on_gpu(self) -> Any:
        """The array: ``shape``, ``dtype``."""
        xp, size = namespace(self.bitmap), math.prod(self.shape)
        out = xp.zeros(size, dtype=self.dtype)
        out[xp.flatnonzero(xp.unpackbits(self.bitmap, bitorder="little")[:size])] = self.inner.decode_on_gpu()
        return out.reshape(self.shape)

    def matmul_on_gpu(self, x: Any) -> Any:
        """``self @ x`` for the array as a matrix (shape[0], the rest)."""
        return self.decode_on_gpu().reshape(self.shape[0], -1) @ x

    def rmatmul_on_gpu(self, x: Any) -> Any:
        """``x @ self`` for the array as a matrix (shape[0], the rest)."""
        return x @ self.decode_on_gpu().reshape(self.shape[0], -1)

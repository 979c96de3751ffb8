"""A 0/1 mask around any inner codec: only the kept entries are coded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError
from ..kernels import density, deposit, gaps
from ..kernels.bits import packed_size
from .base import Encoded, Masked, Packed, buffer, widths


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Mask(Masked):
    """``x[mask] = inner, x[~mask] = 0``, the mask as a bitmap, as Golomb-coded gaps or by a model of its densities.

    :meth:`encode` takes the smaller of the first two, both of which are read at 300 million entries/s and more;
    :meth:`smallest` the smallest of all. The last one is read at 50 million entries/s; on masks of networks pruned by
    magnitude it takes 2 to 25 % less than the gaps (:mod:`factorq.kernels.density`).

    Parameters
    ----------
    parameter : int or None
        None for a bitmap of one bit per entry; the parameter of the gap code, at least 2; or 0 to -64 for the density
        code of the mask as a matrix (shape[0], the rest), or as one row if that has one column, whose rows consist of
        kernels of ``-parameter`` entries.
    positions : NDArray, (k,) uint8
        The coded mask.
    inner : Encoded, shape (count,)
        The kept entries in C order.

    Examples
    --------
    >>> from factorq.codecs import Dense
    >>> x = np.array([0.0, 2.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0], np.float32)
    >>> m = Mask.encode(x != 0, Dense.encode(x[x != 0]))
    >>> m.decode(), m.nbytes  # 2 float32 values and 1 byte of gaps
    (array([0., 2., 0., 0., 0., 3., 0., 0., 0.], dtype=float32), 9)
    """

    id: ClassVar[str] = "mask"
    parameter: int | None
    positions: NDArray[Any] = buffer()
    inner: Encoded = buffer()

    @classmethod
    def encode(cls, mask: NDArray[np.bool_], inner: Encoded) -> Mask:
        """Store ``mask`` (any shape) around the coded kept entries ``inner`` (count,)."""
        flat = np.ascontiguousarray(mask).reshape(-1)
        parameter: int | None
        parameter, nbytes = gaps.plan(flat)
        if nbytes < packed_size(flat.size, 1):
            positions, parameter = gaps.encode(flat)
        else:
            positions, parameter = np.packbits(flat, bitorder="little"), None
        return cls(shape=mask.shape, dtype=inner.dtype, parameter=parameter, positions=positions, inner=inner)

    def smallest(self) -> Mask:
        mask = self.mask()
        return min((self, self.encode(mask, self.inner), self._modelled(mask)), key=lambda way: way.positions.nbytes)

    def check(self) -> None:
        super().check()
        if self.parameter is None:
            self.expect("positions", "uint8", (packed_size(self.size, 1),))
            return
        sound = type(self.parameter) is int and -density.GROUP <= self.parameter < 1 << 50
        self.require(sound and self.parameter not in (1, -1), f"parameter {self.parameter!r} belongs to no code")
        self.expect("positions", "uint8", None)
        if self.parameter <= 0:
            _, n = self._matrix
            self.require(not self.parameter or n % self.parameter == 0, f"kernels of {-self.parameter} in rows of {n}")
            fits = density.holds(self.positions, self.size)
            self.require(fits, f"{self.positions.size} bytes cannot hold {self.size} entries")

    def packed(self) -> dict[str, Packed]:
        bitmap = {} if self.parameter is not None else {"positions": Packed(1, self.size, widths(self.shape))}
        return bitmap | super().packed()

    @property
    def selects(self) -> bool:
        return True

    def remade(self, mask: NDArray[np.bool_], inner: Encoded) -> Mask:
        if self.parameter is None:
            return replace(self, positions=np.packbits(mask.reshape(-1), bitorder="little"), inner=inner)
        return self.encode(mask, inner) if self.parameter > 0 else replace(self, inner=inner)._modelled(mask)

    def versions(self) -> tuple[Encoded, ...]:
        mask = self.mask()
        bitmap = replace(self, parameter=None, positions=np.packbits(mask.reshape(-1), bitorder="little"))
        return tuple(way for way in (bitmap, self._modelled(mask)) if way.parameter != self.parameter)

    def mask(self) -> NDArray[np.bool_]:
        """Which entries are kept: ``shape``, bool."""
        flat = np.unpackbits(self.bitmap(), count=self.size, bitorder="little").view(np.bool_)
        if int(np.count_nonzero(flat)) != self.inner.size:
            raise ArtifactError(f"mask: {int(np.count_nonzero(flat))} bits set, expected {self.inner.size}")
        return flat.reshape(self.shape)

    def bitmap(self) -> NDArray[np.uint8]:
        """One bit per entry in C order, lowest bit first: (ceil(size / 8),)."""
        if self.parameter is None:
            return self.positions
        if self.parameter > 0:
            return gaps.bitmap(self.positions, self.parameter, self.size, self.inner.size)
        return density.bitmap(self.positions, self._matrix, -self.parameter)

    def directory(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The bitmap and its rank directory, by which entry i is found among the kept ones without the ones before it.

        Examples
        --------
        >>> from factorq.codecs import Dense
        >>> x = np.arange(10_000, dtype=np.float32) % 7 // 5
        >>> m = Mask.encode(x != 0, Dense.encode(x[x != 0]))
        >>> int(deposit.rank(*m.directory(), 7000)), deposit.select(*m.directory(), 2000)
        (2000, 7005)
        """
        bitmap = self.bitmap()
        return bitmap, deposit.ranks(bitmap, self.size)

    @property
    def _matrix(self) -> tuple[int, int]:
        """Rows and columns as which the mask is modelled; another shape of the same first axis has the same ones."""
        rows = self.shape[0] if self.shape and self.size > self.shape[0] else 1
        return rows, self.size // rows

    def _modelled(self, mask: NDArray[np.bool_]) -> Mask:
        kernel = int(np.prod(self.shape[2:], dtype=object)) if len(self.shape) > 2 else 0
        group = kernel if 2 <= kernel <= density.GROUP else 0
        return replace(self, parameter=-group, positions=density.encode(mask.reshape(self._matrix), group))

    def summary(self) -> str:
        how = "bitmap" if self.parameter is None else "gaps" if self.parameter > 0 else "densities"
        return f"{super().summary()}, {self.density:.1%} kept ({how}), {self.inner!r}"

"""A mask that is a product of two binary matrices in every tile, around any inner codec."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError
from ..kernels.bits import packed_size
from .base import Encoded, Masked, Packed, buffer, is_count, widths

MOST_RANK = 1024
_BLOCK, _WIDE = 1 << 16, 1024  # entries, and columns, of the mask that are made at a time
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Boolean(Masked):
    """``x[mask] = inner, x[~mask] = 0``; entry (i, j) is kept if some f has ``left[i, f]`` and ``right[j, f]``.

    The array is read as a matrix (shape[0], the rest), whose tiles of (m', n') entries, ragged at the ends, have
    factors of their own: ``rank (m' + n')`` bits per tile, for masks of that kind alone. Whether an entry is kept takes
    ``rank`` bits of either factor, at addresses known without decoding anything else.

    Parameters
    ----------
    rank : int
        Inner dimension of the boolean products, 1 to 1024.
    tile : tuple of int
        Rows and columns of a tile.
    left : NDArray, (ceil(C * m * rank / 8),) uint8
        The bits (C, m, rank) of all rows, for one column of tiles after the other; lowest bit first.
    right : NDArray, (ceil(R * n * rank / 8),) uint8
        The bits (R, n, rank) of all columns, for one row of tiles after the other.
    inner : Encoded, shape (count,)
        The kept entries in C order.

    Examples
    --------
    >>> from factorq.codecs import Dense
    >>> left = np.array([[[1, 0], [0, 1], [1, 1]]], bool)  # one tile, 3 rows, rank 2
    >>> right = np.array([[[1, 0], [1, 0], [0, 1], [0, 0]]], bool)
    >>> mask = boolean_product(left, right, (3, 4))
    >>> mask.astype(int)
    array([[1, 1, 0, 0],
           [0, 0, 1, 0],
           [1, 1, 1, 0]])
    >>> x = Boolean.encode(left, right, (3, 4), (3, 4), Dense.encode(np.arange(1, 7, dtype=np.float32)))
    >>> x.decode()[2], x.nbytes  # 6 float32 values, 6 bits and 8 bits
    (array([4., 5., 6., 0.], dtype=float32), 26)
    """

    id: ClassVar[str] = "boolean"
    rank: int
    tile: tuple[int, int]
    left: NDArray[Any] = buffer()
    right: NDArray[Any] = buffer()
    inner: Encoded = buffer()

    @classmethod
    def encode(
        cls, left: Bools, right: Bools, tile: tuple[int, int], shape: tuple[int, ...], inner: Encoded
    ) -> Boolean:
        """Store the factors ``left`` (C, m, rank) and ``right`` (R, n, rank) around the coded kept entries (count,)."""
        packed = [np.packbits(bits.reshape(-1), bitorder="little") for bits in (left, right)]
        return cls(
            shape=shape, dtype=inner.dtype, rank=left.shape[2], tile=tile, left=packed[0], right=packed[1], inner=inner
        )  # fmt: skip

    @staticmethod
    def predict(shape: tuple[int, ...], rank: int, tile: tuple[int, int]) -> int:
        """Stored bytes of the mask of an array of ``shape``, known without its values."""
        return sum(packed_size(math.prod(bits), 1) for bits in factor_shapes(shape, rank, tile))

    def check(self) -> None:
        super().check()
        self.require(len(self.shape) > 0 and self.size > 0, "no entries")
        self.require(is_count(self.rank) and 1 <= self.rank <= MOST_RANK, f"rank {self.rank!r} is out of range")
        tile_ok = isinstance(self.tile, tuple) and len(self.tile) == 2
        self.require(
            tile_ok and all(is_count(n) and n > 0 for n in self.tile), f"tile {self.tile!r} is no pair of sizes"
        )
        for name, bits in zip(("left", "right"), factor_shapes(self.shape, self.rank, self.tile), strict=True):
            self.expect(name, "uint8", (packed_size(math.prod(bits), 1),))

    def packed(self) -> dict[str, Packed]:
        shapes = zip(("left", "right"), factor_shapes(self.shape, self.rank, self.tile), strict=True)
        return {name: Packed(1, math.prod(bits), widths(bits)) for name, bits in shapes} | super().packed()

    def factors(self) -> tuple[Bools, Bools]:
        """The binary factors of all tiles: left (C, m, rank) and right (R, n, rank)."""
        left, right = factor_shapes(self.shape, self.rank, self.tile)
        return _unpacked(self.left, left), _unpacked(self.right, right)

    def mask(self) -> Bools:
        """Which entries are kept: ``shape``, bool."""
        mask = boolean_product(*self.factors(), self.tile)
        count = int(np.count_nonzero(mask))
        if count != self.inner.size:
            raise ArtifactError(f"boolean: {count} entries kept by the mask, expected {self.inner.size}")
        return mask.reshape(self.shape)

    def bitmap(self) -> NDArray[np.uint8]:
        """The mask as one bit per entry in C order, lowest bit first: (ceil(size / 8),)."""
        m, n = self.matrix
        bitmap = np.empty(packed_size(self.size, 1), np.uint8)
        step = 8 * max(1, _BLOCK // (8 * n))  # rows that end with a byte
        for top in range(0, m, step):
            rows = range(top, min(top + step, m))
            mask = np.empty((len(rows), n), np.bool_)
            for part, upper in _parts(rows, self.tile[0], len(rows)):
                for columns, lower in _parts(range(n), self.tile[1], _WIDE):
                    left = self._bits(self.left, lower * m + part.start, len(part))
                    right = self._bits(self.right, upper * n + columns.start, len(columns))
                    product = boolean_product(left[None], right[None], (len(part), len(columns)))
                    mask[part.start - top : part.stop - top, columns.start : columns.stop] = product
            packed = np.packbits(mask, bitorder="little")
            bitmap[top * n // 8 : top * n // 8 + packed.size] = packed
        return bitmap

    def _bits(self, packed: NDArray[Any], first: int, count: int) -> Bools:
        """Rows ``first`` to ``first + count`` of all factors of one side: (count, rank)."""
        start, stop = first * self.rank, (first + count) * self.rank
        bits = np.unpackbits(packed[start // 8 : -(-stop // 8)], bitorder="little")[start % 8 :]
        return bits[: stop - start].view(np.bool_).reshape(count, self.rank)

    def summary(self) -> str:
        rows, columns = self.tile
        how = f"boolean rank {self.rank} in tiles of {rows}x{columns}"
        return f"{super().summary()}, {self.density:.1%} kept ({how}), {self.inner!r}"


def _parts(places: range, tile: int, most: int) -> Iterator[tuple[range, int]]:
    """Ranges of at most ``most`` places that lie in one tile, and the number of that tile."""
    at = places.start
    while at < places.stop:
        number = at // tile
        end = min(at + most, (number + 1) * tile, places.stop)
        yield range(at, end), number
        at = end


def factor_shapes(
    shape: tuple[int, ...], rank: int, tile: tuple[int, int]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Shapes of the binary factors: (columns of tiles, m, rank) and (rows of tiles, n, rank)."""
    m, n = shape[0], math.prod(shape[1:])
    return (-(-n // tile[1]), m, rank), (-(-m // tile[0]), n, rank)


def boolean_product(left: Bools, right: Bools, tile: tuple[int, int]) -> Bools:
    """``mask[i, j] = any_f(left[j // n', i, f] and right[i // m', j, f])``.

    Parameters
    ----------
    left : NDArray, (C, m, rank) bool
    right : NDArray, (R, n, rank) bool
    tile : tuple of int
        Rows m' and columns n' of a tile: C = ceil(n / n'), R = ceil(m / m').

    Returns
    -------
    NDArray, (m, n) bool
    """
    m, n = left.shape[1], right.shape[1]
    rows, columns = min(tile[0], m), min(tile[1], n)
    mask = np.zeros((m, n), np.bool_)
    a, b = np.packbits(left, axis=-1), np.packbits(right, axis=-1)  # 8 factors at a time: a sum of ANDs of bytes
    for r in range(right.shape[0]):
        i = slice(r * rows, min((r + 1) * rows, m))
        for byte in range(a.shape[2]):
            of_rows = np.repeat(a[:, i, byte].T, columns, axis=1)[:, :n]
            mask[i] |= (of_rows & b[r, :, byte]) != 0
    return mask


def _unpacked(packed: NDArray[Any], shape: tuple[int, int, int]) -> Bools:
    return np.unpackbits(packed, count=math.prod(shape), bitorder="little").view(np.bool_).reshape(shape)

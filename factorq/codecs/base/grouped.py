"""What grids, codebooks and integers share: packed codes in groups of the rows or columns of a matrix."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels import bits as bits_kernel
from ...measure import binary_exponent, scaled
from .encoded import Encoded, Packed, Points, buffer, is_count, widths

_BLOCK = 1 << 16  # entries coded at a time: values, codes and packed bytes of a block stay in the second-level cache


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Grouped(Encoded):
    """An array stored as packed codes in groups, each group with a float16 scale: what grids and codebooks share.

    The array is read as a matrix (rows, n) whose rows are cut into groups of ``group`` entries, the last one ragged.

    Parameters
    ----------
    bits : int
        Bits per code, 1 to 16.
    group : int or None
        Entries that share a scale; None for the whole row.
    axis : int or None
        1 reads the array as (shape[0], the rest), so that groups run along the input axes of a weight; 0 as (the rest,
        shape[0]), so that they run down its columns; None as one long row.
    exponent : int
        All values are scaled by ``2**exponent``, which keeps float16 scales in range whatever the weights' magnitude.
    codes : NDArray, (ceil(size * bits / 8),) uint8
        The packed codes.
    scales : NDArray, (rows, ceil(n / group)) float16, or None
        One scale per group.
    """

    bits: int
    group: int | None
    axis: int | None
    exponent: int
    codes: NDArray[Any] = buffer()
    scales: NDArray[Any] | None = buffer(None)

    def check(self) -> None:
        self.require(isinstance(self.bits, int) and 1 <= self.bits <= 16, f"bits {self.bits!r} not in 1..16")
        group_ok = self.group is None or (is_count(self.group) and self.group > 0)
        self.require(group_ok, f"group {self.group!r} is no positive integer")
        self.require(self.axis in (None, 0, 1), f"axis {self.axis!r} is none of None, 0, 1")
        exponent_ok = isinstance(self.exponent, int) and -1200 <= self.exponent <= 1200
        self.require(exponent_ok, f"exponent {self.exponent!r} is out of range")
        self.expect("codes", "uint8", (bits_kernel.packed_size(self.size, self.bits),))
        if self.scales is not None:
            self.expect("scales", "float16", self.scales_shape)
            self.require(bool(np.isfinite(self.scales).all()), "scales that are not finite")

    def packed(self) -> dict[str, Packed]:
        rows = matrix_shape(self.shape, self.axis)[1]
        return {"codes": Packed(self.bits, self.size, widths(self.shape, rows))}

    @property
    def scales_shape(self) -> tuple[int, int]:
        """Rows and groups per row."""
        return groups_shape(self.shape, self.axis, self.group)

    def summary(self) -> str:
        group = f", groups of {self.group}" if self.group else ""
        return f"{super().summary()}, {self.bits} bits{group}"

    def decode(self) -> NDArray[Any]:
        rows, n = matrix_shape(self.shape, self.axis)
        out = np.empty((rows, n), self.dtype)
        for start, stop in row_blocks(rows, n):
            codes = unpack_rows(self.codes, self.bits, start, stop, n)
            scales = None if self.scales is None else self.scales[start:stop]
            out[start:stop] = scaled(self.decode_block(codes, slice(start, stop), scales), self.exponent)
        return from_matrix(out, self.shape, self.axis)

    def points(self) -> Points:
        scale = None if self.scales is None else self.spread(self.scales)
        return Points(
            levels=self.table_levels() * (1.0 if self.scales is not None else 2.0**self.exponent), scale=scale
        )

    def spread(self, per_group: NDArray[Any]) -> NDArray[Any]:
        """A number per group (rows, groups), times ``2**exponent``, for every entry: ``shape``, float64."""
        n = matrix_shape(self.shape, self.axis)[1]
        wide = np.repeat(np.ldexp(per_group.astype(np.float64), self.exponent), self.group or max(n, 1), axis=1)
        return from_matrix(wide[:, :n], self.shape, self.axis)

    @abstractmethod
    def table_levels(self) -> NDArray[Any]:
        """The values of the codes at scale 1, ascending: (2**bits,) float64."""

    @abstractmethod
    def decode_block(self, codes: NDArray[Any], rows: slice, scales: NDArray[Any] | None) -> NDArray[Any]:
        """The values of some rows (k, n) from their codes, before ``exponent`` is applied."""


def normal_exponent(x: NDArray[Any]) -> int:
    """The e for which ``max|x| * 2**-e`` lies in [2**12, 2**13), with 26 binades of normal float16 scales below."""
    return binary_exponent(x) - 13 if x.any() else 0


def matrix_shape(shape: tuple[int, ...], axis: int | None) -> tuple[int, int]:
    """Rows and columns of the matrix in which groups run along the columns."""
    size = math.prod(shape)
    if axis is None or not shape:
        return 1, size
    rest = math.prod(shape[1:])
    return (shape[0], rest) if axis == 1 else (rest, shape[0])


def groups_shape(shape: tuple[int, ...], axis: int | None, group: int | None) -> tuple[int, int]:
    """Rows and groups per row of an array that is cut along ``axis`` into groups of ``group`` (None: whole rows)."""
    rows, n = matrix_shape(shape, axis)
    return rows, -(-n // (group or max(n, 1)))


def to_matrix(x: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """``x`` as the matrix of :func:`matrix_shape`; a view where memory order allows it."""
    matrix = x.reshape(x.shape[0], -1).T if axis == 0 else x
    return matrix.reshape(matrix_shape(x.shape, axis))


def from_matrix(matrix: NDArray[Any], shape: tuple[int, ...], axis: int | None) -> NDArray[Any]:
    """The inverse of :func:`to_matrix`, C-contiguous."""
    return np.ascontiguousarray(matrix.T if axis == 0 else matrix).reshape(shape)


def row_blocks(rows: int, n: int) -> list[tuple[int, int]]:
    """Ranges of rows of about ``_BLOCK`` entries; each starts at a multiple of 8: packed blocks meet at bytes."""
    step = max(8, _BLOCK // max(n, 1) // 8 * 8)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def packed_rows(
    x: NDArray[Any],
    axis: int | None,
    bits: int,
    exponent: int,
    codes_of: Callable[[NDArray[Any], slice], NDArray[Any]],
) -> NDArray[Any]:
    """The packed codes of ``x * 2**-exponent``: ``codes_of(block (k, n), its rows)`` gives those of a block of rows."""
    matrix = to_matrix(x, axis)
    rows, n = matrix.shape
    packed = np.empty(bits_kernel.packed_size(x.size, bits), np.uint8)
    for start, stop in row_blocks(rows, n):
        block = np.ascontiguousarray(scaled(matrix[start:stop], -exponent))
        piece = bits_kernel.pack(codes_of(block, slice(start, stop)).reshape(-1), bits)
        first = start * n * bits // 8
        packed[first : first + piece.size] = piece
    return packed


def unpack_rows(packed: NDArray[Any], bits: int, start: int, stop: int, n: int) -> NDArray[Any]:
    """The codes (stop - start, n) of some rows; ``start`` is a multiple of 8."""
    count = (stop - start) * n
    first = start * n * bits // 8
    block = packed[first : first + bits_kernel.packed_size(count, bits)]
    return np.asarray(bits_kernel.unpack(block, bits, count)).reshape(stop - start, n)

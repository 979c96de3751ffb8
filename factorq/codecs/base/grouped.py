"""What grids, codebooks and integers share: packed codes in groups of the rows or columns of a matrix."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels import bits as bits_kernel
from ...kernels import grouped as kernel
from ...measure import binary_exponent, scaled
from . import products
from .encoded import Encoded, Packed, Points, Read, buffer, is_count, widths
from .rounded import Rounded
from .shadow import Shadow

_MOST = 96, 512
"""Vectors up to which codes are multiplied as they are packed, as rows times x and as rows added up; half for levels.

4096 x 4096 of 4 bits: at 128 vectors 92 and 68 ms, from decoded cuts 91 and 101; at 256 225 and 144, and 163 and 261.
"""
_CUTS = 7
"""Cuts hold about ``size >> _CUTS`` entries: BLAS wants them large, and two threads may take 5 % of the matrix."""
_FARTHEST, _LARGEST = 90, 2.0**60
"""The largest exponent, and number of x, with which all numbers that such a product makes are in range of float32."""

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

    @property
    def on_gpu(self) -> bool:
        return True

    def decode_on_gpu(self) -> Any:
        if self._matrix is not None and self.axis != 0:  # in one pass; turned, it would be copied once more
            return kernel.decode(self._matrix, self.dtype, self.exponent).reshape(self.shape)
        codes = bits_kernel.unpack(self.codes, self.bits, self.size)
        values = scaled(self.values_on_gpu(codes.reshape(matrix_shape(self.shape, self.axis))), self.exponent)
        return (values.T if self.axis == 0 else values).reshape(self.shape)

    def matmul_on_gpu(self, x: Any) -> Any:
        if self._matrix is None or str(x.dtype) != "float32" or not x.size:
            return super().matmul_on_gpu(x)
        x, exponent = _near_one(x)
        return np.ldexp(self._product(self._matrix, x, left=False), exponent + self.exponent)

    def rmatmul_on_gpu(self, x: Any) -> Any:
        if self._matrix is None or str(x.dtype) != "float32" or not x.size:
            return super().rmatmul_on_gpu(x)
        x, exponent = _near_one(x)
        return np.ldexp(self._product(self._matrix, x, left=True), exponent + self.exponent)

    @property
    def streamed(self) -> str | None:
        return "codes"

    @property
    def transposed(self) -> bool:
        return self.axis == 0

    def part(self, first: int, stop: int, read: Read | None = None) -> NDArray[Any]:
        if first == stop:
            return np.empty(0, self.dtype)
        n = matrix_shape(self.shape, self.axis)[1]
        top, low, left, right, groups = first // n, -(-stop // n), 0, n, slice(None)
        if low == top + 1 and top * n % 8 == 0:  # of one row, whole groups from whole bytes on
            step = math.lcm(8, self.group or 1)
            left, right = (first - top * n) // step * step, min(-(-(stop - top * n) // step) * step, n)
            groups = slice(left // self.group, -(-right // self.group)) if self.group else groups
        else:  # whole rows from whole bytes on
            step = 8 // math.gcd(8, n)
            top = top // step * step
        at, end = top * n + left, (low - 1) * n + right
        codes = read(at, end) if read else self.codes[at * self.bits // 8 : -(-end * self.bits // 8)]
        per_group = {name: getattr(self, name, None) for name in ("scales", "minima")}
        cut = {name: np.ascontiguousarray(x[top:low, groups]) for name, x in per_group.items() if x is not None}
        piece = self.altered(shape=(low - top, right - left), axis=1, **cut)
        numbers = np.asarray(bits_kernel.unpack(codes, self.bits, end - at)).reshape(piece.shape)
        values = scaled(piece.decode_block(numbers, slice(0, low - top), piece.scales), self.exponent)
        return np.asarray(values).reshape(-1)[first - at : stop - at]

    def cuts(self) -> Sequence[tuple[slice, slice]]:
        down = self.axis == 0
        rows, n = self.matrix[::-1] if down else self.matrix
        if n % 8 and n <= _BLOCK:  # rows that begin within bytes
            some = [(slice(start, stop), slice(0, n)) for start, stop in row_blocks(rows, n)]
        else:
            some = products.strips(rows, n, max(_BLOCK, self.size >> _CUTS))
        return [(minor, major) for major, minor in some] if down else some

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        n, major, minor = (self.matrix[0], columns, rows) if self.axis == 0 else (self.matrix[1], rows, columns)
        values = self.part(major.start * n + minor.start, (major.stop - 1) * n + minor.stop)
        values = values.reshape(major.stop - major.start, minor.stop - minor.start)
        return values.T if self.axis == 0 else values

    def matmul(self, x: NDArray[Any]) -> NDArray[Any]:
        if self._matrix is None or not _suits(self._matrix, x, self.axis != 0):
            return super().matmul(x)
        return self._at_scale(self._product(self._matrix, x, left=False))

    def rmatmul(self, x: NDArray[Any]) -> NDArray[Any]:
        if self._matrix is None or not _suits(self._matrix, x.T, self.axis == 0):
            return super().rmatmul(x)
        return self._at_scale(self._product(self._matrix, x, left=True))

    def _product(self, matrix: kernel.Matrix, x: Any, left: bool) -> Any:
        """``x @ self`` for ``left``, else ``self @ x``, but for ``2**exponent``; down columns it is the other one."""
        if self.axis == 0:
            x, left = x.T, not left
        product = kernel.rmatmul(x, matrix) if left else kernel.matmul(matrix, x)
        return product.T if self.axis == 0 else product

    def _at_scale(self, product: NDArray[Any]) -> NDArray[Any]:
        product *= np.float32(2.0**self.exponent)
        return product

    @cached_property
    def _matrix(self) -> kernel.Matrix | None:
        """The matrix as products take it from its codes; None if they must be decoded first."""
        shape, group, levels = matrix_shape(self.shape, self.axis), self.group, self.affine().get("levels")
        one = self.scales is None or self.scales.size == 1
        if self.axis is None:
            shape, group = self.matrix, None if one else group
        whole = self.axis is not None or group is None or shape[1] % group == 0
        covered = whole and kernel.covers(self.bits, shape[1], group, 0 if levels is None else len(levels))
        if not covered or self.dtype != "float32" or abs(self.exponent) > _FARTHEST:
            return None
        parts = {"scales": self.scales, **self.affine()}
        for name in ("scales", "minima"):
            if (numbers := parts.get(name)) is not None and self.axis is None:
                parts[name] = numbers.reshape(1 if one else shape[0], -1)
        return kernel.Matrix(self.codes, self.bits, shape, group=group, **parts)

    def points(self) -> Points:
        scale = None if self.scales is None else self.spread(self.scales)
        return Points(
            levels=self.table_levels() * (1.0 if self.scales is not None else 2.0**self.exponent), scale=scale
        )

    def shadow(self, reselect: bool = False) -> Shadow:
        return Rounded(self)

    @property
    def grouped_matrix(self) -> tuple[int, int]:
        """Rows and columns of the matrix in which groups run along the columns."""
        return matrix_shape(self.shape, self.axis)

    def to_matrix(self, x: Any) -> Any:
        """``x``, an array of any library, as that matrix."""
        return to_matrix(x, self.axis)

    def of_matrix(self, matrix: Any) -> Any:
        """The inverse of :meth:`to_matrix`."""
        return (matrix.T if self.axis == 0 else matrix).reshape(self.shape)

    @property
    def even(self) -> bool:
        """Whether its levels are evenly spaced."""
        return True

    def spread(self, per_group: NDArray[Any]) -> NDArray[Any]:
        """A number per group (rows, groups), times ``2**exponent``, for every entry: ``shape``, float64."""
        n = matrix_shape(self.shape, self.axis)[1]
        wide = np.repeat(np.ldexp(per_group.astype(np.float64), self.exponent), self.group or max(n, 1), axis=1)
        return from_matrix(wide[:, :n], self.shape, self.axis)

    @abstractmethod
    def table_levels(self) -> NDArray[Any]:
        """The values of the codes at scale 1, ascending: (2**bits,) float64."""

    @abstractmethod
    def affine(self) -> dict[str, Any]:
        """The ``zero``, and the ``minima`` or the ``levels``, of :class:`factorq.kernels.grouped.Matrix`."""

    @abstractmethod
    def values_on_gpu(self, codes: Any) -> Any:
        """The values of all rows from their codes (rows, n), a CuPy array, before ``exponent`` is applied."""

    @abstractmethod
    def decode_block(self, codes: NDArray[Any], rows: slice, scales: NDArray[Any] | None) -> NDArray[Any]:
        """The values of some rows (k, n) from their codes, before ``exponent`` is applied."""


def _suits(matrix: kernel.Matrix, x: NDArray[Any], dots: bool) -> bool:
    """Whether x (n, b) may be multiplied with codes: few vectors of float32, finite and with sums that are in range."""
    most = _MOST[0 if dots else 1] >> (matrix.levels is not None)
    return x.shape[1] <= most and x.dtype == np.float32 and bool(x.size and np.abs(x).max() <= _LARGEST)


def _near_one(x: Any) -> tuple[Any, Any]:
    """x, a CuPy array, times a power of two, and its exponent for what comes out: on the device, where it stays."""
    exponent = np.frexp(np.abs(x).max())[1]
    return np.ldexp(x, -exponent), exponent


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

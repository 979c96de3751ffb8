"""Products with a stored array, decoded cut by cut: what is left over is BLAS, on one thread for each of ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...forms.axes import Axes, boxes, count, parted
from ...kernels.threads import each, one_thread_each

Matrix = NDArray[Any]
Cut = tuple[slice, slice]

_PARTS = 8
"""Most sums over cuts that are made on their own and added in order, whatever the number of threads."""
_ROOM = 64
"""The sums together take at most this part of the matrix, or are one."""

_COPIED = 1 << 16
"""Entries of a cut, about, that are put into another order at a time."""


class Stored(Protocol):
    """What the products here ask of a codec."""

    @property
    def dtype(self) -> str: ...

    @property
    def matrix(self) -> tuple[int, int]: ...

    def cuts(self) -> Sequence[Cut]: ...

    def cut(self, rows: slice, columns: slice) -> Matrix: ...

    def multiply(self, rows: slice, columns: slice, x: Matrix, out: Matrix, transposed: bool) -> None: ...


def strips(m: int, n: int, entries: int = 1 << 16, unit: int = 1) -> list[Cut]:
    """A matrix (m, n) in ranges of whole rows, or of one row, of about ``entries`` each.

    Those of one row begin at multiples of ``unit``, and have more entries only where ``unit`` is larger.
    """
    width = max(1, entries // unit) * unit
    if n > width:
        columns = [slice(at, min(at + width, n)) for at in range(0, n, width)]
        return [(slice(row, row + 1), part) for row in range(m) for part in columns]
    step = max(1, entries // max(n, 1))
    return [(slice(top, min(top + step, m)), slice(0, n)) for top in range(0, m, step)]


def matmul(stored: Stored, x: Matrix) -> Matrix:
    """``y[rows] = sum over the cuts of these rows of cut @ x[columns]``: (m, n) times (n, b)."""
    x, out = _operands(stored, x, (stored.matrix[0], x.shape[1]))
    bands = [list(cuts) for _, cuts in groupby(stored.cuts(), key=lambda cut: cut[0].start)]

    def multiply(band: Sequence[Cut]) -> None:
        for rows, columns in band:
            stored.multiply(rows, columns, x[columns], out[rows], False)

    _run(multiply, bands, out)
    return out


def rmatmul(stored: Stored, x: Matrix) -> Matrix:
    """``y.T[columns] = sum over the cuts of these columns of cut.T @ x.T[rows]``: (b, m) times (m, n)."""
    x = np.ascontiguousarray(x.T, _dtype(stored, x))

    def add(cut: Cut, out: Matrix) -> None:
        rows, columns = cut
        stored.multiply(rows, columns, x[rows], out[columns], True)

    return _summed(stored, add, (stored.matrix[1], x.shape[1]), x.dtype).T


def contract(stored: Stored, x: Matrix, axes: Axes) -> Matrix:
    """The sum over some axes of the matrix times x: (entries summed over, b) gives (entries kept, b).

    Every cut falls into boxes of whole runs of the axes, each of which is a matrix (kept, summed over).
    """
    parts = parted(axes, stored.matrix)
    if parts is None:
        raise ValueError(f"axes {axes} do not fit a matrix of {stored.matrix}")
    axes = parts[0] + parts[1]
    row_sizes, column_sizes = ([axis.size for axis in part] for part in parts)
    kept, over = ([i for i, axis in enumerate(axes) if axis.summed == s] for s in (False, True))
    b = x.shape[1]
    wide = x.reshape(*(axes[i].size for i in over), b)

    def add(cut: Cut, out: Matrix) -> None:
        rows, columns = cut
        block = stored.cut(rows, columns)
        out = out.reshape(*(axes[i].size for i in kept), b)
        step = max(1, _COPIED // (columns.stop - columns.start))
        for top in range(rows.start, rows.stop, step):
            for r, upper in boxes(top, min(top + step, rows.stop), row_sizes):
                part = block[r.start - rows.start : r.stop - rows.start]
                for c, lower in boxes(columns.start, columns.stop, column_sizes):
                    box = upper + lower
                    piece = part[:, c.start - columns.start : c.stop - columns.start]
                    sizes = [at.stop - at.start for at in box]
                    m, n = (math.prod(sizes[i] for i in some) for some in (kept, over))
                    matrix = piece.reshape(sizes).transpose(*kept, *over).reshape(m, n)
                    place = out[tuple(box[i] for i in kept)]
                    place += (matrix @ wide[tuple(box[i] for i in over)].reshape(n, b)).reshape(place.shape)

    return _summed(stored, add, (count(axes, False), b), _dtype(stored, x))


def _summed(stored: Stored, add: Callable[[Cut, Matrix], None], shape: tuple[int, int], dtype: np.dtype[Any]) -> Matrix:
    """The sum over all cuts of what ``add(cut, sum)`` adds to it, from sums over a fixed number of ranges of them."""
    cuts = stored.cuts()
    parts = max(1, min(_PARTS, math.prod(stored.matrix) // (_ROOM * max(math.prod(shape), 1))))
    size = max(1, -(-len(cuts) // parts))
    some = [cuts[i : i + size] for i in range(0, len(cuts), size)]
    sums = np.zeros((max(len(some), 1), *shape), dtype)

    def run(part: int) -> None:
        for cut in some[part]:
            add(cut, sums[part])

    _run(run, range(len(some)), sums)
    total: Matrix = sums[0]
    for more in sums[1:]:
        total += more
    return total


def _run(function: Callable[[Any], None], items: Sequence[Any], out: Matrix) -> None:
    if not out.size:
        return
    with one_thread_each() as threads:
        each(function, items, threads)


def _operands(stored: Stored, x: Matrix, shape: tuple[int, int]) -> tuple[Matrix, Matrix]:
    """x in C order, and zeros for the product, in the dtype of the product."""
    dtype = _dtype(stored, x)
    return np.ascontiguousarray(x, dtype), np.zeros(shape, dtype)


def _dtype(stored: Stored, x: Matrix) -> np.dtype[Any]:
    return np.result_type(stored.dtype, x.dtype)

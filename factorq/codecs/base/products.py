"""Products with a stored array, decoded cut by cut: what is left over is BLAS, on one thread for each of ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...kernels.threads import each, one_thread_each

Matrix = NDArray[Any]
Cut = tuple[slice, slice]

_PARTS = 8
"""Most sums of ``x @ self`` that are made on their own and added in order, whatever the number of threads."""
_ROOM = 32
"""The sums together take at most this part of the matrix, or are one."""


class Stored(Protocol):
    """What the products here ask of a codec."""

    @property
    def dtype(self) -> str: ...

    @property
    def matrix(self) -> tuple[int, int]: ...

    def cuts(self) -> Sequence[Cut]: ...

    def cut(self, rows: slice, columns: slice) -> Matrix: ...


def matmul(stored: Stored, x: Matrix) -> Matrix:
    """``y[rows] = sum over the cuts of these rows of cut @ x[columns]``: (m, n) times (n, b)."""
    out = np.zeros((stored.matrix[0], x.shape[1]), _dtype(stored, x))
    bands = [list(cuts) for _, cuts in groupby(stored.cuts(), key=lambda cut: cut[0].start)]

    def multiply(band: Sequence[Cut]) -> None:
        for rows, columns in band:
            out[rows] += stored.cut(rows, columns) @ x[columns]

    _run(multiply, bands, out)
    return out


def rmatmul(stored: Stored, x: Matrix) -> Matrix:
    """``y[:, columns] = sum over the cuts of these columns of x[:, rows] @ cut``: (b, m) times (m, n)."""
    cuts = stored.cuts()
    count = max(1, min(_PARTS, stored.matrix[0] // (_ROOM * max(x.shape[0], 1))))
    size = max(1, -(-len(cuts) // count))
    parts = [cuts[i : i + size] for i in range(0, len(cuts), size)]
    sums = np.zeros((max(len(parts), 1), x.shape[0], stored.matrix[1]), _dtype(stored, x))

    def multiply(part: int) -> None:
        for rows, columns in parts[part]:
            sums[part][:, columns] += x[:, rows] @ stored.cut(rows, columns)

    _run(multiply, range(len(parts)), sums)
    total: Matrix = sums[0]
    for more in sums[1:]:
        total += more
    return total


def _run(function: Callable[[Any], None], items: Sequence[Any], out: Matrix) -> None:
    if not out.size:
        return
    with one_thread_each() as threads:
        each(function, items, threads)


def _dtype(stored: Stored, x: Matrix) -> np.dtype[Any]:
    return np.result_type(stored.dtype, x.dtype)

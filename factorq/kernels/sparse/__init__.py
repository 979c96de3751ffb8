"""Products with some rows of a sparse matrix: a bitmap of the kept entries, and their values side by side.

Only kept entries are multiplied, in the order in which they are stored: one product and one sum each, for every column
of x: with u the unit roundoff and k kept entries in a row (or column), an entry of the result is off by at most
``(k + 1) u`` times the sum of the absolute products, beside what was in ``out``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError, refuse, refuse_type
from .. import twin

__all__ = ["expand", "matmul", "rmatmul"]

Bits = NDArray[np.uint8]
Matrix = NDArray[Any]


def matmul(bitmap: Bits, first: int, values: Matrix, x: Matrix, out: Matrix) -> None:
    """``out[i] += sum_j W[i, j] x[j]``: W (m, n) times (n, b), W zero but where its bits are set.

    Parameters
    ----------
    bitmap : NDArray (k,), uint8
        Bit ``first + i * n + j``, lowest bit of a byte first, tells whether entry (i, j) is kept.
    first : int
        At least 0.
    values : NDArray (count,), float32 or float64
        The kept entries in C order.
    x : NDArray (n, b)
        As ``values`` and C-contiguous; so is ``out`` (m, b), which is added to.

    Raises
    ------
    ArtifactError
        If ``values`` are not as many as bits are set.
    ArgumentError, ArgumentTypeError
        If an array has another dtype or shape, or the bitmap ends before the matrix.

    Examples
    --------
    >>> out = np.zeros((2, 1))
    >>> matmul(np.array([0b100110], np.uint8), 0, np.array([2.0, 3.0, 4.0]), np.array([[1.0], [10.0], [100.0]]), out)
    >>> out[:, 0].tolist()  # W = [[0, 2, 3], [0, 0, 4]]
    [320.0, 400.0]
    """
    words, shift = _checked(bitmap, first, values, x, out, len(out), len(x))
    used = twin(__name__, bitmap).matmul(words, shift, values, x, out)
    _check_used(used, values)


def rmatmul(bitmap: Bits, first: int, values: Matrix, x: Matrix, out: Matrix) -> None:
    """``out[j] += sum_i W[i, j] x[i]``: the transpose of W (m, n) times (m, b), added to out (n, b).

    Arguments and errors as of :func:`matmul`.
    """
    words, shift = _checked(bitmap, first, values, x, out, len(x), len(out))
    used = twin(__name__, bitmap).rmatmul(words, shift, values, x, out)
    _check_used(used, values)


def expand(bitmap: Bits, first: int, values: Matrix, count: int) -> Matrix:
    """The next ``count`` entries from bit ``first`` on: values where a bit is set, 0 elsewhere; (count,).

    Raises
    ------
    ArtifactError
        If ``values`` are not as many as bits are set.
    ArgumentError, ArgumentTypeError
        If the bitmap ends before, or an array has another dtype or shape.
    """
    out: Matrix = np.zeros(count, values.dtype)
    words, shift = _checked(bitmap, first, values, out[:, None], out[:, None], 1, count)
    used = twin(__name__, bitmap).expand(words, shift, values, out)
    _check_used(used, values)
    return out


def _checked(
    bitmap: Bits, first: int, values: Matrix, x: Matrix, out: Matrix, m: int, n: int
) -> tuple[NDArray[np.uint64], int]:
    """The words that hold the bits of the matrix, and where they begin in the first one."""
    if values.dtype not in (np.float32, np.float64) or values.ndim != 1 or bitmap.dtype != np.uint8:
        found = f"{values.dtype} {values.shape}, {bitmap.dtype}"
        raise refuse_type("values, bitmap", found=found, allowed="float32 or float64 (count,), uint8")
    alike = x.dtype == out.dtype == values.dtype and x.ndim == out.ndim == 2 and x.shape[1] == out.shape[1]
    if not alike or not all(a.flags.c_contiguous for a in (x, out, values)):
        found = f"{x.dtype} {x.shape} and {out.dtype} {out.shape}"
        raise refuse_type("x, out", found=found, allowed=f"contiguous {values.dtype} of as many columns")
    if first < 0 or 8 * bitmap.size < first + m * n:
        raise refuse("first", found=f"{first} with {m} x {n} entries", allowed=f"entries within {bitmap.size} bytes")
    begin, end = first // 8, (first + m * n + 7) // 8
    words = np.zeros((end - begin) // 8 + 1, np.uint64)
    words.view(np.uint8)[: end - begin] = bitmap[begin:end]
    return words, first % 8


def _check_used(used: int, values: Matrix) -> None:
    if used != values.size:
        raise ArtifactError(f"sparse: {values.size} values for {used} kept entries")

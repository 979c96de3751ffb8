"""Products with a matrix of packed codes in groups, which is not decoded: codes meet x as they come out of their bits.

A group of ``M[i, j] = scale * (codes[i, j] - zero) + minimum`` gives ``scale * (sum of code * x - zero * sum of x) +
minimum * sum of x``, where the sums of x are common to all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import dtype_name, is_array, is_cupy, is_host
from ...errors import refuse, refuse_type
from .. import twin
from ..bits import packed_size
from ..checks import kind
from .layout import MOST_LEVELS, Matrix, covers

__all__ = ["MOST_LEVELS", "Matrix", "covers", "decode", "matmul", "rmatmul"]

Floats = NDArray[np.float32]


def matmul(matrix: Matrix, x: Floats) -> Floats:
    """M @ x: (rows, n) times (n, b), summed in float32.

    With u = 2**-24 and ``A = |scales| * (codes + |zero|) + |minima|``, or ``|scales * levels[codes]|``,

        |result - M @ x| <= (group / 8 + 3 * ceil(n / group) + 12) * u * (A @ |x|),

    where ``group`` counts as 1024 if a row has one scale; for rows of 4096 in groups of 128 that is 124 u. Numbers of
    x below 2**-140 times the largest may count as 0. The result is the same for any number of threads.

    Parameters
    ----------
    matrix : Matrix
        On the host such that :func:`covers` says yes: n and the groups are multiples of 8, levels at most 16. Not
        checked, for it would take as long as the product: scales, minima and levels are finite, levels below 2**16.
    x : (n, b) array of float32
        In any memory order; finite, on the host.

    Returns
    -------
    (rows, b) array of float32

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.

    Examples
    --------
    >>> from factorq.kernels.bits import pack
    >>> M = Matrix(pack(np.arange(16, dtype=np.uint8), 4), 4, (2, 8), zero=8.0)
    >>> matmul(M, np.ones((8, 1), np.float32)).tolist()
    [[-36.0], [28.0]]
    """
    _check(matrix, x, 0)
    if not matrix.shape[0] or not x.size:
        return np.zeros((matrix.shape[0], x.shape[1]), np.float32)
    result: Floats = twin(__name__, matrix.codes, x).matmul(matrix, x)
    return result


def rmatmul(x: Floats, matrix: Matrix) -> Floats:
    """x @ M: (b, rows) times (rows, n), summed in float32.

    With A and u as for :func:`matmul`, ``|result - x @ M| <= (rows + 12) * u * (|x| @ A)``.

    Parameters
    ----------
    x : (b, rows) array of float32
        In any memory order; finite, on the host.
    matrix : Matrix
        As for :func:`matmul`.

    Returns
    -------
    (b, n) array of float32

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.

    Examples
    --------
    >>> from factorq.kernels.bits import pack
    >>> M = Matrix(pack(np.arange(16, dtype=np.uint8), 4), 4, (2, 8), zero=8.0)
    >>> rmatmul(np.ones((1, 2), np.float32), M).tolist()
    [[-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0]]
    """
    _check(matrix, x, 1)
    if not matrix.shape[1] or not x.size:
        return np.zeros((x.shape[0], matrix.shape[1]), np.float32)
    result: Floats = twin(__name__, matrix.codes, x).rmatmul(x, matrix)
    return result


def decode(matrix: Matrix, dtype: str, exponent: int = 0) -> Any:
    """M * 2**exponent (rows, n) of CuPy arrays, in one pass over its codes; on the host codecs decode block by block.

    Parameters
    ----------
    matrix : Matrix
        Of CuPy arrays.
    dtype : "float16", "float32" or "float64"
    exponent : int
        From -126 to 96, so that no float32 overflows.

    Returns
    -------
    CuPy array (rows, n) of ``dtype``

    Raises
    ------
    ArgumentTypeError
        If the codes are on the host.
    """
    if not is_cupy(matrix.codes):
        raise refuse_type("matrix.codes", found=kind(matrix.codes), allowed="a CuPy array", remedy="use the codec")
    return twin(__name__, matrix.codes).decode(matrix, dtype, exponent)


def _check(matrix: Matrix, x: Any, side: int) -> None:
    if not is_array(x) or dtype_name(x) != "float32" or len(x.shape) != 2:
        raise refuse_type("x", found=kind(x), allowed="a 2-D array of float32")
    (rows, n), group, length = matrix.shape, matrix.group, matrix.shape[1 - side]
    if x.shape[side] != length:
        raise refuse("x", found=f"shape {tuple(x.shape)}", allowed=f"{length} in axis {side}")
    _check_array("codes", matrix.codes, "uint8", (packed_size(rows * n, matrix.bits),))
    groups = -(-n // (group or max(n, 1)))
    for name in ("scales", "minima"):
        if (numbers := getattr(matrix, name)) is not None:
            _check_array(name, numbers, "float16", (rows, groups), (1, groups))
    if matrix.levels is not None:
        _check_array("levels", matrix.levels, "float32", (2**matrix.bits,))
    if matrix.minima is not None and (matrix.scales is None or matrix.scales.shape != matrix.minima.shape):
        raise refuse("minima", found="minima without scales of their shape", allowed="one of each per group")
    if (matrix.minima is not None or matrix.levels is not None) and matrix.zero:
        raise refuse("zero", found=matrix.zero, allowed="0 with minima or levels")
    if matrix.minima is not None and matrix.levels is not None:
        raise refuse("minima", found="minima and levels", allowed="one of them")
    if is_host(x):
        _check_host(matrix, x)


def _check_host(matrix: Matrix, x: Floats) -> None:
    levels = 0 if matrix.levels is None else matrix.levels.size
    if not covers(matrix.bits, matrix.shape[1], matrix.group, levels):
        found = f"{matrix.bits} bits, rows of {matrix.shape[1]} codes, groups of {matrix.group}, {levels} levels"
        allowed = f"1 to 16 bits, rows and groups of a multiple of 8 codes, at most {MOST_LEVELS} levels"
        raise refuse("matrix", found=found, allowed=allowed, remedy="decode it")
    if not np.isfinite(x).all():
        raise refuse("x", found="numbers that are not finite", allowed="finite numbers", remedy="decode the matrix")


def _check_array(name: str, array: Any, dtype: str, *shapes: tuple[int, ...]) -> None:
    plain = is_array(array) and dtype_name(array) == dtype and (not is_host(array) or array.flags.c_contiguous)
    if not plain or tuple(array.shape) not in shapes:
        allowed = f"contiguous {dtype} of shape {' or '.join(map(str, shapes))}"
        raise refuse_type(f"matrix.{name}", found=kind(array), allowed=allowed)

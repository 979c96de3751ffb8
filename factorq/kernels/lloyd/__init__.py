"""Vector codebooks: the nearest codeword of each point, sums by codeword, k-means++ seeds, codes of several books.

A search is ``argmin_k bias[k] + y . table[:, k]``. Plain points have ``table = -c^T`` and ``bias = |c|^2/2``,
points with weights w per entry have ``y = (w x, w)`` and ``table = (-c, c^2/2)^T``: one kernel serves both.

All arrays of a call are NumPy arrays, or all are CuPy arrays of one GPU.

The compiled twins use fused multiply-adds, so that points which two codewords serve equally well up to float32 rounding
may get either one; everything else is equal in all twins.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import beside, contiguous, namespace
from ...errors import refuse, refuse_type
from .. import twin

__all__ = ["MOST", "accumulate", "joint", "nearest", "seed"]

Floats = NDArray[Any]
Codes = NDArray[np.int32]

MOST = 65536
LANES = 16
TILE = 64


def nearest(y: Floats, table: Floats, bias: Floats) -> Codes:
    """codes[i] = argmin_k bias[k] + sum_d y[i, d] * table[d, k], in float32, ties to the lower k.

    Parameters
    ----------
    y : (n, D) array of float32
    table : (D, K) array of float32, 1 <= K <= 65536
    bias : (K,) array of float32

    Returns
    -------
    (n,) array of int32

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.
    """
    _check(y, "y")
    dims, count = _check_table(table)
    if dims != y.shape[1] or bias.shape != (count,) or bias.dtype != np.float32:
        found = f"y {y.shape}, table {table.shape}, bias {bias.dtype} {bias.shape}"
        raise refuse("table", found=found, allowed="(n, D), (D, K) and float32 (K,)")
    xp = namespace(y, table, bias)
    codes: Codes = xp.zeros(y.shape[0], dtype=xp.int32)
    if y.shape[0] and count > 1:
        groups = -(-count // LANES)
        wide = xp.zeros((dims, groups * LANES), dtype=xp.float32)
        wide[:, :count] = table
        padded = xp.full(groups * LANES, np.inf, dtype=xp.float32)  # padding never wins
        padded[:count] = bias
        tiles = contiguous(wide.reshape(dims, groups, LANES).transpose(1, 0, 2))
        twin(__name__, y).nearest(y, tiles, padded.reshape(groups, LANES), codes)
    return codes


def accumulate(y: Floats, codes: Codes, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """sums[k] = sum of y[i] over codes[i] = k, added in order of i; counts[k] = how many there are.

    Parameters
    ----------
    y : (n, D) array of float32
    codes : (n,) array of int32, 0 <= codes < count
    count : int

    Returns
    -------
    sums : (count, D) array of float64
    counts : (count,) array of int64

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.
    """
    _check(y, "y")
    if codes.shape != y.shape[:1] or codes.dtype != np.int32:
        raise refuse_type("codes", found=f"{codes.dtype} {codes.shape}", allowed=f"int32 ({len(y)},)")
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < count:
        raise refuse("codes", found=f"{codes.min()} to {codes.max()}", allowed=f"0 to {count - 1}")
    xp = namespace(y, codes)
    sums, counts = xp.zeros((count, y.shape[1]), dtype=xp.float64), xp.zeros(count, dtype=xp.int64)
    twin(__name__, y).accumulate(y, contiguous(codes), sums, counts)
    return sums, counts


def seed(x: Floats, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """chosen[0] uniformly, chosen[t] with probability ~ min_s<t |x[i] - x[chosen[s]]|^2: k-means++ seeds.

    Arthur and Vassilvitskii 2007. ``uniform[t]`` decides the t-th choice.

    Parameters
    ----------
    x : (n, D) array of float32, n >= 1
    uniform : (K,) NumPy array of float64 in [0, 1)

    Returns
    -------
    (k,) array of int64, distinct, k <= K
        Fewer than K where all points are already chosen ones.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.
    """
    _check(x, "x")
    if not x.shape[0] or uniform.ndim != 1 or uniform.dtype != np.float64:
        raise refuse("x", found=f"{x.shape[0]} points, uniform {uniform.shape}", allowed="a point and (K,) float64")
    chosen: NDArray[np.int64] = namespace(x).full(uniform.size, -1, dtype=np.int64)
    twin(__name__, x).seed(contiguous(x.T), beside(uniform, x), chosen)
    return chosen[chosen >= 0]


def joint(x: Floats, books: Floats, codes: NDArray[np.int32], sweeps: int = 2) -> NDArray[np.int32]:
    """Codes (n, M) that make ``|x - sum_m books[m, codes[:, m]]|^2`` small, from ``codes`` or better.

    The codes of two neighbouring books are chosen together among all pairs, the others fixed; ``sweeps`` times over all
    neighbours or until nothing changes. For two books the result is exact.

    Parameters
    ----------
    x : (n, D) array of float32
    books : (M, K, D) array of float32
        Memory: 4 * (M * K)**2 bytes for the inner products of all pairs of codewords.
    codes : (n, M) array of int32, 0 <= codes < K
    sweeps : int

    Returns
    -------
    (n, M) array of int32

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.
    """
    _check(x, "x")
    if books.ndim != 3 or books.dtype != np.float32 or books.shape[2] != x.shape[1]:
        raise refuse_type("books", found=f"{books.dtype} {books.shape}", allowed=f"float32 (M, K, {x.shape[1]})")
    m, count, dims = books.shape
    if codes.shape != (len(x), m) or codes.dtype != np.int32:
        raise refuse_type("codes", found=f"{codes.dtype} {codes.shape}", allowed=f"int32 ({len(x)}, {m})")
    if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < count:
        raise refuse("codes", found=f"{codes.min()} to {codes.max()}", allowed=f"0 to {count - 1}")
    xp = namespace(x, books, codes)
    order = np.argsort(np.einsum("mkd,mkd->mk", books, books), axis=1, kind="stable")
    wide = -(-count // TILE) * TILE
    padded = xp.zeros((m, wide, dims), dtype=xp.float32)
    padded[:, :count] = np.take_along_axis(books, order[:, :, None], axis=1)
    bias = xp.full((m, wide), np.inf, dtype=xp.float32)  # padding never wins
    bias[:, :count] = 0.5 * np.einsum("mkd,mkd->mk", padded, padded)[:, :count]
    flat = padded.reshape(m * wide, dims)
    cross = contiguous((flat @ flat.T).reshape(m, wide, m, wide))
    table = contiguous(-padded.transpose(0, 2, 1))
    place = np.argsort(order, axis=1, kind="stable")
    out = np.stack([place[book][codes[:, book]] for book in range(m)], axis=1).astype(np.int32)
    if out.size:
        twin(__name__, x).joint(x, table, bias, cross, sweeps, out)
    return np.stack([order[book][out[:, book]] for book in range(m)], axis=1).astype(np.int32)


def _check(x: Floats, name: str) -> None:
    if x.dtype != np.float32 or x.ndim != 2 or not x.flags.c_contiguous:
        found = f"{x.dtype} of {x.ndim} dimensions{'' if x.flags.c_contiguous else ', not C-contiguous'}"
        raise refuse_type(name, found=found, allowed="2-D C-contiguous float32")


def _check_table(table: Floats) -> tuple[int, int]:
    if table.ndim != 2 or table.dtype != np.float32 or not 1 <= table.shape[1] <= MOST:
        found = f"{table.dtype} {table.shape}"
        raise refuse("table", found=found, allowed=f"float32 (D, K) with K from 1 to {MOST}")
    return int(table.shape[0]), int(table.shape[1])

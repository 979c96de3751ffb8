"""Products of a stored matrix with few columns, float16 and bfloat16 read as they lie.

BLAS takes a product with two to eight columns for a large one: for a float32 matrix of 4096x4096 on an AVX2 core it
took 4.3 ms for one column, 15 ms for two and 16 ms for eight. Here numbers that are loaded serve all columns: 4.7 ms
for two. Sums are float32, in an order that does not depend on the number of threads: with u = 2^-24 and n terms,

    |y_i - sum_j A_ij x_j| <= (n + 8) u sum_j |A_ij x_j|

to first order, beside the rounding of the exact numbers ``scale A`` where these are not float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import refuse, refuse_type
from .. import twin
from ..threads import each, product_workers, ranges

__all__ = ["matmul", "readable", "rmatmul", "widen"]

Array = NDArray[Any]
Floats = NDArray[np.float32]

FLOATS_READ = "float32", "float16", "bfloat16"
_FEW = 8
"""Columns that are dealt with beside each other; more go into vectors of 16."""
_LANES = 16
_PART = 64
"""Rows or columns at multiples of which threads begin."""
_SEEN = 1 << 18
"""Numbers whose bits are looked at together."""
_SHIFTS = {"float16": 112}
"""What kernels read is 2^-112 times a float16: to multiply by another power of two costs no more."""


def readable(A: Array, exponent: int = 0) -> bool:
    """Whether kernels read ``2^exponent A``: float32 as it is, bfloat16 or finite float16 of a moderate exponent."""
    name = A.dtype.name
    if name not in FLOATS_READ or not -126 <= exponent + _SHIFTS.get(name, 0) <= 127:
        return False
    if name == "float32":
        return exponent == 0
    return name != "float16" or _finite(A)


def widen(A: Array, exponent: int = 0) -> Floats:
    """``2^exponent A`` as float32: (r, n), of an A that is :func:`readable`.

    2 Mi float16 took 0.47 ms, and 6.3 ms by NumPy.

    Examples
    --------
    >>> widen(np.array([[0.5, -3]], np.float16), 1)
    array([[ 1., -6.]], dtype=float32)
    """
    out = np.empty(A.shape, np.float32)
    kernel, bits, kind, scale = _read(A, exponent)
    kernel.widened(bits, kind, scale, out)
    return out


def matmul(A: Array, exponent: int, x: Floats, out: Floats) -> None:
    """out += 2^exponent A @ x: (r, n) times (n, b).

    Parameters
    ----------
    A : (r, n) array of float32, float16 or bfloat16
        Rows may lie apart.
    exponent : int
        Such that ``2^exponent A`` is :func:`readable`; that float16 are finite is not checked.
    x : (n, b) array of float32
    out : (r, b) array of float32
        Changed in place.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If the arguments are not as above.

    Examples
    --------
    >>> out = np.zeros((1, 2), np.float32)
    >>> matmul(np.array([[1, 2]], np.float16), 3, np.array([[1, 0], [0, 1]], np.float32), out)
    >>> out
    array([[ 8., 16.]], dtype=float32)
    """
    _check(A, x, out)
    kernel, bits, kind, scale = _read(A, exponent)
    threads = product_workers()
    parts = ranges(A.shape[0], threads, _PART)
    for columns in _pieces(x.shape[1]):
        part, few = x[:, columns], columns.stop - columns.start <= _FEW
        entries = np.ascontiguousarray(part.T) if few else _padded(part)
        sums = np.zeros((A.shape[0], part.shape[1] if few else _LANES), np.float32)
        run = kernel.dots if few else kernel.lanes
        each(_over(run, bits, kind, scale, entries, sums), parts, threads)
        out[:, columns] += sums[:, : part.shape[1]]


def rmatmul(x: Floats, A: Array, exponent: int, out: Floats) -> None:
    """out += 2^exponent x @ A: (b, r) times (r, n).

    Parameters
    ----------
    x : (b, r) array of float32
    A, exponent
        As for :func:`matmul`.
    out : (b, n) array of float32
        Changed in place.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If the arguments are not as above.

    Examples
    --------
    >>> out = np.zeros((1, 2), np.float32)
    >>> rmatmul(np.array([[3]], np.float32), np.array([[1, 2]], np.float16), 0, out)
    >>> out
    array([[3., 6.]], dtype=float32)
    """
    _check(A.T, x.T, out.T)
    kernel, bits, kind, scale = _read(A, exponent)
    threads = product_workers()
    parts = ranges(A.shape[1], threads, _PART)
    for columns in _pieces(x.shape[0]):
        part, few = x[columns].T, columns.stop - columns.start <= _FEW
        entries = np.ascontiguousarray(part) if few else _padded(part)
        sums = np.zeros((part.shape[1], A.shape[1]) if few else (A.shape[1], _LANES), np.float32)
        run = kernel.axpys if few else kernel.turned_lanes
        each(_over(run, bits, kind, scale, entries, sums), parts, threads)
        out[columns] += sums if few else sums[:, : part.shape[1]].T


def _finite(A: Array) -> bool:
    """Whether all float16 are finite, by their bits: NumPy's test took 5.2 ms for 2 Mi of them, this 0.3."""
    step = max(1, _SEEN // max(A.shape[1], 1))
    parts = (A[i : i + step].view(np.uint16) & 0x7FFF for i in range(0, A.shape[0], step))
    return all(int(part.max(initial=0)) < 0x7C00 for part in parts)


def _over(run: Callable[..., None], *arguments: Any) -> Callable[[slice], None]:
    """``run`` for a range of rows or columns."""
    *inputs, sums = arguments
    return lambda part: run(*inputs, part.start, part.stop, sums)


def _pieces(columns: int) -> list[slice]:
    return [slice(c, min(c + _LANES, columns)) for c in range(0, columns, _LANES)]


def _padded(x: Floats) -> Floats:
    out = np.zeros((len(x), _LANES), np.float32)
    out[:, : x.shape[1]] = x
    return out


def _read(A: Array, exponent: int) -> tuple[ModuleType, Array, int, float]:
    """The twin, A as it reads it, which dtype that is, and what its numbers are multiplied by."""
    bits = A if A.dtype == np.float32 else A.view(np.uint16)
    if bits.strides[1] != bits.itemsize or not bits.flags.aligned:
        bits = bits.copy()
    name = A.dtype.name
    if name == "float32" and exponent:
        raise refuse("exponent", found=exponent, allowed="0 for float32")
    return twin(__name__, bits), bits, FLOATS_READ.index(name), math.ldexp(1.0, exponent + _SHIFTS.get(name, 0))


def _check(A: Array, x: Floats, out: Floats) -> None:
    for name, array in (("A", A), ("x", x), ("out", out)):
        known = FLOATS_READ if name == "A" else ("float32",)
        if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.name not in known:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise refuse_type(name, found=found, allowed=f"a matrix of {' or '.join(known)}")
    if x.shape[0] != A.shape[1] or out.shape != (A.shape[0], x.shape[1]):
        found = f"A {A.shape}, x {x.shape}, out {out.shape}"
        raise refuse("x", found=found, allowed="(r, n), (n, b) and (r, b), or their transposes")

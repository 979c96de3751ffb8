"""The specification of products with few columns: the rows or columns asked for as float32, then multiplied."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]

_KINDS = np.float32, np.float16, ml_dtypes.bfloat16
_SHIFTS = 0, -112, 0


def dots(A: Array, kind: int, scale: float, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[i] += scale A[i] . x[c] for rows i in first..stop, x (b, n), out (r, b)."""
    out[first:stop] += _wide(A[first:stop], kind, scale) @ x.T


def axpys(A: Array, kind: int, scale: float, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[c, j] += sum_i x[i, c] scale A[i, j] for columns j in first..stop, x (r, b), out (b, n)."""
    out[:, first:stop] += x.T @ _wide(A[:, first:stop], kind, scale)


def lanes(A: Array, kind: int, scale: float, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[i] += scale A[i] @ x for rows i in first..stop, x (n, 16), out (r, 16)."""
    out[first:stop] += _wide(A[first:stop], kind, scale) @ x


def turned_lanes(A: Array, kind: int, scale: float, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[j] += scale A[:, j] @ x for columns j in first..stop, x (r, 16), out (n, 16)."""
    out[first:stop] += _wide(A[:, first:stop], kind, scale).T @ x


def widened(A: Array, kind: int, scale: float, out: Floats) -> None:
    """out = scale A, (r, n); A holds float32 or bits, and bits of float16 stand for 2^-112 times the number."""
    out[:] = _wide(A, kind, scale)


def _wide(A: Array, kind: int, scale: float) -> Floats:
    numbers = np.ascontiguousarray(A).view(_KINDS[kind]).astype(np.float32)
    return np.asarray(numbers * np.float32(scale * 2.0 ** _SHIFTS[kind]))

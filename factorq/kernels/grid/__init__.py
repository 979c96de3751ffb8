"""Grouped integer grids: codes k of b bits, one float16 scale s per group, values s*(k - zero) or s*k + m.

A matrix x (rows, n) is cut along its last axis into groups of ``group`` values, the last one of a row ragged: there
are g = ceil(n / group) groups per row. ``zero`` places the grid: (2**bits - 1) / 2 is *mid-rise* (levels +-s/2,
+-3s/2, ...), 2**(bits - 1) is *mid-tread* (0 is a level, and s < 0 turns the longer side). Asymmetric grids have a
float16 minimum m per group instead. Every group is fitted on its own, so codes depend neither on threads nor on how
rows are cut into blocks.

Laws: codes are the nearest ones for the stored scales; a group on a grid whose scale has min(11, 24 - b)
significant bits (as all fitted ones have) comes back exactly, so fitting what was decoded gives equal values, for every
b in 1..16. Asymmetric grids promise this for b <= 8 (and, with groups of four values or more, in practice above), since
the search for an exact pair (s, m) is bounded.

Callers keep |x| <= 2**15, finite, so that scales stay inside float16.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Array
from .. import twin
from .asymmetric import decode_asymmetric, encode_asymmetric, fit_encode_asymmetric
from .checks import Codes, Scales, check_decode, check_grid, check_groups, check_values, wide

__all__ = [
    "decode",
    "decode_asymmetric",
    "encode",
    "encode_asymmetric",
    "fit",
    "fit_encode",
    "fit_encode_asymmetric",
    "mid_rise",
    "mid_tread",
]


def mid_rise(bits: int) -> float:
    """Mid-rise zero (2**bits - 1) / 2: levels +-s/2, +-3s/2, ..., symmetric and without 0."""
    return float(2**bits - 1) / 2


def mid_tread(bits: int) -> float:
    """Mid-tread zero 2**(bits - 1): levels -2**(bits-1) s .. (2**(bits-1) - 1) s, with 0."""
    return float(2 ** (bits - 1))


def fit(x: NDArray[Any], bits: int, group: int, zero: float) -> Scales:
    """argmin_s sum((x - s*(k - zero))**2) per group with nearest codes k: x (rows, n) -> s (rows, ceil(n / group)).

    A scan over scales relative to the largest value of the group, scored by the error after least squares, then refits
    <x, q>/<q, q> judged at the stored precision. Groups on a grid are recognised and give back a scale without error.

    Parameters
    ----------
    x : ndarray, shape (rows, n)
        float32 or float64, C-contiguous, finite, at most 2**15 in size.
    bits : int
        Bits per code, 1..16.
    group : int
        Values per scale.
    zero : float
        Position of 0 in codes, a multiple of 1/2 in 0 .. 2**bits - 1.

    Returns
    -------
    ndarray, shape (rows, ceil(n / group))
        float16 scales; 0 for groups of zeros.

    Raises
    ------
    ArgumentError
        If a number is outside its range or ``x`` is not a C-contiguous matrix.
    ArgumentTypeError
        If ``x`` is no NumPy array of float32 or float64.
    """
    check_grid(bits, group, zero)
    check_values(x, host=True)
    return twin(__name__, x).fit(x, bits, group, zero).astype(np.float16)  # type: ignore[no-any-return]


def fit_encode(x: NDArray[Any], bits: int, group: int, zero: float) -> tuple[Codes, Scales]:
    """Scales as in :func:`fit` and the codes of x (rows, n) at them, in one pass over memory: (codes, scales).

    Codes are uint8 up to 8 bits, uint16 above. Raises as :func:`fit` does.

    Examples
    --------
    >>> import numpy as np
    >>> codes, scales = fit_encode(np.array([[-3.0, -1.0, 1.0, 3.0]]), 2, 4, mid_rise(2))
    >>> codes, scales
    (array([[0, 1, 2, 3]], dtype=uint8), array([[2.]], dtype=float16))
    """
    check_grid(bits, group, zero)
    check_values(x, host=True)
    codes, scales = twin(__name__, x).fit_encode(x, bits, group, zero)
    return codes, scales.astype(np.float16)


def encode(x: Array, scales: Array, bits: int, group: int, zero: float) -> Array:
    """Codes argmin_k |x - s*(k - zero)|, ties to the lower k: x (rows, n), scales (rows, g) -> codes (rows, n).

    A scale of 0 gives the code of 0, or of the level nearest to it. Raises as :func:`fit` does.
    """
    check_grid(bits, group, zero)
    check_values(x)
    check_groups("scales", scales, x, group)
    return twin(__name__, x, scales).encode(x, wide(scales), bits, group, zero)


def decode(codes: Array, scales: Array, group: int, zero: float, dtype: Any) -> Array:
    """s*(k - zero): codes (rows, n), scales (rows, g) -> values (rows, n) of ``dtype``, float32 or float64."""
    check_decode(codes, group, dtype)
    check_groups("scales", scales, codes, group)
    return twin(__name__, codes, scales).decode(codes, wide(scales), group, zero, dtype)

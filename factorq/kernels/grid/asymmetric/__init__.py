"""Asymmetric grids: values s*k + m with a float16 scale and minimum per group; the rest is as in the parent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....arrays import Array
from ... import twin
from ..checks import Codes, Scales, check_decode, check_grid, check_groups, check_values, wide

__all__ = ["decode_asymmetric", "encode_asymmetric", "fit_encode_asymmetric"]


def fit_encode_asymmetric(x: NDArray[Any], bits: int, group: int) -> tuple[Codes, Scales, Scales]:
    """Least squares over s, m, k of sum((x - s*k - m)**2) per group: x (rows, n) -> (codes, scales, minima).

    A scan over shrunk ranges from the minimum and maximum, then alternating least squares of (s, m), the best
    kept. Both are float16 and multiples of 2**-23 of the group's largest value, so that s*k + m is exact in float32.
    Raises as :func:`factorq.kernels.grid.fit` does.
    """
    check_grid(bits, group, 0.0)
    check_values(x, host=True)
    codes, scales, minima = twin(__name__, x).fit_encode_asymmetric(x, bits, group)
    return codes, scales.astype(np.float16), minima.astype(np.float16)


def encode_asymmetric(x: Array, scales: Array, minima: Array, bits: int, group: int) -> Array:
    """Codes argmin_k |x - s*k - m|, ties to the lower k: x (rows, n), scales, minima (rows, g) -> codes (rows, n)."""
    check_grid(bits, group, 0.0)
    check_values(x)
    check_groups("scales", scales, x, group)
    check_groups("minima", minima, x, group)
    return twin(__name__, x, scales, minima).encode_asymmetric(x, wide(scales), wide(minima), bits, group)


def decode_asymmetric(codes: Array, scales: Array, minima: Array, group: int, dtype: Any) -> Array:
    """s*k + m: codes (rows, n), scales and minima (rows, g) -> values (rows, n) of ``dtype``, float32 or float64."""
    check_decode(codes, group, dtype)
    check_groups("scales", scales, codes, group)
    check_groups("minima", minima, codes, group)
    return twin(__name__, codes, scales, minima).decode_asymmetric(codes, wide(scales), wide(minima), group, dtype)

"""Powers of two that keep squares clear of over- and underflow, and the residual measured under them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import refuse

Array = NDArray[Any]

CHUNK = 1 << 20  # elements of W that are scaled or widened at a time


def normalise(A: Array) -> tuple[Array, float]:
    """A power of two that brings ``||A||`` near 1 (as a scalar of A's dtype), and the energy ``||scale * A||^2``."""
    B = A if A.flags.c_contiguous else A.T
    one = B.dtype.type(1)
    with np.errstate(over="ignore", under="ignore"):
        energy = float(np.vecdot(B, B).sum(dtype=np.float64))
    coarse = one
    if not 1e-20 < energy < 1e30:  # squares over- or underflow: bring the largest entry near 1 first
        peak = max(float(B.max()), -float(B.min()))
        if peak == 0:
            return one, 0.0
        coarse = _power(-math.frexp(peak)[1], B.dtype)
        rows = max(1, CHUNK // B.shape[1])
        parts = [B[k : k + rows] * coarse for k in range(0, len(B), rows)]
        energy = float(np.concatenate([np.vecdot(part, part) for part in parts]).sum(dtype=np.float64))
    scale = _power(-math.frexp(math.sqrt(energy))[1] + math.frexp(float(coarse))[1] - 1, B.dtype)
    return scale, energy * (float(scale) / float(coarse)) ** 2


def unscale(s: Array, scale: Array, dtype: np.dtype[Any]) -> Array:
    """``s / scale`` in ``dtype``; refused where that overflows."""
    with np.errstate(over="ignore", under="ignore"):
        result = (s / float(scale)).astype(dtype)
    if not np.isfinite(result).all():
        found, allowed = "a singular value beyond the dtype", f"||W|| below {np.finfo(dtype).max:.2g}"
        raise refuse("W", found=found, allowed=allowed, remedy="scale W down by a power of two first")
    return np.asarray(result)


def residual(A: Array, scale: Array, energy: float, U: Array, s: Array, V: Array) -> float:
    """``||A - U^T diag(s) V|| / ||A||``: from the energies, or entry by entry where those would cancel."""
    share = 1 - float(np.sum(s**2)) / energy
    if share > 1e-3:
        return math.sqrt(share)
    total = 0.0
    left = (U * s[:, None]).astype(A.dtype)
    rows = max(1, CHUNK // A.shape[1])
    for start in range(0, len(A), rows):
        D = A[start : start + rows] * scale - left[:, start : start + rows].T @ V
        total += float(np.vecdot(D, D).sum(dtype=np.float64))
    return math.sqrt(total / energy)


def _power(exponent: int, dtype: np.dtype[Any]) -> Any:
    """``2 ** exponent`` in ``dtype``, kept clear of over- and underflow."""
    limit = 120 if dtype == np.float32 else 1000
    return dtype.type(math.ldexp(1.0, max(-limit, min(limit, exponent))))

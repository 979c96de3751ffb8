"""Powers of two that keep squares clear of over- and underflow, and the residual measured under them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Array, beside, dtype_name, is_host, namespace, to_host
from ...errors import refuse

CHUNK = 1 << 20  # elements of W that are scaled or widened at a time


def normalise(A: Array) -> tuple[float, float]:
    """A power of two that brings ``||A||`` near 1, and the energy ``||scale * A||^2``."""
    B = A.T if is_host(A) and not A.flags.c_contiguous else A
    xp, kind = namespace(B), kind_of(B)
    with np.errstate(over="ignore", under="ignore"):
        energy = total(squares(B))
    coarse = 1.0
    if not 1e-20 < energy < 1e30:  # squares over- or underflow: bring the largest entry near 1 first
        peak = max(float(xp.max(B)), -float(xp.min(B)))
        if peak == 0:
            return 1.0, 0.0
        coarse = _power(-math.frexp(peak)[1], kind)
        energy = total(xp.concat([squares(B[rows, :] * coarse) for rows in _chunks(B)]))
    scale = _power(-math.frexp(math.sqrt(energy))[1] + math.frexp(coarse)[1] - 1, kind)
    return scale, energy * (scale / coarse) ** 2


def unscale(s: NDArray[Any], scale: float, kind: np.dtype[Any]) -> NDArray[Any]:
    """``s / scale`` as ``kind``; refused where that overflows."""
    with np.errstate(over="ignore", under="ignore"):
        result = (s / scale).astype(kind)
    if not np.isfinite(result).all():
        found, allowed = "a singular value beyond the dtype", f"||W|| below {np.finfo(kind).max:.2g}"
        raise refuse("W", found=found, allowed=allowed, remedy="scale W down by a power of two first")
    return np.asarray(result)


def residual(A: Array, scale: float, energy: float, U: Array, s: NDArray[Any], V: Array) -> float:
    """``||A - U^T diag(s) V|| / ||A||``: from the energies, or entry by entry where those would cancel."""
    share = 1 - float(np.sum(s**2)) / energy
    if share > 1e-3:
        return math.sqrt(share)
    lost = 0.0
    left = namespace(A).astype(U * beside(s, A)[:, None], A.dtype)
    for rows in _chunks(A):
        D = A[rows, :] * scale - left[:, rows].T @ V
        lost += total(squares(D))
    return math.sqrt(lost / energy)


def _chunks(A: Array) -> list[slice]:
    """Rows of about ``CHUNK`` entries."""
    m, step = A.shape[0], max(1, CHUNK // A.shape[1])
    return [slice(start, min(start + step, m)) for start in range(0, m, step)]


def squares(Y: Array) -> Array:
    """The squared norm of each row."""
    xp = np if is_host(Y) else namespace(Y)
    return xp.vecdot(Y, Y) if hasattr(xp, "vecdot") else xp.sum(Y * Y, axis=1)  # CuPy 14 has none


def total(x: Array) -> float:
    """The sum of a vector in float64."""
    xp = namespace(x)
    return float(xp.sum(x, dtype=xp.float64))


def small(x: Array) -> NDArray[np.float64]:
    """A matrix of the size of the basis, on the host: where such problems are solved."""
    return to_host(x).astype(np.float64)


def times(X: NDArray[Any], Y: Array) -> Array:
    """``X Y`` in the dtype of ``Y``, X from the host."""
    return beside(X.astype(kind_of(Y)), Y) @ Y


def kind_of(x: Array) -> np.dtype[Any]:
    """The dtype as NumPy has it."""
    return np.dtype(dtype_name(x))


def _power(exponent: int, kind: np.dtype[Any]) -> float:
    """``2 ** exponent``, kept clear of over- and underflow in ``kind``."""
    limit = 120 if kind == np.float32 else 1000
    return math.ldexp(1.0, max(-limit, min(limit, exponent)))

"""The Rayleigh-Ritz problem ``T = Z Z^T`` (d, d): its top eigenvectors, and what a larger basis would still win."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from ...arrays import Array

Small = NDArray[Any]
"""Of the size of the basis, and on the host wherever W is."""


@dataclass(frozen=True)
class Subspace:
    """Left vectors (r, m) in rows, their images ``left @ (scale * W)`` (r, n), and how they were found."""

    left: Array
    images: Array
    steps: int
    excess: float
    status: str
    multiple: bool = False


def precision(kind: np.dtype[Any]) -> float:
    """The smallest excess worth working for: below it lies the rounding of the result itself."""
    return float(np.finfo(kind).eps)


def top(T: Small, rank: int, energy: float, kind: np.dtype[Any]) -> tuple[Small, Small]:
    """Top ``rank`` eigenvalues, descending, and eigenvectors (d, rank) of the symmetric ``T`` (d, d)."""
    # float32 takes half the time (1024: 0.08 s against 0.15 s); taken if its rounding is small against what no row
    # holds.
    rounding = rank * float(np.finfo(np.float32).eps) * float(np.linalg.norm(T))
    single = kind == np.float32 and rounding < 1e-3 * (energy - float(np.trace(T)))
    values, E = leading(T.astype(np.float32) if single else T, rank)
    return values.astype(np.float64), E.astype(np.float64)


def leading(S: Small, rank: int) -> tuple[Small, Small]:
    """Top ``rank`` eigenvalues, descending, and eigenvectors (d, rank) of the symmetric ``S`` (d, d)."""
    d = len(S)
    if 4 * rank <= 3 * d:
        with suppress(np.linalg.LinAlgError):
            values, E = linalg.eigh(S, subset_by_index=(d - rank, d - 1), driver="evr", check_finite=False)
            if len(values) == rank:  # clusters of exactly equal values come back short or fail
                return values[::-1], E[:, ::-1]
    values, E = np.linalg.eigh(S)
    return values[: -rank - 1 : -1], E[:, : -rank - 1 : -1]


def excess_error(T: Small, values: Small, E: Small, ends: list[int], energy: float, eps: float) -> tuple[float, float]:
    """Estimated share of excess error, and the factor by which a block reduces it.

    The energy that the last block and the last two blocks have won decays geometrically; the rest of the series is
    what is still missing.
    """
    if len(ends) < 4:
        return math.nan, math.nan
    one, two = (_won(T, values, E, ends[-1] - ends[-1 - k]) for k in (1, 2))
    ratio = min(one / max(two - one, one, 1e-300), 0.9)
    missing = one * ratio / (1 - ratio)
    residual = max(energy - float(values.sum()), 0.0)
    best = max(residual - missing, (64 * eps) ** 2 * energy)  # rounding keeps the residual above this
    return math.sqrt(1 + missing / best) - 1, ratio


def _won(T: Small, values: Small, E: Small, rows: int) -> float:
    """Energy that the ``r`` leading Ritz values owe to the last ``rows`` basis rows."""
    L = E[-rows:]
    if np.sum(L * L * values) > 1e-3 * np.sum(values):
        less = np.linalg.eigvalsh(T[:-rows, :-rows].astype(np.float32))  # two digits of the difference are enough
        return max(float(values.sum() - less[-len(values) :].sum(dtype=np.float64)), 0.0)
    # First order in L: tr(L diag(values) L^T) - tr(L^T T_22 L), free of cancellation between large energies.
    return max(float(np.sum(L * (L * values)) - np.sum(L * (T[-rows:, -rows:] @ L))), 0.0)

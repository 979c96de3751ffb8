"""The plain algorithm of the paper's family: alternating projected gradient (``solver="pgd"``).

Kept as the reference and the baseline: on a grid a step of 1/L moves few entries by half a cell, so that it nearly
stands still after the phase with real factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...codecs import Encoded
from ...constraints import Constraint, Intersection, largest
from ...measure import scaled
from ...solvers.loop import Callback, Outcome, iterate
from ...solvers.projected_gradient import Weighting, sparse_phase, start_factors, step_left, step_right
from ...solvers.svd import truncated_svd

Pair = tuple[NDArray[Any], NDArray[Any]]


def descend(
    W: NDArray[Any],
    rank: int,
    constraints: tuple[Constraint, Intersection],
    metric: Weighting,
    rng: np.random.Generator,
    exponent: int,
    *,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> Outcome[tuple[Encoded, Encoded]]:
    """Stored factors of ``W * 2**exponent`` (m, n) by gradient and projection, Z first."""
    of_c, of_z = constraints

    def svd(matrix: NDArray[Any], rank: int) -> Pair:
        U = truncated_svd(matrix, rank, rng=rng).U
        return U, U.T @ matrix

    C, Z = start_factors(W, rank, svd, rng)
    start = sparse_phase(W, C, Z, of_z.sparse.count(Z.size), max_iter // 2, metric, largest)
    step = _alternation(W, of_c, of_z, metric, exponent)
    return iterate(step, start, max_iter=max_iter, tol=tol, patience=10, callback=callback)


def _alternation(
    W: NDArray[Any], of_c: Constraint, of_z: Intersection, metric: Weighting, exponent: int
) -> Callable[[Pair], tuple[Pair, tuple[Encoded, Encoded], float]]:
    """One step of the alternation: gradient and projection of Z, then of C.

    The rows of Z are brought to unit size first, and the atoms carry the size: so one common scale suits all rows of Z,
    and an entry's error weighs as much as its atom is long.
    """
    norm2 = metric.squared(W)

    def step(state: Pair) -> tuple[Pair, tuple[Encoded, Encoded], float]:
        C, Z = state
        Z = step_right(W, C, Z, metric)
        length = np.linalg.norm(C, axis=0)[:, None]
        kept = of_z.sparse.mask(np.abs(Z) * length)
        size = np.sqrt((Z**2).sum(axis=1, where=kept) / np.maximum(kept.sum(axis=1), 1))[:, None]
        size = np.where(size > 0, size, 1).astype(W.dtype)
        weight = np.broadcast_to((length * size).astype(W.dtype), Z.shape)
        z = of_z.encode_weighted(Z / size, weight)
        Z = z.decode()
        C = of_c.project(step_left(W, C * size[:, 0], Z, metric))
        error = math.sqrt(metric.squared(W - C @ Z) / norm2) if norm2 > 0 else 0.0
        return (C, Z), (of_c.encode(scaled(C, exponent)), z), error

    return step

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
from ...errors import refuse
from ...forms import Fold
from ...measure import scaled
from ...solvers.damping import damped_cholesky
from ...solvers.loop import Outcome, iterate
from ...solvers.projected_gradient import Weighting, sparse_phase, start_factors, step_left, step_right
from ...solvers.svd import truncated_svd
from ..base import Problem

Pair = tuple[NDArray[Any], NDArray[Any]]


def descend(
    W: NDArray[Any],
    rank: int,
    constraints: tuple[Constraint, Intersection],
    metric: Weighting,
    problem: Problem,
    exponent: int,
    *,
    max_iter: int,
    tol: float,
) -> Outcome[tuple[Encoded, Encoded]]:
    """Stored factors of ``W * 2**exponent`` (m, n) by gradient and projection, Z first."""
    of_c, of_z = constraints

    def svd(matrix: NDArray[Any], rank: int) -> Pair:
        U = truncated_svd(matrix, rank, rng=problem.rng).U
        return U, U.T @ matrix

    C, Z = start_factors(W, rank, svd, problem.rng)
    start = sparse_phase(W, C, Z, of_z.sparse.count(Z.size), max_iter // 2, metric, largest)
    step = _alternation(W, of_c, of_z, metric, exponent)
    return iterate(step, start, max_iter=max_iter, tol=tol, patience=10, callback=problem.callback)


def weighting(problem: Problem, fold: Fold) -> Weighting:
    """The metric of a gram for the folded array: on its right for rows by inputs, on its left for inputs by rows."""
    if problem.gram is None:
        return Weighting()
    damped_cholesky(problem.gram)  # raises if it is no Gram matrix
    gram = (problem.gram / (np.trace(problem.gram) or 1.0)).astype(problem.W.dtype)
    if fold == Fold.matrix(fold.shape):
        return Weighting(right=gram)
    if fold == Fold.transposed(fold.shape):
        return Weighting(left=gram)
    allowed = "no gram for this fold, whose rows mix inputs with outputs"
    raise refuse("gram", found=f"quantized_sparse on {fold.shape}", allowed=allowed, remedy="use svd or scalar")


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

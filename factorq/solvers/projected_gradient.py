"""Alternating projected gradient for two factors: a step of 1/L along the gradient, then the projection.

minimise ``1/2 ||W - C Z||^2`` over C and Z in sets that can only be projected onto:
``Z <- P_Z(Z - C^T (C Z - W) / L_C)``, ``C <- P_C(C - (C Z - W) Z^T / L_Z)`` with L the largest eigenvalue of the fixed
factor's Gram matrix (the algorithm family of arXiv 2207.11048; PALM, Bolte, Sabach and Teboulle 2014).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]
_MARGIN = 1.001  # over the largest eigenvalue, so that rounding cannot make a step too long


@dataclass(frozen=True, eq=False)
class Weighting:
    """``||D||^2 = trace(left D right D^T)``: an optional Gram matrix on either side of the error D (m, n)."""

    left: Matrix | None = None
    right: Matrix | None = None

    def apply(self, D: Matrix) -> Matrix:
        """``left @ D @ right``."""
        if self.left is not None:
            D = self.left @ D
        return D if self.right is None else D @ self.right

    @cached_property
    def right_norm(self) -> float:
        """The largest eigenvalue of ``right``; 1 without it."""
        return 1.0 if self.right is None else _top(self.right)

    @cached_property
    def transposed(self) -> Weighting:
        """The weighting of the transposed error."""
        return Weighting(self.right, self.left)

    def squared(self, D: Matrix) -> float:
        """``trace(left D right D^T)`` in float64."""
        return max(float(np.vdot(self.apply(D).astype(np.float64), D)), 0.0)


def step_right(W: Matrix, C: Matrix, Z: Matrix, metric: Weighting) -> Matrix:
    """``Z`` after one gradient step of length 1/L with C (m, r) fixed."""
    weighted = C if metric.left is None else metric.left @ C
    G = C.T @ weighted
    length = _MARGIN * _top(G) * metric.right_norm
    if length <= 0:
        return Z
    gradient = G @ Z - weighted.T @ W
    return np.asarray(Z - (gradient if metric.right is None else gradient @ metric.right) / length)


def step_left(W: Matrix, C: Matrix, Z: Matrix, metric: Weighting) -> Matrix:
    """``C`` after one gradient step of length 1/L with Z (r, n) fixed."""
    return step_right(W.T, Z.T, C.T, metric.transposed).T


def sparse_phase(
    W: Matrix,
    C: Matrix,
    Z: Matrix,
    count: int,
    steps: int,
    metric: Weighting,
    largest: Callable[[Matrix, int], NDArray[np.bool_]],
) -> tuple[Matrix, Matrix]:
    """Real factors with ``count`` nonzeros in Z: projected gradient while the number of nonzeros falls to it.

    On a grid, a step that moves no entry by half a cell changes nothing, so what can be found before rounding is found
    here. The nonzeros fall from all to ``count`` in the first half of the steps.
    """
    for t in range(steps):
        C, Z = unit_atoms(C, Z)
        left = max(0.0, 1.0 - 2.0 * t / steps) ** 3
        Z = step_right(W, C, Z, metric)
        Z = Z * largest(np.abs(Z), count + int((Z.size - count) * left))
        C = step_left(W, C, Z, metric)
    return C, Z


def unit_atoms(C: Matrix, Z: Matrix) -> tuple[Matrix, Matrix]:
    """The same product with columns of C of length 1 (or 0)."""
    size = np.linalg.norm(C, axis=0)
    size = np.where(size > 0, size, 1).astype(C.dtype)
    return C / size, Z * size[:, None]


def start_factors(
    W: Matrix, rank: int, truncated_svd: Callable[[Matrix, int], tuple[Matrix, Matrix]], rng: np.random.Generator
) -> tuple[Matrix, Matrix]:
    """Unit-norm atoms C (m, r) and coefficients Z (r, n): singular vectors, and beyond their number columns of W.

    Parameters
    ----------
    truncated_svd : callable
        From (W, r) to U (m, r) orthonormal and U^T W (r, n).
    rng : Generator
        Draws the columns that fill an overcomplete codebook, with probability by their squared norm.
    """
    m, n = W.shape
    base = min(rank, m, n)
    U, Z = truncated_svd(W, base)
    if rank == base:
        return U, Z
    weight = np.einsum("ij,ij->j", W, W, dtype=np.float64)
    share = weight / weight.sum() if weight.sum() > 0 else np.full(n, 1 / n)
    picked = W[:, rng.choice(n, rank - base, p=share, replace=True)]
    noise = rng.standard_normal(picked.shape) * (float(np.sqrt(weight.mean() / m)) or 1.0) * 0.1
    extra = picked + noise  # distinct atoms even where columns repeat
    extra /= np.linalg.norm(extra, axis=0)
    return np.hstack([U, extra.astype(W.dtype)]), np.vstack([Z, np.zeros((rank - base, n), W.dtype)])


def _top(gram: Matrix) -> float:
    """The largest eigenvalue of a positive semidefinite matrix."""
    return float(np.linalg.eigvalsh(gram.astype(np.float64))[-1])

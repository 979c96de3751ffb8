"""Rows of one factor, given the other: least squares, then projection row by row with error feedback, then sweeps.

With A (m, r) fixed, ``||W - A B||^2 = const + tr((B - X)^T G (B - X))`` where ``G = A^T A`` and ``X = G^-1 A^T W``:
every solver here needs only ``G`` (r, r), ``H = A^T W`` (r, n) and a projection of one row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve

from ..measure import squared_distance
from .damping import damped_cholesky, inverse_triangular, upper_cholesky

_CANCELS = 1e-4  # share of ||W||^2 under which float32 products leave fewer than two digits of the error
Project = Callable[[NDArray[Any]], NDArray[Any]]


def least_squares(G: NDArray[Any], H: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """``G^-1 H`` for a positive semidefinite G (r, r), and the damping that its inversion needed (0 if none)."""
    L, damping = damped_cholesky(G)
    return np.asarray(cho_solve((L, True), H)), damping


def project_rows(X: NDArray[Any], G: NDArray[Any], project: Project) -> NDArray[Any]:
    """Allowed rows Q near ``X`` (r, n) in the metric G: Babai's nearest plane, row by row.

    After row j is projected, the rows that follow take up its error: ``X[k] += U[j, k] / U[j, j] * (X[j] - Q[j])`` with
    ``U^T U = G^-1`` (GPTQ's error feedback with the roles of rows and columns exchanged; Frantar et al. 2022).
    """
    U = inverse_triangular(upper_cholesky(G)[0])
    X = X.copy()
    Q = np.empty_like(X)
    for j in range(len(X)):
        Q[j] = project(X[j])
        if j + 1 < len(X):
            X[j + 1 :] -= np.outer(U[j, j + 1 :] / U[j, j], X[j] - Q[j])
    return Q


def sweep_rows(Q: NDArray[Any], G: NDArray[Any], H: NDArray[Any], project: Project) -> NDArray[Any]:
    """One sweep of exact row-wise minimisation over allowed rows; the objective never rises.

    With the other rows fixed the objective is ``G[j, j] * ||Q[j] - v||^2``, so row j moves to ``project(v)`` if that is
    nearer to v than the row it has.
    """
    Q = Q.copy()
    for j in range(len(Q)):
        if G[j, j] <= 0:
            continue
        v = Q[j] + (H[j] - G[j] @ Q) / G[j, j]
        candidate = project(v)
        if np.sum((candidate - v) ** 2) < np.sum((Q[j] - v) ** 2):
            Q[j] = candidate
    return Q


def squared_error(
    W: NDArray[Any], norm2: float, A: NDArray[Any], G: NDArray[Any], H: NDArray[Any], Q: NDArray[Any]
) -> float:
    """``||W - A Q||^2`` from ``norm2 = ||W||^2`` and the products; directly where these would cancel."""
    error2 = norm2 - 2.0 * float(np.vdot(H, Q)) + float(np.vdot(G @ Q, Q))
    return error2 if error2 > _CANCELS * norm2 else squared_distance(W, A @ Q)

"""Rows of one factor, given the other: least squares, then projection row by row with error feedback, then sweeps.

With A (m, r) fixed, ``||W - A B||^2 = const + tr((B - X)^T G (B - X))`` where ``G = A^T A`` and ``X = G^-1 A^T W``:
every solver here needs only ``G`` (r, r), ``H = A^T W`` (r, n) and a projection of one row, or of all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..measure import squared_distance, squared_norm
from .damping import inverse_triangular, least_squares, upper_cholesky

_CANCELS = 1e-4  # share of ||W||^2 under which float32 products leave fewer than two digits of the error
# Of D / v, since entries under the error cost nothing: resnet56's 64x576 at one bit per weight, rank 46, shares
# 0, .1, .3, .6, 1: error .458, .448, .442, .444, .444; g2p's decoder, rank 128: .461, .461, .458, .458, .462.
_SHRINK = 0.4
_NOTHING, _MOST_RIDGE = 1e-30, 1e6
Project = Callable[[NDArray[Any]], NDArray[Any]]
T = TypeVar("T")
Code = Callable[[NDArray[Any]], tuple[T, NDArray[Any]]]


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


def products(
    A: NDArray[Any], W: NDArray[Any], weighted: NDArray[Any] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """``G = V^T A`` and ``H = V^T W`` in float64, with V = A unless a metric gives another."""
    V = A if weighted is None else weighted
    G = (V.T.astype(np.float64)) @ A.astype(np.float64)
    return (G + G.T) / 2, (V.T @ W).astype(np.float64)


def solve_terms(
    W: NDArray[Any], terms: NDArray[Any], ridge: NDArray[Any], metric: NDArray[Any] | None = None
) -> NDArray[Any]:
    """The B (n, r) of least ``||W - A B^T||^2 + sum_j ridge[j] ||B[:, j]||^2`` for ``terms`` A (m, r).

    Parameters
    ----------
    W : NDArray, (m, n)
    terms : NDArray, (m, r)
    ridge : NDArray, (r,)
    metric : NDArray, (m, m), optional
        For the error ``trace((W - A B^T)^T metric (W - A B^T))``.
    """
    G, H = products(terms, W, None if metric is None else (metric @ terms).astype(terms.dtype))
    return np.ascontiguousarray(least_squares(G + np.diag(ridge), H)[0].T, W.dtype)


def terms_by_turns(
    W: NDArray[Any],
    weights: NDArray[Any],
    metric: NDArray[Any] | None,
    codes: tuple[Code[T], Code[T]],
    variances: tuple[NDArray[Any], NDArray[Any]],
) -> Callable[[NDArray[Any]], tuple[NDArray[Any], tuple[T, T], float]]:
    """One turn for ``W ~ A diag(weights) B^T``: A is coded, B solved against it and coded, A solved against that.

    An entry of variance v that is coded with an error of variance D costs ``log2(v / D) / 2`` bits, so that at the
    slope of error against bits least squares get a ridge of ``D / v``: as in a Wiener filter, components that are
    hardly above the error shrink instead of growing into what the others left.

    Parameters
    ----------
    W : NDArray, (m, n)
    weights : NDArray, (r,)
    metric : NDArray, (n, n), optional
        For the error ``trace((W - ..) metric (W - ..)^T)``.
    codes : tuple of two callables
        From A (m, r), and from B (n, r), to what is stored and the array that it stands for.
    variances : tuple of two NDArray, (r,)
        About the mean squares of the columns of A and B.

    Returns
    -------
    callable
        From A to the next A, both stored factors and their relative error: a step for ``solvers.loop.iterate``.
    """
    norm2 = squared_norm(W) if metric is None else float(np.vdot(W @ metric, W))
    lost: list[float | None] = [None, None]

    def coded(which: int, x: NDArray[Any]) -> tuple[T, NDArray[Any]]:
        stored, decoded = codes[which](x)
        lost[which] = squared_distance(x, decoded) / x.size
        return stored, decoded

    def ridge(which: int) -> NDArray[Any]:
        known = lost[which] if lost[which] is not None else lost[1 - which]  # before the first B, that of A
        return np.asarray(np.minimum(_SHRINK * (known or 0.0) / np.maximum(variances[which], _NOTHING), _MOST_RIDGE))

    def step(A: NDArray[Any]) -> tuple[NDArray[Any], tuple[T, T], float]:
        a, A = coded(0, A)
        b, B = coded(1, solve_terms(W, A * weights, ridge(1)))
        found = (A * weights) @ B.T
        rest = W - found
        error2 = squared_distance(W, found) if metric is None else max(float(np.vdot(rest @ metric, rest)), 0.0)
        error = math.sqrt(error2 / norm2) if norm2 > 0 else 0.0
        return solve_terms(W.T, B * weights, ridge(0), metric), (a, b), error

    return step

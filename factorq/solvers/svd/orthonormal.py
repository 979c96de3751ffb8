"""Orthonormal rows by Cholesky factors of Gram matrices: GEMM does the work, where Householder QR is column by column.

Source: Stathopoulos and Wu, A block orthogonalization procedure with constant synchronization requirements (2002).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from ...arrays import Array, beside, is_host, namespace, to_host
from .scaling import kind_of, small, squares, times


def factors(left: Array, images: Array, rng: np.random.Generator) -> tuple[Array, NDArray[np.float64], Array]:
    """``left^T images = U^T diag(s) V`` with orthonormal rows ``U`` (r, m), ``V`` (r, n); ``s`` (r,) of the host."""
    eps = float(np.finfo(kind_of(left)).eps)
    G = small(left @ left.T)
    if np.abs(G - np.eye(len(G))).max() > 4 * eps:  # the basis may have lost a digit; the projection must not
        X = linalg.solve_triangular(np.linalg.cholesky(G), np.eye(len(G)), lower=True, check_finite=False)
        left, images = times(X, left), times(X, images)
    V = orthonormal(images, images[:0, :], rng, noise=1.0)
    R = small(images @ V.T)
    s = R.diagonal()
    if np.linalg.norm(R - np.diag(s)) > 8 * eps * np.linalg.norm(s) or np.any(s[1:] > s[:-1]) or s[-1] < 0:
        X, s, Yt = linalg.svd(R, check_finite=False)
        left, V = times(X.T, left), times(Yt, V)
    return left, s, V


def orthonormal(Y: Array, Q: Array, rng: np.random.Generator, noise: float = 64.0) -> Array:
    """Orthonormal rows that span the part of ``Y`` (b, k) outside the rows of ``Q`` (d, k), filled up at random.

    Projection and Cholesky of the Gram matrix, repeated until well conditioned ("twice is enough"). Directions that
    cancel to below ``noise`` units of rounding become random ones: an exhausted Krylov space starts afresh, which also
    finds further copies of a multiple singular value. Of what lies on a GPU, only matrices (b, b) come to the host.
    """
    eps = float(np.finfo(kind_of(Y)).eps)
    before = float(_norms(Y).max())
    for attempt in range(8):
        if Q.shape[0]:
            Y = Y - (Y @ Q.T) @ Q
        G = small(Y @ Y.T)
        norms = np.sqrt(G.diagonal())
        floor = noise * eps * before if attempt == 0 else 64 * eps
        L = _cholesky(G / np.outer(norms, norms)) if norms.min() > floor else None
        if L is not None and L.diagonal().min() > 30 * math.sqrt(eps):
            X = linalg.solve_triangular(L, np.diag(1 / norms), lower=True, check_finite=False)
            Y = times(X, Y)
            # One pass loses eps * before / norm against Q: a second one only where that is more than a digit.
            if L.diagonal().min() > (0.2 if Q.shape[0] else 0.9) and (
                Q.shape[0] == 0 or attempt > 0 or norms.min() > 0.05 * before
            ):
                return Y
            continue
        # Principal directions: graded rows, mutually orthogonal.
        Y = times(np.linalg.eigh(G)[1][:, ::-1].T, Y)
        weak = np.flatnonzero(_norms(Y) <= floor)
        fresh = rng.standard_normal((weak.size, Y.shape[1]), dtype=kind_of(Y).type)
        for i, row in zip(weak.tolist(), fresh, strict=True):
            Y[i, :] = beside(row, Y)
        Y = Y / beside(_norms(Y), Y)[:, None]
    if not is_host(Y):
        return namespace(Y).linalg.qr(Y.T)[0].T
    return np.ascontiguousarray(linalg.qr(Y.T, mode="economic", check_finite=False)[0].T)


def _cholesky(G: NDArray[Any]) -> NDArray[Any] | None:
    """Lower Cholesky factor, or None if ``G`` is not numerically positive definite."""
    try:
        return np.linalg.cholesky(G)
    except np.linalg.LinAlgError:
        return None


def _norms(Y: Array) -> NDArray[Any]:
    """Norms of the rows, on the host."""
    return np.asarray(np.sqrt(to_host(squares(Y))))

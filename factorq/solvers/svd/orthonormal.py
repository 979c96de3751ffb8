"""Orthonormal rows by Cholesky factors of Gram matrices: GEMM does the work, where Householder QR is column by column.

Source: Stathopoulos and Wu, A block orthogonalization procedure with constant synchronization requirements (2002).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array = NDArray[Any]


def factors(left: Array, images: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """``left^T images = U^T diag(s) V`` with orthonormal rows ``U`` (r, m), ``V`` (r, n), and float64 ``s`` (r,)."""
    eps = float(np.finfo(left.dtype).eps)
    G = (left @ left.T).astype(np.float64)
    if np.abs(G - np.eye(len(G))).max() > 4 * eps:  # the basis may have lost a digit; the projection must not
        X = linalg.solve_triangular(np.linalg.cholesky(G), np.eye(len(G)), lower=True, check_finite=False)
        left, images = X.astype(left.dtype) @ left, X.astype(left.dtype) @ images
    V = orthonormal(images.copy(), images[:0], rng, noise=1.0)
    R = (images @ V.T).astype(np.float64)
    s = R.diagonal()
    if np.linalg.norm(R - np.diag(s)) > 8 * eps * np.linalg.norm(s) or np.any(s[1:] > s[:-1]) or s[-1] < 0:
        X, s, Yt = linalg.svd(R, check_finite=False)
        left, V = X.T.astype(left.dtype) @ left, Yt.astype(left.dtype) @ V
    return left, s, V


def orthonormal(Y: Array, Q: Array, rng: np.random.Generator, noise: float = 64.0) -> Array:
    """Orthonormal rows that span the part of ``Y`` (b, k) outside the rows of ``Q`` (d, k), filled up at random.

    Projection and Cholesky of the Gram matrix, repeated until well conditioned ("twice is enough"). Directions that
    cancel to below ``noise`` units of rounding become random ones: an exhausted Krylov space starts afresh, which also
    finds further copies of a multiple singular value. ``Y`` is used up.
    """
    eps = float(np.finfo(Y.dtype).eps)
    before = float(_norms(Y).max())
    for attempt in range(8):
        if len(Q):
            Y -= (Y @ Q.T) @ Q
        G = (Y @ Y.T).astype(np.float64)
        norms = np.sqrt(G.diagonal())
        floor = noise * eps * before if attempt == 0 else 64 * eps
        L = _cholesky(G / np.outer(norms, norms)) if norms.min() > floor else None
        if L is not None and L.diagonal().min() > 30 * math.sqrt(eps):
            X = linalg.solve_triangular(L, np.diag(1 / norms), lower=True, check_finite=False)
            Y = X.astype(Y.dtype) @ Y
            # One pass loses eps * before / norm against Q: a second one only where that is more than a digit.
            if L.diagonal().min() > (0.2 if len(Q) else 0.9) and (
                len(Q) == 0 or attempt > 0 or norms.min() > 0.05 * before
            ):
                return Y
            continue
        # Principal directions: graded rows, mutually orthogonal.
        Y = np.linalg.eigh(G)[1][:, ::-1].T.astype(Y.dtype) @ Y
        norms = _norms(Y)
        weak = norms <= floor
        Y[weak] = rng.standard_normal((int(weak.sum()), Y.shape[1]), dtype=Y.dtype.type)
        Y /= _norms(Y)[:, None]
    return np.ascontiguousarray(linalg.qr(Y.T, mode="economic", check_finite=False)[0].T)


def _cholesky(G: Array) -> Array | None:
    """Lower Cholesky factor, or None if ``G`` is not numerically positive definite."""
    try:
        return np.linalg.cholesky(G)
    except np.linalg.LinAlgError:
        return None


def _norms(Y: Array) -> Array:
    return np.asarray(np.sqrt(np.vecdot(Y, Y)))

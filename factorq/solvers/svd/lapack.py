"""The leading left subspace of a matrix by LAPACK: exact, and faster than iterating where the rank is a large share."""

from __future__ import annotations

import numpy as np
from scipy import linalg

from ...arrays import Array, is_host, namespace
from .ritz import Subspace, leading
from .scaling import CHUNK, kind_of


def lapack_subspace(A: Array, scale: float, rank: int, *, exact: bool) -> Subspace:
    """The leading left subspace of ``A`` by LAPACK: eigenvectors of the float64 Gram matrix, or a full SVD.

    Where A is on a GPU its library's solvers do the same there.
    """
    xp, (m, n) = namespace(A), A.shape
    double = kind_of(A) == np.float64
    if not (double and exact):
        G = xp.zeros((m, m), dtype=xp.float64)
        step = max(1, CHUNK // m)
        for start in range(0, n, step):
            B = xp.astype(A[:, start : min(start + step, n)], xp.float64) * scale
            G += B @ B.T
        values, E = leading(G, rank) if is_host(G) else _leading(G, rank)
        if not double or float(values[-1]) > 1e-10 * float(values[0]):  # G has half the digits of the spectrum
            left = np.ascontiguousarray(E.T, dtype=A.dtype) if is_host(E) else xp.astype(E.T, A.dtype)
            return Subspace(left, (left * scale) @ A, 0, 0.0, "exact: eigenvectors of the Gram matrix (LAPACK)")
    if is_host(A):
        U, s, Vt = linalg.svd(A * scale, full_matrices=False, check_finite=False)
        left = np.ascontiguousarray(U[:, :rank].T)
    else:
        U, s, Vt = xp.linalg.svd(A * scale, full_matrices=False)
        left = U[:, :rank].T
    images = s[:rank][:, None] * Vt[:rank, :]
    return Subspace(left, images, 0, 0.0, "exact: full singular value decomposition (LAPACK)")


def _leading(S: Array, rank: int) -> tuple[Array, Array]:
    """As :func:`factorq.solvers.svd.ritz.leading`, where ``S`` is."""
    values, E = namespace(S).linalg.eigh(S)
    return namespace(S).flip(values[-rank:]), namespace(S).flip(E[:, -rank:], axis=1)

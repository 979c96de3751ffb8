"""The leading left subspace of a matrix by LAPACK: exact, and faster than iterating where the rank is a large share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from .ritz import Subspace, leading
from .scaling import CHUNK

Array = NDArray[Any]


def lapack_subspace(A: Array, scale: Array, rank: int, *, exact: bool) -> Subspace:
    """The leading left subspace of ``A`` by LAPACK: eigenvectors of the float64 Gram matrix, or a full SVD."""
    m, n = A.shape
    double = A.dtype == np.float64
    if not (double and exact):
        G = np.zeros((m, m))
        step = max(1, CHUNK // m)
        for start in range(0, n, step):
            B = A[:, start : start + step].astype(np.float64) * scale
            G += B @ B.T
        values, E = leading(G, rank)
        if not double or values[-1] > 1e-10 * values[0]:  # the Gram matrix has half the digits of the spectrum
            left = np.ascontiguousarray(E.T, dtype=A.dtype)
            return Subspace(left, (left * scale) @ A, 0, 0.0, "exact: eigenvectors of the Gram matrix (LAPACK)")
    U, s, Vt = linalg.svd(A * scale, full_matrices=False, check_finite=False)
    left = np.ascontiguousarray(U[:, :rank].T)
    return Subspace(left, s[:rank, None] * Vt[:rank], 0, 0.0, "exact: full singular value decomposition (LAPACK)")

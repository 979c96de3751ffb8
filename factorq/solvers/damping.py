"""Cholesky factors of second moments that may be rank-deficient, ill-conditioned or zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ..errors import refuse

LEAST_PIVOT = 1e-10
"""Least pivot L_jj**2 as a share of its diagonal entry: below, rounding of about n * 2e-16 leaves it few digits."""

FIRST = 1e-8
"""The first damping that is not 0, as a share of the mean diagonal."""

MOST = 1e-2
"""The most damping, as a share of the mean diagonal: what needs more is not a second moment."""


def damped_cholesky(gram: NDArray[Any]) -> tuple[NDArray[np.float64], float]:
    """L, d with L L^T = gram (n, n) + d I: the least d of 0, 1e-8, 1e-7, ... mean diagonals that gives a sound factor.

    Sound means that every pivot keeps at least 1e-10 of its diagonal entry, whatever the units of the inputs. A gram of
    zeros gives the identity with d = 1.

    Parameters
    ----------
    gram : ndarray, shape (n, n)
        Symmetric, positive semidefinite up to rounding; only the lower triangle is read.

    Returns
    -------
    L : ndarray, shape (n, n)
        Lower triangular, float64.
    damping : float
        What was added to the diagonal.

    Raises
    ------
    ArgumentError
        If ``gram`` is not square, not finite, or not positive semidefinite.
    """
    G = np.array(gram, dtype=np.float64)
    if G.ndim != 2 or G.shape[0] != G.shape[1]:
        raise refuse("gram", found=f"shape {G.shape}", allowed="a square matrix")
    diagonal = G.diagonal().copy()
    if not np.isfinite(G).all() or np.any(diagonal < 0.0):
        raise refuse("gram", found="negative or non-finite entries", allowed="a second moment X^T X of finite inputs")
    mean = float(diagonal.mean()) if diagonal.size else 0.0
    if mean == 0.0 and G.any():
        raise refuse("gram", found="a diagonal of zeros beside other entries", allowed="a positive semidefinite matrix")
    if mean == 0.0:
        return np.eye(G.shape[0]), 1.0
    damping = 0.0
    while True:
        np.fill_diagonal(G, diagonal + damping)
        L = _sound_cholesky(G)
        if L is not None:
            return L, damping
        damping = 10.0 * damping if damping else max(FIRST * mean, float(np.finfo(np.float64).tiny))
        if damping > MOST * mean:
            found = "a matrix with negative eigenvalues"
            raise refuse("gram", found=found, allowed="a positive semidefinite matrix, such as X^T X of inputs X")


def least_squares(G: NDArray[Any], H: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """``G^-1 H`` for a positive semidefinite G (r, r), and the damping that its inversion needed (0 if none)."""
    L, damping = damped_cholesky(G)
    return np.asarray(scipy.linalg.cho_solve((L, True), H)), damping


def upper_cholesky(gram: NDArray[Any]) -> tuple[NDArray[np.float64], float]:
    """V, d with ``V V^T = gram + d I`` for an upper triangular V: the Cholesky factor of the reversed matrix.

    ``U = V^-1`` then has ``U^T U = (gram + d I)^-1``, the factor that carries errors from a column to those after it.
    """
    L, damping = damped_cholesky(gram[::-1, ::-1])
    return L[::-1, ::-1], damping


def explain_damping(damping: float) -> str:
    """What was added to a Gram matrix, for the status of a result."""
    return f"gram damped by {damping:.3g}" if damping else "gram used undamped"


def inverse_triangular(V: NDArray[np.float64]) -> NDArray[np.float64]:
    """``V^-1`` of an upper triangular V (n, n), C-contiguous."""
    return np.ascontiguousarray(scipy.linalg.solve_triangular(V, np.eye(len(V)), lower=False))


def _sound_cholesky(G: NDArray[np.float64]) -> NDArray[np.float64] | None:
    try:
        L: NDArray[np.float64] = scipy.linalg.cholesky(G, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return None
    return L if np.all(L.diagonal() ** 2 >= LEAST_PIVOT * G.diagonal()) else None

"""What each of several components, not orthogonal to each other, adds to the explained variance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_DEPENDENT = 1e-10  # share of a component's squared length under which it lies in the span of those before it


def added_variance(A: NDArray[Any], S: NDArray[Any]) -> tuple[NDArray[np.intp], Floats]:
    """Order the components (r,) so that each adds the most to those before it; and tell what each adds, (r,).

    For components V (r, n) of data W (m, n): ``A = V V^T`` and ``S = (W V^T)^T W V^T``. A component v explains
    ``||W v||^2 / ||v||^2``; those that follow are made orthogonal to it, so that the sum is what all explain together,
    ``trace(A^-1 S)``, the adjusted variance of Shen and Huang 2008 (J. Multivariate Analysis 99). Ties go to the lowest
    index.
    """
    A, S = A.astype(np.float64), S.astype(np.float64)
    r = len(A)
    length = A.diagonal().copy()
    left = np.ones(r, np.bool_)
    order, added = np.zeros(r, np.intp), np.zeros(r)
    for k in range(r):
        now = np.maximum(A.diagonal(), 0.0)
        free = left & (now > _DEPENDENT * length)
        gain = np.where(free, np.maximum(S.diagonal(), 0.0) / np.where(free, now, 1.0), np.where(left, 0.0, -1.0))
        j = int(np.argmax(gain))
        order[k], added[k], left[j] = j, gain[j], False
        if free[j]:
            c = np.where(left, A[j] / A[j, j], 0.0)  # v_k -= c_k v_j
            A = A - np.outer(c, A[j]) - np.outer(A[:, j], c) + A[j, j] * np.outer(c, c)
            S = S - np.outer(c, S[j]) - np.outer(S[:, j], c) + S[j, j] * np.outer(c, c)
    return order, added

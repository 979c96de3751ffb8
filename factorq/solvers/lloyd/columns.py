"""Vector codes column block by column block, with error feedback: the later blocks take up the error of each.

With ``U^T U = gram^-1``, U upper triangular, block b of the columns costs ``|(x - q) U[b, b]^-1|^2`` once the blocks
after it have made up for what they can (GPTQ, arXiv 2210.17323, for vectors: GPTVQ, arXiv 2402.15319).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ..damping import inverse_triangular, upper_cholesky
from . import residual

Floats = NDArray[Any]


def quantize_columns(
    W: Floats, gram: Floats, books: Floats, owner: NDArray[np.int64]
) -> tuple[NDArray[np.int32], float]:
    """Codes (m, v, stages) near W (m, n) in the metric of ``gram`` (n, n), with given codebooks.

    Parameters
    ----------
    W : NDArray, (m, n) float32
        The matrix.
    gram : NDArray, (n, n) float64
        Second moment of the inputs.
    books : NDArray, (groups, stages, K, d) float32
        Codebooks; the last vector of a row may reach beyond it.
    owner : NDArray, (v,) int
        The group of each vector of a row.

    Returns
    -------
    codes : NDArray, (m, v, stages) int32
    damping : float
        What was added to the diagonal of ``gram``.

    Raises
    ------
    ArgumentError
        If ``gram`` is no second moment.
    """
    m, n = W.shape
    stages, _, d = books.shape[1:]
    alive = gram.copy()
    dead = gram.diagonal() == 0  # inputs that never fire: any positive weight codes them plainly
    alive[dead, dead] = gram.diagonal().mean() or 1.0
    V, damping = upper_cholesky(alive)
    U = inverse_triangular(V)
    rest = W.astype(np.float64)
    codes = np.zeros((m, owner.size, stages), np.int32)
    for t, group in enumerate(owner):
        block, later = slice(t * d, min((t + 1) * d, n)), slice(min((t + 1) * d, n), n)
        own = U[block, block]
        size = float(np.abs(own).max())
        metric = scipy.linalg.solve_triangular(own / size, np.eye(len(own)), lower=False)
        book = books[group, :, :, : len(own)]
        x = np.ascontiguousarray(rest[:, block] @ metric, np.float32)
        seen = np.ascontiguousarray(book.astype(np.float64) @ metric, np.float32)
        codes[:, t] = residual.encode(x, seen)
        error = scipy.linalg.solve_triangular(
            own, (rest[:, block] - residual.reconstruct(book, codes[:, t])).T, trans="T"
        )
        rest[:, later] -= error.T @ U[block, later]
    return codes, damping

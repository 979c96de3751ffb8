"""Rounding with error feedback, compiled: row by row, so that a row stays in cache while its errors move along."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


@numba.njit(cache=True, nogil=True)
def round_columns(
    W: Floats,
    U: Floats,
    levels: Floats,
    middles: Floats,
    scale: Floats,
    offset: Floats,
    keep: NDArray[np.bool_],
    Q: Floats,
    error: Floats,
) -> None:
    for i in range(W.shape[0]):
        for j in range(W.shape[1]):
            value = W[i, j]
            if levels.size:
                s, o = scale[i, j], offset[i, j]
                relative = (value - o) / s if s != 0.0 else 0.0
                value = s * levels[np.searchsorted(middles, relative)] + o
            if not keep[i, j]:
                value = 0.0
            Q[i, j] = value
            e = (W[i, j] - value) / U[j, j]
            error[i, j] = e
            rest, row = W[i, j + 1 :], U[j, j + 1 :]  # slices: with offset indices the loop below is 5 times slower
            for t in range(rest.size):
                rest[t] -= e * row[t]

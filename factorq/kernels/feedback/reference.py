"""The plain twin: the specification of rounding with error feedback, a column at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


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
    for j in range(W.shape[1]):
        value = W[:, j]
        if levels.size:
            s, o = scale[:, j], offset[:, j]
            relative = np.divide(value - o, s, out=np.zeros(len(s)), where=s != 0)
            value = s * levels[np.searchsorted(middles, relative)] + o
        Q[:, j] = np.where(keep[:, j], value, 0.0)
        error[:, j] = (W[:, j] - Q[:, j]) / U[j, j]
        W[:, j + 1 :] -= error[:, j, None] * U[j, j + 1 :]

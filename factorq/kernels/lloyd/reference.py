"""The reference twin: the specification of every kernel in plain array code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
Codes = NDArray[np.int32]
_BLOCK = 4096


def nearest(y: Floats, tiles: Floats, bias: Floats, codes: Codes) -> None:
    """codes[i] = argmin_k bias[k] + y[i] . table[:, k]; tiles (K / 16, D, 16), bias (K / 16, 16)."""
    table = tiles.transpose(1, 0, 2).reshape(tiles.shape[1], -1)
    for start in range(0, len(y), _BLOCK):
        rows = slice(start, start + _BLOCK)
        codes[rows] = np.argmin(bias.reshape(-1) + y[rows] @ table, axis=1)


def accumulate(y: Floats, codes: Codes, sums: Floats, counts: NDArray[Any]) -> None:
    """sums[codes[i]] += y[i], counts[codes[i]] += 1."""
    np.add.at(sums, codes, y.astype(np.float64))
    np.add.at(counts, codes, 1)


def seed(columns: Floats, uniform: Floats, chosen: NDArray[Any]) -> None:
    """chosen[t] = the first i at which the running sum of squared distances passes uniform[t] of their total."""
    n = columns.shape[1]
    chosen[0] = min(int(uniform[0] * n), n - 1)
    distance = np.full(n, np.inf)
    for t in range(1, uniform.size):
        last = columns[:, chosen[t - 1]][:, None]
        distance = np.minimum(distance, np.sum((columns - last) ** 2, axis=0, dtype=np.float64))
        total = float(distance.sum())
        if not total > 0:
            return
        at = int(np.searchsorted(np.cumsum(distance), uniform[t] * total, side="right"))
        chosen[t] = at if at < n and distance[at] > 0 else int(np.argmax(distance))


def joint(x: Floats, table: Floats, bias: Floats, cross: Floats, sweeps: int, codes: Codes) -> None:
    """Search over the codes (n, M) of two books at a time, the others fixed: all pairs."""
    m = len(bias)
    rows = np.arange(len(x))
    scores = bias[:, None, :] + np.einsum("nd,mdk->mnk", x, table)
    for _ in range(1 if m == 2 else sweeps):
        for a in range(m - 1):
            pair = [scores[book].copy() for book in (a, a + 1)]
            for other in set(range(m)) - {a, a + 1}:
                pair[0] += cross[other, codes[:, other], a]
                pair[1] += cross[other, codes[:, other], a + 1]
            total = pair[0][:, :, None] + cross[a, :, a + 1] + pair[1][:, None, :]
            i, j = np.divmod(np.argmin(total.reshape(len(x), -1), axis=1), total.shape[2])
            better = total[rows, i, j] < total[rows, codes[:, a], codes[:, a + 1]]
            codes[better, a], codes[better, a + 1] = i[better], j[better]

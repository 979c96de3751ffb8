"""The Numba twin: the same moves, a few rows side by side, so that a row of G is read once for all of them."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
jit: Any = numba.njit(cache=True, nogil=True, error_model="numpy")

ROWS = 16


@jit  # type: ignore[untyped-decorator]
def sweep(G: Floats, noise: NDArray[Any] | None, most: float, shift: float, g: Floats, Z: Floats) -> None:
    n, r = Z.shape
    kind = G.dtype.type  # all sums in it, as those of NumPy are
    one, top, half = kind(1), kind(most), kind(shift)
    inverse, spread = np.empty(r, G.dtype), np.empty(r, G.dtype)
    for j in range(r):
        inverse[j] = one / G[j, j] if G[j, j] > 0 else kind(0)
        spread[j] = one / np.sqrt(G[j, j]) if G[j, j] > 0 else kind(0)
    for start in range(0, n, ROWS):
        for j in range(r):
            if inverse[j] == 0:
                continue
            for i in range(start, min(start + ROWS, n)):
                target = Z[i, j] + g[i, j] * inverse[j]
                if noise is not None:
                    target += noise[i, j] * spread[j]
                step = min(max(np.rint(target - half) + half, -top), top) - Z[i, j]
                if step != 0:
                    Z[i, j] += step
                    for k in range(r):
                        g[i, k] -= step * G[j, k]

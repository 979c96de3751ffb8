"""The Numba twin: 16 rows side by side in a small buffer, so that every step is one vector operation per entry.

Additions come in the order of the reference, so both agree on every bit.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
jit = numba.njit(cache=True, nogil=True, error_model="numpy")
LANES = 16


@jit
def rotate(
    x: Array, order: Array, signs: Array, span: int, starts: Array, odd: Array, inverse: bool, out: Array
) -> None:
    """out[i] = T x[i], or T^T x[i]: every step is symmetric and orthonormal, so they are undone in reverse order."""
    rows, n = x.shape
    tile = np.zeros((n, LANES), x.dtype)
    mixed = np.zeros((n, LANES), x.dtype)
    reach = span * odd.shape[0]
    steps = starts.size
    for first in range(0, rows, LANES):
        count = min(LANES, rows - first)
        for j in range(n):
            source = j if inverse else order[j]
            for r in range(count):
                tile[j, r] = x[first + r, source]
        for i in range(steps):
            step = steps - 1 - i if inverse else i
            if not inverse:
                _turn(tile, signs[step])
            _butterflies(tile, starts[step], starts[step] + reach, span)
            if odd.shape[0] > 1:
                _mix(tile, span, odd, mixed)
            if inverse:
                _turn(tile, signs[step])
        for j in range(n):
            target = order[j] if inverse else j
            for r in range(count):
                out[first + r, target] = tile[j, r]


@jit
def _turn(tile: Array, signs: Array) -> None:
    for j in range(tile.shape[0]):
        for r in range(LANES):
            tile[j, r] *= signs[j]


@jit
def _butterflies(tile: Array, begin: int, end: int, span: int) -> None:
    """Runs of ``span`` entries from ``begin`` to ``end`` times Sylvester's matrix / sqrt(span)."""
    scale = tile.dtype.type(span**-0.5)
    for j in range(begin, end):
        for r in range(LANES):
            tile[j, r] *= scale
    h = 1
    while h < span:
        for start in range(begin, end, 2 * h):
            for j in range(start, start + h):
                for r in range(LANES):
                    a, b = tile[j, r], tile[j + h, r]
                    tile[j, r] = a + b
                    tile[j + h, r] = a - b
        h *= 2


@jit
def _mix(tile: Array, span: int, odd: Array, mixed: Array) -> None:
    """The runs times ``odd``, summed one after the other."""
    for s in range(span):
        for j in range(odd.shape[0]):
            at = j * span + s
            for r in range(LANES):
                mixed[at, r] = odd[j, 0] * tile[s, r]
            for k in range(1, odd.shape[0]):
                for r in range(LANES):
                    mixed[at, r] += odd[j, k] * tile[k * span + s, r]
    for i in range(tile.shape[0]):
        for r in range(LANES):
            tile[i, r] = mixed[i, r]

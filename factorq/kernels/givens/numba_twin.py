"""Quantized plane rotations, compiled: each rotation is one pass over two rows of contiguous memory."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


@numba.njit(cache=True, nogil=True)
def encode(X: Floats, cosines: Floats, sines: Floats, codes: NDArray[np.uint16]) -> None:
    m, leading = X.shape
    q = 0
    for i in range(leading):
        for j in range(i + 1, m):
            k = nearest(X[i, i], X[j, i], cosines, sines)
            rotate(X, i, j, cosines[k], sines[k])
            codes[q] = k
            q += 1


@numba.njit(cache=True, nogil=True)
def decode(codes: NDArray[np.uint16], leading: int, cosines: Floats, sines: Floats, out: Floats) -> None:
    m = out.shape[0]
    q = codes.size
    for i in range(leading - 1, -1, -1):
        for j in range(m - 1, i, -1):
            q -= 1
            rotate(out, i, j, cosines[codes[q]], -sines[codes[q]])


@numba.njit(cache=True, nogil=True)
def undo(codes: NDArray[np.uint16], leading: int, cosines: Floats, sines: Floats, out: Floats) -> None:
    m = out.shape[0]
    q = 0
    for i in range(leading):
        for j in range(i + 1, m):
            rotate(out, i, j, cosines[codes[q]], sines[codes[q]])
            q += 1


@numba.njit(cache=True, nogil=True)
def nearest(a: float, b: float, cosines: Floats, sines: Floats) -> int:
    count = cosines.size
    if a == 0.0 and b == 0.0:
        return count // 2
    angle = math.atan2(b, a) if a >= 0.0 else math.atan2(-b, -a)
    guess = round(angle * (count / math.pi)) + count // 2
    best, most = 0, -1.0
    for around in range(guess - 1, guess + 2):
        k = around % count
        moved = abs(a * cosines[k] + b * sines[k])
        if moved > most:
            best, most = k, moved
    return best


@numba.njit(cache=True, nogil=True)
def rotate(X: Floats, i: int, j: int, c: float, s: float) -> None:
    first, second = X[i], X[j]
    for t in range(first.size):
        a, b = first[t], second[t]
        first[t] = c * a + s * b
        second[t] = c * b - s * a

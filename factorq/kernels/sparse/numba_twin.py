"""Sparse products that go from one set bit to the next."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..words.numba_twin import popcount, trailing_zeros

Words = NDArray[np.uint64]
Matrix = NDArray[Any]

_njit: Any = numba.njit(cache=True, nogil=True)


def matmul(words: Words, shift: int, values: Matrix, x: Matrix, out: Matrix) -> int:
    """Add W @ x to out (m, b); return how many entries are kept, and add nothing if they are not all there."""
    kept = int(_count(words, shift, len(x) * len(out)))
    if kept == values.size:
        if x.shape[1] == 1:
            _vector(words, shift, values, x[:, 0], out[:, 0])
        else:
            _matrix(words, shift, values, x, out)
    return kept


def rmatmul(words: Words, shift: int, values: Matrix, x: Matrix, out: Matrix) -> int:
    """Add W.T @ x to out (n, b); return as :func:`matmul`."""
    kept = int(_count(words, shift, len(x) * len(out)))
    if kept == values.size:
        if x.shape[1] == 1:
            _scattered(words, shift, values, x[:, 0], out[:, 0])
        else:
            _transposed(words, shift, values, x, out)
    return kept


def expand(words: Words, shift: int, values: Matrix, out: Matrix) -> int:
    """Put the values at the set bits of out (n,), which holds zeros; return as :func:`matmul`."""
    kept = int(_count(words, shift, out.size))
    if kept == values.size:
        _expand(words, shift, values, out)
    return kept


@_njit
def _inside(word, w, start, stop):  # type: ignore[no-untyped-def]
    """Word w without its bits before ``start`` and from ``stop`` on."""
    if 64 * w < start:
        word &= ~np.uint64(0) << np.uint64(start - 64 * w)
    if 64 * w + 64 > stop:
        word &= ~np.uint64(0) >> np.uint64(64 * w + 64 - stop)
    return word


@_njit
def _count(words, start, size):  # type: ignore[no-untyped-def]
    kept, stop = 0, start + size
    for w in range((stop + 63) >> 6):
        kept += popcount(_inside(words[w], w, start, stop))
    return kept


@_njit
def _expand(words, start, values, out):  # type: ignore[no-untyped-def]
    k, stop = np.uint64(0), start + out.size  # what is unsigned is not looked at as an index from the end: 10 to 20 %
    for w in range((stop + 63) >> 6):
        word = _inside(words[w], w, start, stop)
        base = 64 * w - start
        while word != 0:
            out[np.uint64(base + trailing_zeros(word))] = values[k]
            word &= word - np.uint64(1)
            k += np.uint64(1)


@_njit
def _vector(words, start, values, x, out):  # type: ignore[no-untyped-def]
    k, n = np.uint64(0), x.size
    for i in range(out.size):
        first = start + i * n
        total = out[i]
        for w in range(first >> 6, (first + n + 63) >> 6):
            word = _inside(words[w], w, first, first + n)
            base = 64 * w - first
            while word != 0:
                total += values[k] * x[np.uint64(base + trailing_zeros(word))]
                word &= word - np.uint64(1)
                k += np.uint64(1)
        out[i] = total


@_njit
def _matrix(words, start, values, x, out):  # type: ignore[no-untyped-def]
    k, n = np.uint64(0), x.shape[0]
    for i in range(out.shape[0]):
        first = start + i * n
        row = out[i]
        for w in range(first >> 6, (first + n + 63) >> 6):
            word = _inside(words[w], w, first, first + n)
            base = 64 * w - first
            while word != 0:
                other = x[np.uint64(base + trailing_zeros(word))]
                word &= word - np.uint64(1)
                value = values[k]
                for c in range(row.size):
                    row[c] += value * other[c]
                k += np.uint64(1)


@_njit
def _transposed(words, start, values, x, out):  # type: ignore[no-untyped-def]
    k, n = np.uint64(0), out.shape[0]
    for i in range(x.shape[0]):
        first = start + i * n
        row = x[i]
        for w in range(first >> 6, (first + n + 63) >> 6):
            word = _inside(words[w], w, first, first + n)
            base = 64 * w - first
            while word != 0:
                other = out[np.uint64(base + trailing_zeros(word))]
                word &= word - np.uint64(1)
                value = values[k]
                for c in range(row.size):
                    other[c] += value * row[c]
                k += np.uint64(1)


@_njit
def _scattered(words, start, values, x, out):  # type: ignore[no-untyped-def]
    k, n = np.uint64(0), out.size
    for i in range(x.size):
        first = start + i * n
        factor = x[i]
        for w in range(first >> 6, (first + n + 63) >> 6):
            word = _inside(words[w], w, first, first + n)
            base = 64 * w - first
            while word != 0:
                out[np.uint64(base + trailing_zeros(word))] += values[k] * factor
                word &= word - np.uint64(1)
                k += np.uint64(1)

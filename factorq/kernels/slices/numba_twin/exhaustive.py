"""Solving up to 12 inputs by trying all of them: one Walsh-Hadamard transform for 16 slices at once.

With a_r = the sum of (-1)**v over the equations of row r and value v, input x fits F(x) equations more than it misses,
F(x) = sum_r a_r (-1)**parity(r & x). This transform of a takes ``n_in * 2**n_in`` additions and subtractions.

Mweights/s of one plane at S = 0.9, n_out = 0.9 n_in / (1 - S), median of the CPU time of the whole of ``solve`` on the
machine of the benchmarks: 8 inputs 380, 12 inputs 39.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...words.numba_twin import kernel, popcount, trailing_zeros
from .elimination import Words
from .vectors import LANES, WORDS, butterfly, first_largest

Numbers = NDArray[Any]


def search(care: Words, values: Words, planes: int, rows: Words, n_in: int, n_out: int, tiles: int, out: Words) -> None:
    """Inputs of all slices, out (planes, tiles, n_in, 8 words), from care (tiles, n_out, 8 words)."""
    number = np.int16 if n_out < 1 << 15 else np.int32  # a sum is at most n_out
    sums, best = np.empty(LANES << n_in, number), np.empty(LANES, number)
    _search(care, values, planes, rows, n_in, n_out, tiles, sums, best, out)


@kernel()
def _transform(sums: Numbers) -> None:
    """Sylvester's matrix times each of the 16 columns of ``sums``."""
    half = LANES
    while half < sums.size:
        for start in range(0, sums.size, 2 * half):
            for k in range(start, start + half, LANES):
                butterfly(sums, k, k + half)
        half *= 2


@kernel()
def _search(
    care: Words,
    values: Words,
    planes: int,
    rows: Words,
    n_in: int,
    n_out: int,
    tiles: int,
    sums: Numbers,
    best: Numbers,
    out: Words,
) -> None:
    before, at = np.empty(n_out * WORDS, np.int64), 0
    for tile in range(tiles):
        base = tile * n_out * WORDS
        for k in range(n_out * WORDS):
            before[k] = at
            at += popcount(care[base + k])
        for j in range(planes):
            for w in range(WORDS):
                for shift in range(0, 64, LANES):
                    below = (np.uint64(1) << np.uint64(shift)) - np.uint64(1)
                    for k in range(sums.size):
                        sums[k] = 0
                    for i in range(n_out):
                        word = care[base + i * WORDS + w]
                        some = (word >> np.uint64(shift)) & np.uint64((1 << LANES) - 1)
                        if some == 0:
                            continue
                        value, place = before[i * WORDS + w] + popcount(word & below), np.int64(rows[i]) * LANES
                        while some != 0:
                            slot = place + trailing_zeros(some)
                            some &= some - np.uint64(1)
                            sums[slot] += 1 - 2 * np.int64((values[value] >> np.uint64(j)) & np.uint64(1))
                            value += 1
                    _transform(sums)
                    first_largest(sums, sums.size // LANES, best)
                    for q in range(n_in):
                        bits = np.uint64(0)
                        for s in range(LANES):
                            bits |= ((np.uint64(best[s]) >> np.uint64(q)) & np.uint64(1)) << np.uint64(s)
                        out[((j * tiles + tile) * n_in + q) * WORDS + w] |= bits << np.uint64(shift)

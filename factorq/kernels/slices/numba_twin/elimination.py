"""Solving any number of inputs: 512 slices at once, one bit of a vector each.

All slices of a tile share the rows of M and differ only in which outputs matter, and a row of the tile's mask holds
just these bits side by side. So row i of M is one equation for all slices: coefficient k is the mask where M has a one,
the right-hand sides are the values there. No bit is moved to another place on the way, and the time hardly depends on
the mask: about ``n_in * (n_in / 2 + planes)`` steps of four instructions for every 512 positions.

Mweights/s of one plane at S = 0.9 and 0.6, n_out = 0.9 n_in / (1 - S), 2**24 weights, median of the CPU time of the
whole of ``solve`` on the machine of the benchmarks: 13 inputs 820 and 790, 20 inputs 550 and 640, 32 inputs 470 and
410, 64 inputs 150 and 170, 128 inputs 44 and 51, 256 inputs 12 and 12, 512 inputs 1.7 and 1.4 (its pivots are out of
the cache). Slice by slice, with equations as words, it was 180 and 45 for 20 inputs, 37 and 9 for 128, 6 and 1.6 for
512.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from ...words.numba_twin import kernel, trailing_zeros
from .vectors import WORDS, absorb, spread

Words = NDArray[np.uint64]

WORD_ARRAY = types.Array(types.uint64, 1, "C")
_VALUES = types.Array(types.uint64, 1, "C", readonly=True)
_SOLVER = types.void(WORD_ARRAY, _VALUES, types.int64, WORD_ARRAY, types.int64, types.int64, types.int64, WORD_ARRAY)


@kernel(_SOLVER)
def eliminate(
    care: Words, values: Words, planes: int, rows: Words, n_in: int, n_out: int, tiles: int, out: Words
) -> None:
    """Inputs of all slices, out (planes, tiles, n_in, 8 words), from care (tiles, n_out, 8 words)."""
    columns, length, at = n_in + planes, (n_in + 63) // 64, 0
    equations = np.zeros(2 * columns * WORDS, np.uint64)
    pivots, found = np.empty(n_in * columns * WORDS, np.uint64), np.empty(n_in * WORDS, np.uint64)
    for tile in range(tiles):
        for k in range(pivots.size):
            pivots[k] = 0
        for k in range(found.size):
            found[k] = 0
        for pair in range(0, n_out, 2):
            for k in range(columns * WORDS, 2 * columns * WORDS):
                equations[k] = 0  # where the number of rows is odd
            for i in range(pair, min(pair + 2, n_out)):
                row, first = (tile * n_out + i) * WORDS, (i - pair) * columns
                for m in range(length):
                    spread(equations, first + 64 * m, care, row, rows[i * length + m], min(64, n_in - 64 * m))
                start = at
                for j in range(planes):
                    at = start
                    for w in range(WORDS):
                        word, bits = care[row + w], np.uint64(0)
                        while word != 0:
                            shift = np.uint64(trailing_zeros(word))
                            word &= word - np.uint64(1)
                            bits |= ((values[at] >> np.uint64(j)) & np.uint64(1)) << shift
                            at += 1
                        equations[(first + n_in + j) * WORDS + w] = bits
            absorb(equations, pivots, found, n_in, columns)
        for j in range(planes):
            base = (j * tiles + tile) * n_in
            for q in range(n_in - 1, -1, -1):  # pivots are zero where there are none, and so is the input
                for w in range(WORDS):
                    bits = pivots[(q * columns + n_in + j) * WORDS + w]
                    for k in range(q + 1, n_in):
                        bits ^= pivots[(q * columns + k) * WORDS + w] & out[(base + k) * WORDS + w]
                    out[(base + q) * WORDS + w] = bits

"""Decoding: a row of 512 outputs is the sum of one table entry for every few inputs.

GB/s of decoded bits at n_out = 9.2 n_in, 2 MiB of them in a warm destination, medians of CPU time on the machine of the
benchmarks (copies in the same runs: 8 to 21): 20 inputs 14, 32 inputs 16, 40 inputs 8.4, 48 inputs 8.9, 56 inputs 9.1,
64 inputs 6.1, 128 inputs 3.9. Tables of 16 entries are a tenth slower from 32 inputs on, half rows of 32 bytes a fifth,
and runs of 36 inputs, whose tables fit the nearest cache, a third. The bound is loads: a row takes one vector of 64
bytes for every 6 inputs, and a processor loads 64 bytes per clock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
from numba import types
from numpy.typing import NDArray

from ...words.numba_twin import kernel
from ..network import network
from .elimination import WORD_ARRAY, Words
from .vectors import WORDS, add_rows, look_up, take

Bytes = NDArray[np.uint8]

_LARGEST = 6
_RUN = 64
"""Inputs that are dealt with at a time: the part of a row that selects entries is one word."""
_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_OUT = types.Array(types.uint8, 1, "C")
_DECODER = types.void(_BYTES, types.int64, types.int64, types.int64, WORD_ARRAY, types.int64, WORD_ARRAY, _OUT)


def decode(stream: Bytes, tiles: int, n_in: int, n_out: int, seed: int, used: int, out: Bytes) -> None:
    """The first ``used`` rows of each tile, out (tiles, n_out, 64 bytes), from stream (tiles, n_in, 64 bytes)."""
    groups, width, run, rows = _plan(n_in, n_out, seed)
    tables = _aligned((groups << width) * WORDS)
    _decoder(groups, width)(stream, tiles, n_in, run, rows, used, tables, out)


def _aligned(words: int) -> Words:
    """Room that starts at a multiple of 64 bytes: a vector across two lines of the cache takes longer to load."""
    room = np.empty(words + WORDS, np.uint64)
    start = -room.__array_interface__["data"][0] % (8 * WORDS) // 8
    return room[start : start + words]


@lru_cache(maxsize=8)
def _plan(n_in: int, n_out: int, seed: int) -> tuple[int, int, int, Words]:
    """(tables, inputs of each, inputs of a run of tables, columns of M run by run).

    Runs are of equal length but the last one. The number of inputs of a table takes the fewest steps: 2**width to build
    it, n_out to use it.
    """
    count = -(-n_in // _RUN)
    run = -(-n_in // count)
    width = min(range(1, _LARGEST + 1), key=lambda w: -(-run // w) * ((1 << w) + n_out))
    bits = np.unpackbits(network(n_in, n_out, seed).view(np.uint8), axis=1, bitorder="little")
    columns = np.zeros((count, n_out, 64), np.uint8)
    for p in range(count):
        part = bits[:, p * run : min((p + 1) * run, n_in)]
        columns[p, :, : part.shape[1]] = part
    return -(-run // width), width, run, np.packbits(columns, axis=2, bitorder="little").view(np.uint64).reshape(-1)


@cache
def _decoder(groups: int, width: int) -> Callable[..., None]:
    """Build the kernel for one grouping: the closed-over integers are constants to LLVM and part of the cache key."""
    size = 1 << width

    def decode_tiles(
        stream: Bytes, tiles: int, n_in: int, run: int, rows: Words, used: int, tables: Words, out: Bytes
    ) -> None:
        n_out = rows.size // ((n_in + run - 1) // run)
        for g in range(groups):
            for w in range(WORDS):
                tables[g * size * WORDS + w] = 0
        for tile in range(tiles):
            for first in range(0, n_in, run):
                for q in range(min(run, n_in - first)):
                    start, bit = q // width * size, 1 << (q % width)
                    take(tables, start + bit, stream, (tile * n_in + first + q) * (8 * WORDS))
                    for k in range(1, bit):
                        add_rows(tables, start + bit, start + k, start + bit + k)
                if first == 0:
                    for i in range(used):
                        look_up(tables, rows[i], out, tile * n_out + i, groups, width, 0)
                else:
                    for i in range(used):
                        look_up(tables, rows[first // run * n_out + i], out, tile * n_out + i, groups, width, 1)

    return kernel(_DECODER)(decode_tiles)

"""The table entries of one step, restricted to the outputs that matter: what both Viterbi kernels start a step with."""

from __future__ import annotations

import numpy as np
from numba import types
from numpy.typing import NDArray

from ...words.numba_twin import kernel, trailing_zeros

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]

CHUNK = 8
"""Outputs of a chunk: an entry is one byte for each of them."""
WORD_ARRAY = types.Array(types.uint64, 1, "C")
BYTE_ARRAY = types.Array(types.uint8, 1, "C")


@kernel(
    types.int64(
        WORD_ARRAY, WORD_ARRAY, types.int64, types.int64, BYTE_ARRAY, types.int64, types.int64, types.int64, BYTE_ARRAY
    )
)  # fmt: skip
def restrict(
    kept: Words,
    wanted: Words,
    step: int,
    words: int,
    rows: Bytes,
    n_out: int,
    registers: int,
    size: int,
    entries: Bytes,
) -> int:
    """Fill entries (registers + 1, chunks, size), return how many outputs matter.

    Bit k of chunk c of entry x of M_r is the output ``8 * c + k`` that matters. The wanted bits are added to M_1.
    """
    chunks = (n_out + CHUNK - 1) // CHUNK
    at = 0
    for w in range(words):
        word, value = kept[step * words + w], wanted[step * words + w]
        while word != 0:
            low = trailing_zeros(word)
            word &= word - np.uint64(1)
            chunk, bit = at // CHUNK, np.uint8(1 << (at % CHUNK))
            for r in range(registers + 1):
                base = (r * chunks + chunk) * size
                if at % CHUNK == 0:  # entries 2**b hold the columns until the others are filled in
                    entries[base] = 0
                    b = 1
                    while b < size:
                        entries[base + b] = 0
                        b *= 2
                row, b = rows[r * n_out + 64 * w + low], 0
                while (1 << b) < size:
                    if (row >> b) & 1:
                        entries[base + (1 << b)] |= bit
                    b += 1
                if r == 1 and (value >> np.uint64(low)) & np.uint64(1):
                    entries[base] |= bit
            at += 1
    for r in range(registers + 1):
        for chunk in range((at + CHUNK - 1) // CHUNK):
            base, half = (r * chunks + chunk) * size, 1
            while half < size:
                column = entries[base + half]
                for x in range(half):
                    entries[base + half + x] = entries[base + x] ^ column
                half *= 2
    return at

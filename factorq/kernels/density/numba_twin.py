"""The density coder, one source for both directions: the direction is a constant to the compiler.

55 to 65 million entries/s are written or read on one core (process CPU time, medians of 7, 2**24 independent entries),
40 to 55 where a kernel of 9 entries is learnt, too. What takes the time is the way from one entry to the next: sum,
look-up, product, comparison. Indices that the compiler knows to be positive change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from .tables import CAP, DAMPING, EDGE, FINE, HISTORY, LEVELS, ROWS, SCALE, STEP, Settings, tables

Bits = NDArray[np.uint8]
Words = NDArray[np.uint32]
State = tuple[int, int, int]

_FIRST, _LAST, _HALF, _LOW = EDGE, 2 * EDGE - 1, 1 << SCALE - 1, 1 << 32
_TABLE = types.Array(types.int32, 1, "C", readonly=True)
_types: Any = types
_njit: Any = numba.njit


def encode(mask: Bits, shape: tuple[int, int], group: int, chosen: Settings) -> tuple[Words, int, int]:
    """Code mask (m * n,) -> (words, low, width): the stream is any number in [low, low + width) after the words."""
    room = (
        mask.size // 2 + mask.size // 1024 + 4
    )  # at most a little over 16 bits an entry; what is not used is not touched
    words = np.empty(room, np.uint32)
    at, low, width = _run(False)(mask, words, *shape, group, *chosen, *tables())
    return words[:at], int(low), int(width)


def decode(words: Words, shape: tuple[int, int], group: int, chosen: Settings) -> tuple[Bits, int]:
    """Read (mask (m * n,), number of words used); zeros follow the words."""
    bits, used = bitmap(words.astype(">u4").view(np.uint8), shape, group, chosen)
    return np.unpackbits(bits, count=shape[0] * shape[1], bitorder="little"), used


def bitmap(stream: Bits, shape: tuple[int, int], group: int, chosen: Settings) -> tuple[Bits, int]:
    """Read (the mask as bits (ceil(m * n / 8),), words used) from the bytes of words; zeros follow the bytes."""
    bits = np.zeros((shape[0] * shape[1] + 7) // 8, np.uint8)
    at, _, _ = _run(True)(bits, stream, *shape, group, *chosen, *tables())
    return bits, int(at)


@_njit(cache=True, nogil=True)
def _word(stream, at):  # type: ignore[no-untyped-def]
    """Big-endian word ``at``, as far as the stream goes."""
    word, first = np.uint64(0), 4 * at
    for k in range(first, min(first + 4, stream.size)):
        word |= np.uint64(stream[k]) << np.uint64(24 - 8 * (k - first))
    return word


@cache
def _run(decoding: bool) -> Callable[..., State]:
    def run(mask, words, m, n, group, level, rows, columns, kernels, squash, reciprocal):  # type: ignore[no-untyped-def]
        low, width, code, at = np.uint64(0), np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0), 0
        if decoding:
            for at in range(2):
                code = (code << np.uint64(32)) | _word(words, at)
            at = 2
        learns_rows, learns_columns, learns_kernels = (
            -np.int64(rows > 0),
            -np.int64(columns > 0),
            -np.int64(kernels > 0),
        )
        first_row, first_kernel = np.int64(1 << 13) << rows, np.int64(1 << 13) << kernels
        column, column_seen = np.zeros(n, np.int64), np.full(n, 1 << (13 + columns), np.int32)
        contexts = HISTORY * max(group, 1)
        near, near_seen = np.zeros(contexts, np.int64), np.full(contexts, DAMPING, np.int32)
        above = np.zeros(n, np.uint8)
        level = (level - 128) * LEVELS + _FIRST
        for i in range(m):
            row, row_seen, kernel, kernel_seen = np.int64(0), first_row, np.int64(0), first_kernel
            history: Any = 0
            place = 0
            for j in range(n):
                context = (place << 4) | (history << 1) | above[j]
                x = level + row + column[j] + kernel + near[context]
                p = np.int64(squash[min(max(x, 0), _LAST) >> STEP])
                bound = (width >> np.uint64(16)) * np.uint64(p)
                if decoding:
                    bit = np.int64(code < bound)
                    mask[(i * n + j) >> 3] |= np.uint8(bit << ((i * n + j) & 7))
                    code = code if bit else code - bound
                else:
                    bit = np.int64(mask[i * n + j])
                    before = low
                    low += np.uint64(0) if bit else bound
                    if low < before:  # the carry goes back through words of ones
                        k = at - 1
                        while k > 0 and words[k] == 0xFFFFFFFF:
                            words[k] = 0
                            k -= 1
                        words[k] += 1
                width = bound if bit else width - bound
                if width < np.uint64(_LOW):
                    if decoding:
                        code = (code << np.uint64(32)) | _word(words, at)
                    else:
                        words[at] = low >> np.uint64(32)
                        low <<= np.uint64(32)
                    at += 1
                    width <<= np.uint64(32)
                error, information = (bit << 16) - p, ((p * (65536 - p)) >> 16) + 1
                row_seen = min(row_seen + information, CAP)
                row += ((error * reciprocal[row_seen >> FINE] + _HALF) >> SCALE) & learns_rows
                seen = min(column_seen[j] + information, CAP)
                column_seen[j] = seen
                column[j] += ((error * reciprocal[seen >> FINE] + _HALF) >> SCALE) & learns_columns
                seen = min(near_seen[context] + information, CAP)
                near_seen[context] = seen
                near[context] += (error * reciprocal[seen >> FINE] + _HALF) >> SCALE
                history, above[j] = ((history << 1) | bit) & 7, bit
                if group > 0:
                    kernel_seen = min(kernel_seen + information, CAP)
                    kernel += ((error * reciprocal[kernel_seen >> FINE] + _HALF) >> SCALE) & learns_kernels
                    place += 1
                    if place == group:
                        place, kernel, kernel_seen = 0, np.int64(0), first_kernel
            level += row // min(i + 2, ROWS)
        return at, low, width

    source = types.Array(types.uint8, 1, "C", readonly=not decoding)
    words = types.Array(types.uint8 if decoding else types.uint32, 1, "C", readonly=decoding)
    result = _types.Tuple((types.int64, types.uint64, types.uint64))
    compiled: Callable[..., State] = _njit(
        result(source, words, *[types.int64] * 7, _TABLE, _TABLE), cache=True, nogil=True
    )(run)
    return compiled

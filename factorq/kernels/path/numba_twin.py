"""The path coder compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .tables import PRECISION

_LOW = np.uint32(1 << 16)


@numba.njit(cache=True, nogil=True)
def histogram(
    k: NDArray[Any],
    first: int,
    classes: NDArray[Any],
    run: int,
    union: int,
    drop: int,
    least: int,
    counts: NDArray[Any],
) -> None:
    width = counts.shape[1] - 1
    row = first // run
    left = run - first % run
    for i in range(len(k)):
        if left == 0:
            row += 1
            left = run
        left -= 1
        symbol = (k[i] >> drop) - least
        if symbol < 0 or symbol >= width:
            symbol = width
        counts[(np.int64(classes[row]) << union) + (k[i] & union), symbol] += 1


@numba.njit(cache=True, nogil=True)
def encode(
    k: NDArray[Any],
    first: int,
    classes: NDArray[Any],
    run: int,
    union: int,
    drop: int,
    least: int,
    frequency: NDArray[Any],
    start: NDArray[Any],
    words: NDArray[Any],
) -> int:
    width = frequency.shape[1] - 1
    tail = drop - union
    mask = (1 << tail) - 1
    at = len(words)
    state = np.empty(2, np.uint32)
    state[:] = _LOW
    last = first + len(k) - 1
    row = last // run
    left = last % run
    for i in range(len(k) - 1, -1, -1):
        x = state[i & 1]
        value = np.int64(k[i])
        table = (np.int64(classes[row]) << union) + (value & union)
        symbol = (value >> drop) - least
        if symbol < 0 or symbol >= width or frequency[table, symbol] == 0:
            symbol = width
            raw = np.uint32(np.int32(value >> union))
            x, at = _put(x, at, words, np.uint32(raw & np.uint32(0xFFFF)), np.uint32(1), np.uint32(16))
            x, at = _put(x, at, words, raw >> np.uint32(16), np.uint32(1), np.uint32(16))
        elif tail > 0:
            x, at = _put(x, at, words, np.uint32((value >> union) & mask), np.uint32(1), np.uint32(tail))
        x, at = _put(x, at, words, start[table, symbol], frequency[table, symbol], np.uint32(PRECISION))
        state[i & 1] = x
        if left == 0:
            row -= 1
            left = run
        left -= 1
    for lane in (1, 0):
        at -= 2
        words[at] = state[lane] & np.uint32(0xFFFF)
        words[at + 1] = state[lane] >> np.uint32(16)
    return at


@numba.njit(cache=True, nogil=True)
def _put(
    x: np.uint32, at: int, words: NDArray[Any], start: np.uint32, frequency: np.uint32, bits: np.uint32
) -> tuple[Any, Any]:
    """One symbol onto the stack: a 16-bit word goes out first if the state would pass 2**32."""
    if np.uint64(x) >= np.uint64(frequency) << (np.uint64(32) - np.uint64(bits)):
        at -= 1
        words[at] = x & np.uint32(0xFFFF)
        x >>= np.uint32(16)
    quotient = np.uint32(x // frequency)
    return np.uint32((quotient << bits) + (x - quotient * frequency) + start), at


@numba.njit(cache=True, nogil=True)
def decode(
    words: NDArray[Any],
    first: int,
    classes: NDArray[Any],
    run: int,
    union: int,
    drop: int,
    least: int,
    frequency: NDArray[Any],
    start: NDArray[Any],
    slots: NDArray[Any],
    parity: NDArray[Any],
    successor: NDArray[Any],
    k: NDArray[Any],
) -> bool:
    count = len(words)
    if count < 4:
        return False
    width = frequency.shape[1] - 1
    tail = np.uint32(drop - union)
    low = np.uint32((1 << PRECISION) - 1)
    even = np.uint32(words[0]) | np.uint32(words[1]) << np.uint32(16)
    odd = np.uint32(words[2]) | np.uint32(words[3]) << np.uint32(16)
    at = 4
    state = np.uint8(0)
    row = first // run
    left = run - first % run
    base = np.int64(classes[row]) << union
    for i in range(len(k)):
        if left == 0:
            row += 1
            left = run
            base = np.int64(classes[row]) << union
        left -= 1
        p = np.int64(parity[state])
        table = np.uint64(base + p)
        x = even
        slot = x & low
        symbol = np.int64(slots[table, slot])
        s = np.uint64(symbol)
        x = np.uint32(frequency[table, s] * (x >> np.uint32(PRECISION)) + slot - start[table, s])
        if x < _LOW:
            if at >= count:
                return False
            x = x << np.uint32(16) | np.uint32(words[at])
            at += 1
        if symbol == width:
            raw = np.uint32(0)
            for _ in range(2):
                raw = raw << np.uint32(16) | (x & np.uint32(0xFFFF))
                x >>= np.uint32(16)
                if x < _LOW:
                    if at >= count:
                        return False
                    x = x << np.uint32(16) | np.uint32(words[at])
                    at += 1
            value = np.int64(np.int32(raw))
        else:
            value = symbol + least
            if tail:
                value = value << np.int64(tail) | np.int64(x & ((np.uint32(1) << tail) - np.uint32(1)))
                x >>= tail
                if x < _LOW:
                    if at >= count:
                        return False
                    x = x << np.uint32(16) | np.uint32(words[at])
                    at += 1
        even = odd
        odd = x
        k[i] = np.int32((value << union) + p)
        state = successor[state, value & 1]
    if len(k) & 1:
        even, odd = odd, even
    return at == count and even == _LOW and odd == _LOW

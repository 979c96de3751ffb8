"""The decisions of the compiled coder: arithmetic coding, plain bits, escapes, signs."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..tables import CLASSES, COUNTS, PROBABILITIES, UNARY

Array = NDArray[Any]

jit = numba.njit(cache=True, nogil=True)

ENCODE, DECODE, COST = range(3)
# Where each table starts in the one array that holds all: every array that is handed on costs reference counts.
STRETCH, SQUASH, PRIOR = 0, PROBABILITIES, 2 * PROBABILITIES
MEAN = PRIOR + 4 * CLASSES * (UNARY + 1)
DAMPING, CURVATURE, GAIN = MEAN + 2 * CLASSES, MEAN + 4 * CLASSES, MEAN + 6 * CLASSES
PRICE = MEAN + 7 * CLASSES
RATE, NEWTON = PRICE + PROBABILITIES + 1, PRICE + PROBABILITIES + 1 + COUNTS


@jit
def escaped(mode: int, coder: Array, stream: Array, tables: Array, escape: Array, value: Any) -> Any:
    """The value, at least 0: the length of value + 1 in unary, with a counter for each step, then its digits."""
    length = 0
    while length < 25:
        bit = bit_of(
            mode, coder, stream, tables, min(max(escape[length], 1024), 64512), (value + 1) >> (length + 1) > 0
        )
        escape[length] += ((bit << 16) - escape[length]) >> 4
        if bit == 0:
            break
        length += 1
    digits = (value + 1) & ((1 << length) - 1)
    return ((1 << length) | plain(mode, coder, stream, tables, digits, length)) - 1


@jit
def low_bits(
    mode: int, coder: Array, stream: Array, tables: Array, escape: Array, high: Any, value: Any, shift: Any
) -> Any:
    """The low bits: the first of them has a counter by magnitude, for the slope of the density and the one 0."""
    if shift == 0:
        return 0
    at = 8 * min(shift, 3) + 24 + min(high, 7)
    first = bit_of(mode, coder, stream, tables, min(max(escape[at], 1024), 64512), value >> (shift - 1))
    escape[at] += ((first << 16) - escape[at]) >> 7
    rest = value & ((1 << (shift - 1)) - 1)
    return (first << (shift - 1)) | plain(mode, coder, stream, tables, rest, shift - 1)


@jit
def plain(mode: int, coder: Array, stream: Array, tables: Array, value: Any, count: Any) -> Any:
    """``count`` bits of the value at probability 1/2."""
    result = 0
    for i in range(count - 1, -1, -1):
        result = 2 * result + bit_of(mode, coder, stream, tables, 1 << 15, (value >> i) & 1)
    return result


@jit
def sign_of(
    mode: int,
    coder: Array,
    stream: Array,
    tables: Array,
    gain: Any,
    negative: Any,
    biases: Array,
    weights: Array,
    r: Any,
    c: Any,
) -> Any:
    """Whether the index is negative: logit = gain * (bias of the row + bias of the column)."""
    dot = (gain * (biases[0, r] + biases[1, c])) >> 16
    p = tables[SQUASH + ((min(max(dot, -65536), 65535) + 65536) >> 5)]
    bit = bit_of(mode, coder, stream, tables, p, 1 if negative else 0)
    step = ((((bit << 16) - p) * gain) >> 12) << 14
    square = (gain * gain) >> 12
    biases[0, r] += step // weights[0, r]
    biases[1, c] += step // weights[1, c]
    weights[0, r] += square
    weights[1, c] += square
    return bit


@jit
def bit_of(mode: int, coder: Array, stream: Array, tables: Array, p: Any, bit: Any) -> Any:
    """One decision, 1 with probability p / 2**16: the interval [low, high] of 32-bit numbers is cut in proportion."""
    if mode == COST:
        coder[4] += tables[PRICE + (((p if bit else 65536 - p) + 8) >> 4)]
        return bit
    low, high = coder[0], coder[1]
    middle = low + (((high - low) * p) >> 16)
    if mode == DECODE:
        bit = 1 if coder[2] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    coder[0], coder[1] = low, high
    while (coder[0] ^ coder[1]) >> 24 == 0:
        if mode == ENCODE:
            stream[coder[3]] = coder[0] >> 24
            coder[3] += 1
        else:
            take(coder, stream)
        coder[0] = (coder[0] << 8) & 0xFFFFFFFF
        coder[1] = ((coder[1] << 8) & 0xFFFFFFFF) | 255
    return bit


@jit
def take(coder: Array, stream: Array) -> None:
    """Shift the next byte into the window; zeros follow the stream."""
    at = coder[3]
    coder[2] = ((coder[2] << 8) & 0xFFFFFFFF) | (np.int64(stream[at]) if at < stream.size else 0)
    coder[3] = at + 1


@jit
def finish(coder: Array, stream: Array) -> Any:
    """Write the shortest bytes whose continuation by zeros lies in the interval; zeros at the end are left out."""
    used = coder[3]
    if coder[0] > 0:
        stream[used] = (coder[0] >> 24) + 1
        used += 1
    while used > 0 and stream[used - 1] == 0:
        used -= 1
    return used

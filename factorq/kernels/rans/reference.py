"""The specification: rANS with interleaved states, one symbol at a time, and adaptive Golomb codes of levels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError

LOW = 1 << 16
"""Between symbols a state is in [LOW, 2**32)."""
MOST_UNARY = 1 << 12


def push(x: int, start: int, freq: int, precision: int, words: NDArray[np.uint16], at: int) -> tuple[int, int]:
    """Code a symbol, freq > 0: (state, place of the last word), after a word went to ``words[at - 1]`` if need be."""
    if x >= freq << (32 - precision):
        at -= 1
        words[at] = x % 65536
        x //= 65536
    return (x // freq << precision) + x % freq + start, at


def get(x: int, start: int, freq: int, precision: int) -> int:
    """The state before :func:`push` of the symbol to which the slot ``x % 2**precision`` belongs."""
    return freq * (x >> precision) + (x & ((1 << precision) - 1)) - start


def prepare(freqs: NDArray[np.int64], precision: int, starts: NDArray[np.int64], slots: NDArray[np.uint16]) -> None:
    """Fill ``starts`` (C, K), sums of the freqs before each symbol, and ``slots`` (C, 2**precision), their symbols."""
    for c in range(freqs.shape[0]):
        at = 0
        for k in range(freqs.shape[1]):
            starts[c, k] = at
            slots[c, at : at + freqs[c, k]] = k
            at += freqs[c, k]


def histogram(symbols: NDArray[Any], columns: int, by_row: bool, counts: NDArray[np.int64]) -> None:
    """Add the symbols of each row (or column) of a matrix of ``columns`` columns, in C order, to counts (rows, K)."""
    row = column = 0
    for i in range(symbols.size):
        counts[row if by_row else column, symbols[i]] += 1
        column += 1
        if column == columns:
            row, column = row + 1, 0


def encode(
    symbols: NDArray[Any], contexts: NDArray[np.uint8], freqs: NDArray[np.int64], precision: int, lanes: int, block: int
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """(words, words of each block) of symbols (n,); contexts (n,), or (0,) where all are 0."""
    starts, _ = tables(freqs, precision, prepare)
    pieces = []
    for begin in range(0, symbols.size, block):
        end = min(begin + block, symbols.size)
        words = np.empty(end - begin + 2 * lanes, np.uint16)
        at, states = words.size, [1 if lanes == 1 else LOW] * lanes
        for i in range(end - 1, begin - 1, -1):
            c, lane = int(contexts[i]) if contexts.size else 0, (i - begin) % lanes
            freq, start = int(freqs[c, symbols[i]]), int(starts[c, symbols[i]])
            states[lane], at = push(states[lane], start, freq, precision, words, at)
        for x in reversed(states):
            words[at - 2 : at] = x // 65536, x % 65536
            at -= 2
        pieces.append(words[at:])
    return np.concatenate([np.empty(0, np.uint16), *pieces]), np.array([piece.size for piece in pieces], np.int64)


def decode(
    words: NDArray[np.uint16],
    sizes: NDArray[np.int64],
    contexts: NDArray[np.uint8],
    freqs: NDArray[np.int64],
    precision: int,
    lanes: int,
    block: int,
    out: NDArray[Any],
) -> None:
    """Write symbols (n,) to ``out``; any words are safe, those that :func:`encode` would not write raise."""
    starts, slots = tables(freqs, precision, prepare)
    end = 0
    for index, size in enumerate(sizes.tolist()):
        begin, end = index * block, end + size
        stream = [int(word) for word in words[end - size : end]]
        states = [stream[2 * lane] << 16 | stream[2 * lane + 1] for lane in range(lanes)]
        at, refills = 2 * lanes, lanes > 1
        for i in range(begin, min(begin + block, out.size)):
            c, lane = int(contexts[i]) if contexts.size else 0, (i - begin) % lanes
            symbol = int(slots[c, states[lane] % (1 << precision)])
            states[lane] = get(states[lane], int(starts[c, symbol]), int(freqs[c, symbol]), precision)
            out[i] = symbol
            if states[lane] < LOW and (refills or at < size):
                if at == size:
                    raise corrupted(index)
                states[lane] = states[lane] << 16 | stream[at]
                at += 1
        if at != size or any(x != (LOW if refills else 1) for x in states):
            raise corrupted(index)


def tables(freqs: NDArray[np.int64], precision: int, prepared: Any) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Starts (C, K) and slots (C, 2**precision) by ``prepared``, one of the twins' :func:`prepare`."""
    starts, slots = np.empty_like(freqs), np.empty((len(freqs), 1 << precision), np.uint16)
    prepared(freqs, precision, starts, slots)
    return starts, slots


def corrupted(index: int) -> ArtifactError:
    """The error for a block whose decoder does not end in the state and at the place where its encoder began."""
    return ArtifactError(f"rans: block {index} is corrupted: its decoder does not end where the encoder began")


def write_levels(levels: NDArray[np.int64], order: int, bits: NDArray[np.uint8]) -> int:
    """Write levels (C, K) as bits 0 and 1 in ``bits``; their number, or -1 if there is no room.

    The difference from the prediction is coded as 2 d for d >= 0 and -2 d - 1 for d < 0, in a Golomb-Rice code whose
    parameter follows the mean of the last ones. ``order`` 0 predicts 0, 1 the level before, 2 the line through the two
    before, 3 the level of the table before plus the difference of the two levels before.
    """
    at, total, number = 0, 8, 1
    for c in range(levels.shape[0]):
        for k in range(levels.shape[1]):
            guess = 0
            if order > 0 and k == 0:
                guess = levels[c - 1, 0] if c else 0
            elif order == 3 and c > 0:
                guess = levels[c, k - 1] + levels[c - 1, k] - levels[c - 1, k - 1]
            elif order > 1 and k > 1:
                guess = 2 * levels[c, k - 1] - levels[c, k - 2]
            elif order > 0:
                guess = levels[c, k - 1]
            rest = levels[c, k] - max(guess, 0)
            value = 2 * rest if rest >= 0 else -2 * rest - 1
            width = 0
            while number << width < total:
                width += 1
            high = value >> width
            if at + high + 1 + width > bits.size:
                return -1
            bits[at : at + high] = 0
            bits[at + high] = 1
            at += high + 1
            for j in range(width):
                bits[at + j] = (value >> j) & 1
            at += width
            total, number = total + value, number + 1
            if number == 16:
                total, number = total >> 1, 8
    return at


def read_levels(bits: NDArray[np.uint8], at: int, order: int, most: int, levels: NDArray[np.int64]) -> int:
    """Fill ``levels`` (C, K) from ``bits[at:]``, the inverse of :func:`write_levels`; the end, or -1 if it is no code.

    Levels above ``most`` are no code.
    """
    total, number = 8, 1
    for c in range(levels.shape[0]):
        for k in range(levels.shape[1]):
            guess = 0
            if order > 0 and k == 0:
                guess = levels[c - 1, 0] if c else 0
            elif order == 3 and c > 0:
                guess = levels[c, k - 1] + levels[c - 1, k] - levels[c - 1, k - 1]
            elif order > 1 and k > 1:
                guess = 2 * levels[c, k - 1] - levels[c, k - 2]
            elif order > 0:
                guess = levels[c, k - 1]
            width = 0
            while number << width < total:
                width += 1
            value = 0
            while at < bits.size and bits[at] == 0:
                value += 1
                at += 1
            if at + 1 + width > bits.size or value > MOST_UNARY:
                return -1
            at += 1
            for j in range(width - 1, -1, -1):
                value = 2 * value + int(bits[at + j])
            at += width
            level = max(guess, 0) + (value // 2 if value % 2 == 0 else -(value + 1) // 2)
            if level < 0 or level > most:
                return -1
            levels[c, k] = level
            total, number = total + value, number + 1
            if number == 16:
                total, number = total >> 1, 8
    return at

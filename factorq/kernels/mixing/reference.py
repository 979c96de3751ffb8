"""The plain twin: the specification of the mixing coder, in Python integers; the twins agree bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .coder import Meter, Reader, Writer
from .tables import (
    CAP_FACTOR,
    CAP_LEVEL,
    CLASSES,
    CONFIDENCE,
    COUNTS,
    DAMP_FIRST,
    DAMP_LEVEL,
    DAMP_LINE,
    DAMP_PLACE,
    DAMP_SIGN,
    LABELS,
    LARGEST_STEP,
    LEARNING,
    LIMIT,
    SHIFT,
    TRUST,
    UNARY,
    WEIGHTS,
    Tables,
)

Array = NDArray[Any]
Bit = Callable[[int, int], int]
"""One decision: probability of 1 in 2**-16, the bit to write (anything when reading) -> the bit."""

_HALF = 1 << 15


def encode(
    k: Array, parity: Array, successor: Array, spread: int, restart: int, tables: Tables
) -> tuple[NDArray[np.uint8], int]:
    """The stream of k, and 0 or -1 - the position of the first wrong parity."""
    writer = Writer()
    status = _walk(k, parity, successor, spread, restart, tables, writer.bit, reading=False)
    return writer.stream(), status


def decode(
    stream: Array, parity: Array, successor: Array, spread: int, restart: int, tables: Tables, out: Array
) -> int:
    """Fill ``out`` from the stream; the bytes that belong to it, or -1 if an index is beyond the limit."""
    reader = Reader(stream)
    status = _walk(out, parity, successor, spread, restart, tables, reader.bit, reading=True)
    return -1 if status else reader.used


def cost(k: Array, parity: Array, successor: Array, spread: int, restart: int, tables: Tables) -> tuple[float, int]:
    """Bits of k, and the status of :func:`encode`."""
    meter = Meter(tables.cost)
    status = _walk(k, parity, successor, spread, restart, tables, meter.bit, reading=False)
    return meter.price / 65536, status


def classes(k: Array, parity: Array, successor: Array, spread: int, restart: int, tables: Tables, out: Array) -> int:
    """Fill ``out`` with the scale classes; the status of :func:`encode`."""
    return _walk(k, parity, successor, spread, restart, tables, lambda p, bit: bit, reading=False, labels=out)


def _walk(
    k: Array,
    parity: Array,
    successor: Array,
    spread: int,
    restart: int,
    tables: Tables,
    code: Bit,
    *,
    reading: bool,
    labels: Array | None = None,
) -> int:
    """Code k in C order, or fill it; 0, or -1 - the position of a wrong parity, or -1 where k passes the limit."""
    several = parity.size > 1
    scales, symbols = _Scales(k.shape, spread, tables), _Symbols(tables, code)
    state, signs = 0, _Signs(k.shape, tables, code)
    for position, at in enumerate(np.ndindex(k.shape)):
        p, r, c = at
        if r == 0 and c == 0:
            signs = _Signs(k.shape, tables, code)
            scales.next_plane(p)
        if restart > 0 and position % restart == 0:
            state = 0
        odd = int(parity[state]) if several else 0
        scale, q, shift = scales.expected(at)
        if labels is not None:
            labels[at] = min(max((scale >> 19) + 16, 0), LABELS - 1)
        index = 0 if reading else int(k[at])
        if not reading and several and (index & 1) != odd:
            return -1 - position
        a = (abs(index) - odd) >> 1 if several else abs(index)
        slots = _contexts(k, at, odd, q, shift, several, scales)
        a = symbols.magnitude(a, odd, q, shift, slots)
        size = 2 * a + odd if several else a
        if size > LIMIT:
            return -1
        if size > 0:
            twice = 2 * (a >> shift) + odd if several else 2 * (a >> shift)
            index = -size if signs.negative(r, c, (twice * int(tables.gain[q])) >> 1, index < 0) else size
        if reading:
            k[at] = index
        scales.learn(at, a >> shift, odd, q)
        if several:
            state = int(successor[state, (index >> 1) & 1])
    return 0


class _Scales:
    """log2 of the expected magnitude = level + trusted factors of row, column and place, 20 fractional bits."""

    def __init__(self, shape: tuple[int, ...], spread: int, tables: Tables) -> None:
        planes, rows, columns = shape
        self.tables = tables
        self.level, self.level_weight = (spread - 128) << 17, DAMP_FIRST
        self.factors = [[0] * rows, [0] * columns, [0] * (rows * columns)]
        self.weights = [[DAMP_LINE] * rows, [DAMP_LINE] * columns, [DAMP_PLACE] * (rows * columns)]
        self.trust = [1 << 16] * 3
        self.used = 3 if planes > 1 else 2  # a single plane has nothing to learn about places
        self.columns = columns

    def next_plane(self, p: int) -> None:
        if p > 0:
            self.level_weight = DAMP_LEVEL

    def _where(self, at: tuple[int, ...]) -> list[tuple[int, int]]:
        _, r, c = at
        return [(0, r), (1, c), (2, r * self.columns + c)][: self.used]

    def expected(self, at: tuple[int, ...]) -> tuple[int, int, int]:
        """log2 E, its class, and how many low bits go uncoded."""
        scale = self.level + (sum(self.trust[f] * self.factors[f][i] for f, i in self._where(at)) >> 16)
        q, shift = (scale >> 17) + 64, 0
        if q >= CLASSES:
            shift = min(((q - CLASSES) >> 3) + 1, SHIFT)
            q = min(q - 8 * shift, CLASSES - 1)
        return scale, max(q, 0), shift

    def learn(self, at: tuple[int, ...], high: int, odd: int, q: int) -> None:
        """A damped Newton step of every factor, and a gradient step of the trust in it."""
        t = self.tables
        step = min((((high << 16) - int(t.mean[odd, q])) * int(t.damping[odd, q])) >> 16, LARGEST_STEP)
        if q == 0:
            step = max(step, 0)  # else the factors of a plane of zeros would fall for ever
        weight = int(t.curvature[odd, q])
        for f, i in self._where(at):
            self.trust[f] += (step * (self.factors[f][i] >> 8) + (1 << (TRUST - 1))) >> TRUST
            self.factors[f][i] += (step * int(t.newton[self.weights[f][i] >> 14])) >> 16
            self.weights[f][i] = min(self.weights[f][i] + weight, CAP_FACTOR)
        self.level += (step * int(t.newton[self.level_weight >> 14])) >> 16
        self.level_weight = min(self.level_weight + weight, CAP_LEVEL)


def _contexts(
    k: Array, at: tuple[int, ...], odd: int, q: int, shift: int, several: bool, scales: _Scales
) -> list[tuple[int, ...]]:
    """The context of each counter model; neighbours count in units of the magnitude."""
    p, r, c = at

    def seen(plane: int, row: int, column: int, most: int) -> int:
        if min(plane, row, column) < 0:
            return 0
        size = abs(int(k[plane, row, column]))
        return min((size + 1) >> (shift + 1) if several else size >> shift, most)

    def line(f: int, i: int) -> int:
        return min(max((scales.factors[f][i] >> 18) + 8, 0), 15)

    return [
        (0, odd, q >> 1),
        (1, odd, line(0, r), line(1, c)),
        (2, odd, min(p, 31), seen(p - 1, r, c, 3), seen(p - 2, r, c, 3)),
        (3, odd, q >> 3, seen(p, r, c - 1, 5), seen(p, r - 1, c, 5)),
    ]


class _Symbols:
    """Magnitudes: unary with mixed predictions, an escape, low bits."""

    def __init__(self, tables: Tables, code: Bit) -> None:
        self.tables, self.code = tables, code
        self.counters: dict[tuple[tuple[int, ...], int], tuple[int, int]] = {}
        self.weights = [list(WEIGHTS) for _ in range(16)]
        self.singles = [_HALF] * 56

    def magnitude(self, a: int, odd: int, q: int, shift: int, slots: list[tuple[int, ...]]) -> int:
        high = 0
        while high < UNARY and self._more(high, odd, q, slots, int(a >> shift > high)):
            high += 1
        if high == UNARY:
            high += self._escaped(max((a >> shift) - UNARY, 0))
        if shift == 0:
            return high
        low = a & ((1 << shift) - 1)
        first = self._single(8 * min(shift, 3) + 24 + min(high, 7), low >> (shift - 1), 7)
        rest = self._plain(low & ((1 << (shift - 1)) - 1), shift - 1)
        return (high << shift) | (first << (shift - 1)) | rest

    def _more(self, j: int, odd: int, q: int, slots: list[tuple[int, ...]], wanted: int) -> int:
        """Is the magnitude larger than j? Inputs are logits; p = squash(w . x), w += step * (bit - p) * x."""
        t = self.tables
        x = [int(t.prior[shape, odd, q, j]) for shape in (0, 1)]
        start = (int(t.squash[(((x[0] + x[1]) >> 1) + 65536) >> 5]) << 6, CONFIDENCE)
        counters = [self.counters.get((slot, j), start) for slot in slots]
        x += [int(t.stretch[share >> 10]) for share, _ in counters]
        w = self.weights[8 * odd + min(j, 7)]
        p = probability(t, (_HALF + sum(u * v for u, v in zip(w, x, strict=True))) >> 16)
        bit = self.code(p, wanted)
        error = ((bit << 16) - p) * LEARNING
        for i, v in enumerate(x):
            w[i] += (v * error + (1 << 25)) >> 26
        for slot, (share, seen) in zip(slots, counters, strict=True):
            share += (((bit << 22) - share) * int(t.rate[seen])) >> 16
            self.counters[slot, j] = share, min(seen + 1, COUNTS - 1)
        return bit

    def _escaped(self, value: int) -> int:
        """The length of value + 1 in unary, then its digits."""
        length = 0
        while length < 25 and self._single(length, int((value + 1) >> (length + 1) > 0), 4):
            length += 1
        return ((1 << length) | self._plain((value + 1) & ((1 << length) - 1), length)) - 1

    def _single(self, i: int, wanted: int, slowness: int) -> int:
        bit = self.code(min(max(self.singles[i], 1024), 64512), wanted)
        self.singles[i] += ((bit << 16) - self.singles[i]) >> slowness
        return bit

    def _plain(self, value: int, count: int) -> int:
        result = 0
        for i in range(count - 1, -1, -1):
            result = 2 * result + self.code(_HALF, (value >> i) & 1)
        return result


class _Signs:
    """P(negative) = squash(|k| / E * (bias of the row + bias of the column)), within one plane."""

    def __init__(self, shape: tuple[int, ...], tables: Tables, code: Bit) -> None:
        self.tables, self.code = tables, code
        self.biases = [[0] * shape[1], [0] * shape[2]]
        self.weights = [[DAMP_SIGN] * shape[1], [DAMP_SIGN] * shape[2]]

    def negative(self, r: int, c: int, gain: int, wanted: bool) -> int:
        gain = min(gain, 3 << 12)
        p = probability(self.tables, (gain * (self.biases[0][r] + self.biases[1][c])) >> 16)
        bit = self.code(p, int(wanted))
        for line, i in ((0, r), (1, c)):
            self.biases[line][i] += (((((bit << 16) - p) * gain) >> 12) << 14) // self.weights[line][i]
            self.weights[line][i] += (gain * gain) >> 12
        return bit


def probability(tables: Tables, logit: int) -> int:
    """Squash(logit), clipped to +-16, in 2**-16."""
    return int(tables.squash[(min(max(logit, -65536), 65535) + 65536) >> 5])

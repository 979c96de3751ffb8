"""Frequency tables of the path coder: 8 bits per symbol, on a logarithmic scale of sixteenths of an octave.

A rounding error of 1/32 octave at most costs ``ln(2) / 2 * (1/16)**2 / 12`` = 0.0001 bits per symbol. From entries to
frequencies everything is integer arithmetic, so that every machine decodes with the same tables.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

PRECISION = 14  # frequencies sum to 2**14; at 2**12 the rare symbols of 16 M Gaussian weights cost 0.01 bits per weight
_FINE = 16


def quantize(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Table entries (T, S) for the counts (T, S) of symbols: 0 where there are none, else 1 + log2 of the share."""
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    share = np.log2(np.maximum(counts, 1) / total) + PRECISION
    entries = np.clip(np.rint(_FINE * share), 0, _FINE * PRECISION) + 1
    return np.where(counts > 0, entries, 0).astype(np.uint8)


def frequencies(entries: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Integer frequencies (T, S), 0 where an entry is 0, else at least 1; each row sums to ``2**PRECISION``.

    A row of zeros gets one symbol, the first, which then costs nothing.
    """
    entries = entries.copy()
    entries[~entries.any(axis=1), 0] = 1
    raw = np.where(entries > 0, _POWERS[np.maximum(entries, 1).astype(np.int64) - 1], 0)
    total = raw.sum(axis=1, keepdims=True)
    scaled = np.where(raw > 0, np.maximum((raw << PRECISION) // total, 1), 0)
    for row in scaled:  # what rounding left over goes to the largest, one after the other if it is negative
        missing = (1 << PRECISION) - int(row.sum())
        while missing < 0:
            row[row.argmax()] -= 1
            missing += 1
        row[row.argmax()] += missing
    return scaled.astype(np.uint32)


def _octaves() -> NDArray[np.int64]:
    """``floor(2**(e / 16 + 16))`` for e = 0 .. 254, by square roots of integers."""
    root = 2 << (2 * 512)  # 2 * 2**(2 * 512)
    for _ in range(4):  # 2**(1/16) in units of 2**-512
        root = math.isqrt(root) << 512
    step, value, powers = root >> 512, 1 << 512, []
    for _ in range(255):
        powers.append(value >> (512 - 16))
        value = value * step >> 512
    return np.array(powers, np.int64)


_POWERS = _octaves()

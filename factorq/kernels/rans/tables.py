"""Frequency tables in few bytes: quantized logarithms of counts, from which both sides compute the same integers.

A table is written as levels: 0 for a symbol that does not occur, ``l >= 1`` for a weight of ``2**((l - 1) / steps)``,
and weights become frequencies by :func:`normalise`, in integers. Rounding to ``steps`` levels per octave costs about
``0.029 / steps**2`` bits per symbol, so small arrays take coarse tables and large ones fine ones. Levels of smooth
distributions have small second differences: for 2,000 codes of 16 letters of a Gaussian a table costs 9 to 10 bytes
over their empirical entropy, its coarseness included; frequencies of 12 bits would take 24, an adaptive coder 10.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import twin

STEPS = (1, 2, 4, 8, 16)
ORDERS = 4

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tables:
    """Frequency tables as they are stored, and their cost.

    Parameters
    ----------
    levels : NDArray, (C, K) int64
    steps : int
        Index into ``STEPS``.
    order : int
        Predictor of the levels.
    freqs : NDArray, (C, K) int64
        What they stand for; every row sums to ``2**precision``.
    cost : float
        Bits of the tables and of all symbols.
    """

    levels: NDArray[np.int64]
    steps: int
    order: int
    freqs: NDArray[np.int64]
    cost: float


def precision_of(width: int) -> int:
    """Bits of a frequency for an alphabet of ``2**width`` symbols, 12 to 15: 64 slots per symbol where they can be."""
    return min(max(12, width + 6), 15)


def normalise(weights: NDArray[np.int64], precision: int) -> NDArray[np.int64]:
    """freqs (C, K) proportional to weights (C, K): 0 where the weight is, else at least 1; rows sum to 2**precision.

    Of the ``2**precision`` slots each symbol that occurs has one, the rest are shared out in proportion, rounded down;
    what is then left goes to the largest remainders, lower symbols first. Every row has a positive weight.
    """
    present = weights > 0
    rest = (1 << precision) - present.sum(axis=1, keepdims=True)
    shares, remainders = np.divmod(weights * rest, weights.sum(axis=1, keepdims=True))
    freqs = present + shares
    left = (1 << precision) - freqs.sum(axis=1)
    for row, order in enumerate(np.argsort(-remainders, axis=1, kind="stable")):
        freqs[row, order[: left[row]]] += 1
    return np.asarray(freqs, np.int64)


def weights_of(levels: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """round(2**14 * 2**((level - 1) / STEPS[steps])), 0 for level 0: below 2**30."""
    return np.asarray(_WEIGHTS[steps][levels])


def most_level(steps: int) -> int:
    """The largest level: a probability of 1 at 15 bits."""
    return 15 * STEPS[steps] + 1


_WEIGHTS = [
    np.array([0, *(round(2.0**14 * 2.0 ** (i / steps)) for i in range(15 * steps + 1))], np.int64) for steps in STEPS
]
_EDGES = [np.array([2.0 ** ((i + 0.5) / steps) for i in range(15 * steps)]) for steps in STEPS]


def levels_of(counts: Counts, steps: int, precision: int) -> NDArray[np.int64]:
    """The levels (C, K) nearest to counts (C, K) on the logarithmic scale."""
    share = counts * (2.0**precision / counts.sum(axis=1, keepdims=True))
    return np.where(counts > 0, 1 + np.searchsorted(_EDGES[steps], share), 0).astype(np.int64)


def lengths(freqs: NDArray[np.int64], precision: int) -> NDArray[np.int64]:
    """Code lengths (C, K) in 1/256 bit, as integers, so that sums do not depend on their order; 32 bits for freq 0."""
    exact = precision - np.log2(np.maximum(freqs, 1))
    return np.where(freqs > 0, np.rint(256 * exact), 32 * 256).astype(np.int64)


def fitted(counts: Counts, precision: int) -> Tables:
    """The tables (C, K) for counts (C, K) whose bits and whose symbols' bits are fewest together."""
    candidates = []
    scratch = np.empty(64 * counts.size + 512, np.uint8)  # the code adapts: a long one is followed by short ones
    kernel = twin(__package__, counts)
    for steps in range(len(STEPS)):
        levels = levels_of(counts, steps, precision)
        freqs = normalise(weights_of(levels, steps), precision)
        data = float((counts * lengths(freqs, precision)).sum()) / 256
        bits, order = min((kernel.write_levels(levels, order, scratch), order) for order in range(ORDERS))
        candidates.append(Tables(levels, steps, order, freqs, data + bits))
    return min(candidates, key=lambda tables: tables.cost)

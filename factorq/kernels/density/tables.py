"""Tables and settings of the density coder: integers, so that every machine predicts the same probabilities.

Fixed point: logits, probabilities and information (the curvature ``p (1 - p)`` of the likelihood) have 16 fractional
bits.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]

GROUP = 64
"""Most entries of a kernel that have contexts of their own."""
HISTORY = 16
"""Contexts of the entry above and three at the left."""
EDGE, STEP = 12 << 16, 9
"""Logits from -EDGE to EDGE are looked up, in steps of ``2**STEP``."""
CAP, FINE, SCALE = 256 << 16, 12, 14
"""Information beyond CAP is forgotten; reciprocals are looked up in steps of ``2**FINE``, with SCALE fractional bits.
CAP = 512 costs the same within 0.1 %, as a mask changes slowly from row to row."""
DAMPING = 20 << 16
"""Information that the start of a context is worth; a half or twice as much costs the same within 0.1 %."""
MOST_SETTING = 10
"""Largest setting of a factor, which counts for ``2**(10 - 3)``."""
LEVELS = 6144
"""Step of the first level that a stream tells."""
ROWS = 64
"""Rows over which the level averages."""


class Tables(NamedTuple):
    """What both twins read.

    Parameters
    ----------
    squash : NDArray, (2 * EDGE >> STEP,) int32
        ``1 / (1 + exp(-x))`` at the middle of each step, at least 1 and at most 65535.
    reciprocal : NDArray, ((CAP >> FINE) + 1,) int32
        1 over information, at the middle of each step.
    """

    squash: Ints
    reciprocal: Ints


class Settings(NamedTuple):
    """What a stream tells about its mask, one byte or half of one each.

    Parameters
    ----------
    level : int
        Where the logit of the density starts: ``(level - 128) * LEVELS``.
    rows, columns, kernels : int
        Information that the start of a factor is worth, ``2**(k - 3)``; 0 for a mask without that factor.
    """

    level: int
    rows: int
    columns: int
    kernels: int


@cache
def tables() -> Tables:
    """The tables, a part of the format: the decoder must build the same integers.

    Rounding hides the last digits of the platform's exp: no entry lies nearer to a tie than by 1e-6. A test holds their
    checksum.
    """
    logits = [((i + 0.5) * 2**STEP - EDGE) / 65536 for i in range(2 * EDGE >> STEP)]
    squash = np.rint([65536 / (1 + math.exp(-x)) for x in logits])
    reciprocal = [(1 << SCALE + 17 - FINE) // (2 * i + 1) for i in range((CAP >> FINE) + 1)]
    return Tables(np.clip(squash, 1, 65535).astype(np.int32), np.array(reciprocal, np.int64).astype(np.int32))


def settings(mask: NDArray[np.bool_], group: int) -> Settings:
    """Choose what :class:`Settings` tell, from counts of mask (m, n): the density, and how far that of its parts vary.

    A factor that adds a normal deviate of variance v to the logits of its rows makes their counts vary by
    ``V + V**2 v``, where V is the variance of counts of independent entries; its start is worth the information 1 / v.
    """
    m, n = mask.shape
    total, size = int(np.count_nonzero(mask)), mask.size
    if size == 0:
        return Settings(0, 0, 0, 0)
    edges = (np.arange(1, 255) - 128) * LEVELS + LEVELS // 2 + EDGE  # between a level and the next
    level = 1 + int(np.searchsorted(tables().squash[edges >> STEP], (total << 16) // size))
    if total in (0, size):
        return Settings(level, 0, 0, 0)
    rows, columns = np.count_nonzero(mask, axis=1), np.count_nonzero(mask, axis=0)
    kernels = _kernels(mask, group, rows, total) if group else 0
    return Settings(level, _factor(rows, n, total), _factor(columns, m, total), kernels)


def _factor(counts: NDArray[np.int64], size: int, total: int) -> int:
    """The setting of a factor of rows with ``counts`` ones among ``size`` entries each."""
    number, entries = len(counts), len(counts) * size
    V = Fraction(total * (entries - total), number * entries)
    expected = number * V * Fraction(entries - size, entries - 1)  # of independent entries with that total
    excess = _powers(counts, 2) - Fraction(total * total, number) - expected
    return _setting(excess, number * V * V)


def _kernels(mask: NDArray[np.bool_], group: int, rows: NDArray[np.int64], total: int) -> int:
    """The setting of the factor of kernels, beyond those of rows and of channels."""
    parts = mask.reshape(len(mask), -1, group).view(np.uint8)
    found = np.zeros(parts.shape[:2], np.int64)
    for k in range(group):
        found += parts[:, :, k]
    channels = found.sum(axis=0)
    cross = sum(int(r) * int(k) for r, k in zip(rows, found @ channels, strict=True))
    # sums of the k-th powers of the counts that rows and channels alone predict
    power = [Fraction(_powers(rows, k) * _powers(channels, k), total**k) for k in range(5)]
    squares = _powers(found, 2) - 2 * Fraction(cross, total) + power[2]
    information = power[2] - 2 * power[3] / group + power[4] / group**2
    return _setting(squares - power[1] + power[2] / group, information)


def _powers(counts: NDArray[np.int64], k: int) -> int:
    """The exact sum of the k-th powers."""
    if int(counts.max()) ** k * counts.size < 1 << 63:
        return int((counts**k).sum())
    return sum(int(count) ** k for count in counts.reshape(-1))


def _setting(excess: Fraction, information: Fraction) -> int:
    """The k from 1 on whose ``2**(k - 3)`` is nearest to ``information / excess``; 0 if that is above the largest."""
    if excess <= 0 or information <= 0:
        return 0
    square, k = (information / excess) ** 2, 1
    while k <= MOST_SETTING and square > Fraction(2) ** (2 * (k - 3) + 1):
        k += 1
    return k % (MOST_SETTING + 1)

"""How vectors of any length are turned: the signs, the power of two, the odd part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..splitmix64 import splitmix64

MOST_ODD = 256
"""Largest odd part with a matrix of its own; m = 125 turns 25 million weights/s, m = 1009 would turn 3."""


@dataclass(frozen=True, eq=False)
class Plan:
    """``T = B_last diag(signs_last) ... B_1 diag(signs_1) P`` for vectors of length n.

    Parameters
    ----------
    order : NDArray (n,), int64
        The entry that comes first, second, ...
    signs : NDArray (steps, n), int8
        Random signs before each step.
    span : int
        Power of two: length of the butterflies.
    starts : NDArray (steps,), int64
        Where the ``span * m`` entries begin that a step turns.
    odd : NDArray (m, m), float64
        Symmetric orthonormal matrix that mixes m butterflies side by side.
    """

    order: NDArray[np.int64]
    signs: NDArray[np.int8]
    span: int
    starts: NDArray[np.int64]
    odd: NDArray[Any]


@lru_cache(maxsize=64)
def plan(n: int, seed: int) -> Plan:
    """The transform of vectors of length ``n`` that ``seed`` stands for.

    ``n = span * m``, m odd: Sylvester's Hadamard matrix of order ``span`` for each run of ``span`` entries and the
    Hartley matrix ``(cos + sin)(2 pi j k / m) / sqrt(m)``, whose entries are nowhere larger than sqrt(2 / m), across
    the runs. With m above 256, three butterflies of the largest power of two below n overlap: at the start, at the end
    and in the middle; each entry then mixes with at least half of all. The signs between them count: without, the
    last butterfly finds the steps that the first one left (an entry of a unit vector's image: 14 / sqrt(n)). So
    does the random order before them: without, the ends keep their energies (a step function: kurtosis 4.4).
    """
    span = n & -n
    starts, order = [0], np.arange(n)
    if n // span > MOST_ODD:
        span = 1 << (n.bit_length() - 1)
        order = np.argsort(splitmix64(n, seed ^ 1), kind="stable")
        starts = [0, n - span, (n - span) // 2]
        odd = np.ones((1, 1))
    else:
        m = n // span
        angle = 2 * np.pi / m * (np.outer(np.arange(m), np.arange(m)) % m)
        odd = (np.cos(angle) + np.sin(angle)) / np.sqrt(m)
    negative = (splitmix64(len(starts) * n, seed) >> np.uint64(63)).astype(np.int8)
    signs = (1 - 2 * negative).reshape(len(starts), n)
    return Plan(_frozen(order), _frozen(signs), span, _frozen(np.array(starts, np.int64)), _frozen(odd))


def _frozen(x: NDArray[Any]) -> NDArray[Any]:
    x.flags.writeable = False
    return x

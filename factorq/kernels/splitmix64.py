"""The written-down generator of everything that a file must be able to make again from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def splitmix64(count: int, seed: int) -> NDArray[np.uint64]:
    """The first ``count`` outputs of splitmix64 (Steele, Lea, Flood 2014) from the state ``seed``: (count,) uint64.

    Examples
    --------
    >>> hex(splitmix64(1, 0)[0])
    '0xe220a8397b1dcdaf'
    """
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))

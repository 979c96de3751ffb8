"""A pseudo-random permutation of any number of positions that takes no memory to store: its seed is all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...kernels.splitmix64 import splitmix64

_ROUNDS = 3


def order(size: int, seed: int) -> NDArray[np.int64]:
    """The permutation (size,): entry j is the position that comes j-th.

    A bijection of the next power of two by rounds of ``x -> a x + c`` and ``x -> x ^ (x >> h)``, applied again while it
    leads beyond ``size`` (Black and Rogaway 2002, cycle walking); a and c from splitmix64.

    Examples
    --------
    >>> order(8, 0).tolist(), order(5, 1).tolist()
    ([5, 4, 0, 3, 1, 6, 7, 2], [4, 3, 2, 1, 0])
    """
    power = max((size - 1).bit_length(), 2)
    keys = splitmix64(2 * _ROUNDS, seed).reshape(_ROUNDS, 2)
    low, half = np.uint64((1 << power) - 1), np.uint64(power // 2 + 1)

    def mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        for a, c in keys:
            x = (x * (a | np.uint64(1)) + c) & low
            x = x ^ (x >> half)
        return x

    found = mixed(np.arange(size, dtype=np.uint64))
    outside = np.flatnonzero(found >= size)
    while outside.size:
        found[outside] = mixed(found[outside])
        outside = outside[found[outside] >= size]
    return found.astype(np.int64)

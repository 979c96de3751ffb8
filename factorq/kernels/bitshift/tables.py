"""The reproduction points of the states: Gaussian quantiles in an order that keeps neighbouring paths far apart."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ..splitmix64 import splitmix64


@lru_cache(maxsize=16)
def table(bits: int, states: int) -> NDArray[np.float32]:
    """table[s] = Phi^-1((rank[s] + 1/2) / states): (states,) float32, read-only.

    The top ``bits`` bits of the rank are ``newest digit + oldest digit + h(the digits between) mod 2**bits``, so the
    branches that leave a state, and those that meet in one, reproduce one point of each of 2**bits equal shares of the
    distribution; below them stands a permutation of all digits but the oldest, so branches that part lie evenly apart.
    D of i.i.d. Gaussian weights, 2**12 states, 2 bits: .0670; a random permutation of the quantiles has .0717, random
    Gaussian numbers .0713 (which takes 2**14 states to make up for).
    """
    digit, half = states >> bits, states // 2
    normal = NormalDist()
    upper = np.array([normal.inv_cdf((i + 0.5) / states) for i in range(half, states)])
    quantiles = np.concatenate([-upper[::-1], upper])  # symmetric to the last bit
    state = np.arange(states)
    newest, kept = state & ((1 << bits) - 1), state % digit
    oldest = state // max(digit, 1 << bits)  # of short windows, what the newest digit leaves over
    between = kept >> bits
    share = (newest + oldest + splitmix64(max(1, digit >> bits), 0)[between].astype(np.int64)) % (1 << bits)
    order = np.argsort(splitmix64(digit, 1), kind="stable")
    points: NDArray[np.float32] = quantiles[share * digit + order[kept]].astype(np.float32)
    points.flags.writeable = False
    return points

"""What both twins of the grid agree on: the numbers of one grid and the scales worth trying."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FIXED = 24
"""Bits of the fixed-point copy of a group (relative to its largest value): what a float32 can hold."""

SCAN_BITS = 8
"""Up to this many bits the scan sums int32 products; above, codes are too long and errors are summed directly."""

TRIES = 1 << 16
"""Bound on the (scale, minimum) pairs tried when an asymmetric group is tested for lying on a grid exactly."""

TINIEST = 2.0**-28
"""Groups whose largest value lies below get scale 0: float16 cannot tell them from zero."""

REFITS = 3
"""Least-squares refits after the scan. Measured, N(0,1), 8 bits:
1 -> 3.831e-5, 2 -> 3.809e-5, 3 -> 3.803e-5, 6 -> 3.800e-5."""


class Plan(NamedTuple):
    """One grid s*(k - zero): codes k = base + clip(ceil(x/s + frac), low, high), values s*(k - base - half)."""

    bits: int
    digits: int
    base: float
    frac: float
    low: float
    high: float
    half: float


def plan(bits: int, zero: float) -> Plan:
    """The grid of ``bits`` and ``zero``.

    ``digits`` (significant bits of a scale) is less than float16's 11 above 13 bits, so that scale times level always
    fits the 24 bits of a float32: then what is decoded lies on its grid exactly, and projecting twice changes nothing.
    """
    base = float(math.ceil(zero - 0.5))
    half = zero - base  # 1/2 on mid-rise grids: their boundaries are whole, so that no ceil adds a rounding error
    frac = -0.5 if half == 0.0 else 0.0
    return Plan(bits, min(11, 24 - bits), base, frac, -base, 2**bits - 1 - base, half)


@cache  # geomspace costs as much as fitting some groups
def candidates(grid: Plan) -> NDArray[np.float64]:
    """Levels r (c,): a scan tries the scales max|x| / r; negative where the grid has a longer side to turn.

    Measured, N(0,1), groups of 128: 8, 16, 24, 32, 64 scales -> 3 bits 0.03520, 0.03510, 0.03509, 0.03508, 0.03508;
    8 bits 4.08e-5, 3.93e-5, 3.85e-5, 3.83e-5, 3.78e-5. At 2 bits 24 scales lie 1.3e-4 (share) above the exact optimum.
    """
    least, most = grid.low - grid.half, grid.high - grid.half
    level = max(-least, most)
    ratios = level / _shares(grid.bits, 24)
    return ratios if -least == most else np.concatenate([ratios, -ratios])


@cache
def shrinks(bits: int) -> NDArray[np.float64]:
    """Shares (c,) of the range max - min that a scan over asymmetric grids tries to cover."""
    return _shares(bits, 16)


def _shares(bits: int, count: int) -> NDArray[np.float64]:
    if bits == 1:
        return np.array([0.25, 0.5, 0.75, 1.0])
    least = {2: 0.2, 3: 0.35, 4: 0.5, 5: 0.6, 6: 0.7, 7: 0.75}.get(bits, 0.8 if bits <= SCAN_BITS else 0.95)
    return np.geomspace(least, 1.03, count if bits <= SCAN_BITS else 8)

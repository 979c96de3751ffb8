"""What a CP factorisation costs: the sweeps that are worth their time, and the memory that they take."""

from __future__ import annotations

import math
from collections.abc import Sequence

_FLOPS = 0.9e12  # under a minute of one core, with what comes before and after
_FEWEST, _MOST = 24, 160  # sweeps: fewer gain nothing; more gain a percent of the error for twice the time
_OVERHEAD = 32 << 20  # compiled kernels and what the allocator keeps, bytes


def sweeps(modes: Sequence[int], rank: int) -> int:
    """Annealed sweeps that are worth their time for an array with these modes."""
    return int(min(max(_FLOPS / flops(modes, rank), _FEWEST), _MOST))


def flops(modes: Sequence[int], rank: int) -> float:
    """Floating-point operations of a sweep: two products with X, Grams and moves of all rows, weights."""
    return 4.0 * math.prod(modes) * rank + 6.0 * sum(modes) * rank**2 + 3.0 * rank**3


def peak(modes: Sequence[int], rank: int, itemsize: int) -> int:
    """Bytes that the solver takes beside W, an estimate from above.

    A scaled copy of W; two Khatri-Rao products and their products with it, in its dtype; some nine matrices (r, r) and
    factors (n, r) of float64, or what "svd" starts from. Nothing of the size of W times r.
    """
    halves = min(math.prod(modes[:k]) + math.prod(modes[k:]) for k in range(1, len(modes)))
    squares = 8 * 9 * (rank * rank + sum(modes) * rank)
    return int(itemsize * (math.prod(modes) + 2 * halves * rank) + squares + _OVERHEAD)

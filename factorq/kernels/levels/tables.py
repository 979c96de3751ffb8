"""Fixed codebooks."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def _nf4() -> NDArray[np.float64]:
    """NF4 (QLoRA, Dettmers et al. 2023, section 3): normal quantiles, 8 positive, 0, 7 negative, over the largest.

    With p = (1 - 1/32 + 1 - 1/30) / 2 and Phi^-1 the normal quantile: positive levels Phi^-1(p + i (1/2 - p) / 8) for
    i = 0..7, negative levels -Phi^-1(p + i (1/2 - p) / 7) for i = 0..6.
    """
    p = (1 - 1 / 32 + 1 - 1 / 30) / 2
    normal = NormalDist()
    positive = [normal.inv_cdf(p + i * (0.5 - p) / 8) for i in range(8)]
    negative = [-normal.inv_cdf(p + i * (0.5 - p) / 7) for i in range(7)]
    levels = np.sort(np.asarray([*positive, 0.0, *negative])) / positive[0]
    levels.flags.writeable = False
    return levels


NF4 = _nf4()
"""(16,) float64 levels in [-1, 1] with an exact 0, read-only."""

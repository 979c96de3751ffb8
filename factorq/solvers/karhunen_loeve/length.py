"""What a quantized array costs: bits of an adaptive coder with classes, plus what the squared error is worth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

_PRIOR = 8.0  # symbols that the parametric start of a table is worth
_TABLE = 12.0  # bits for that start
_CLASSES = (4, 12)
_LARGEST = 255  # larger numbers are written as this one and a remainder


def quantized_cost(core: NDArray[Any], layout: tuple[int, int, int], step: float) -> float:
    """``R + D * 6 / (ln 2 * step**2)`` in bits for ``core`` rounded to multiples of ``step``.

    D is the squared error, weighted by the slope -dR/dD at ``D = step**2 / 12`` per number, so that cores of unequal
    errors compare. R is the length of the cheapest of: a table per plane; classes of rows or of columns by magnitude.

    Parameters
    ----------
    core : NDArray, (P, R * C)
        Coefficients.
    layout : (P, R, C)
        Planes, rows, columns.
    step : float
        The quantizer's step, above 0.
    """
    k = np.rint(core / step)
    error = core - k * step
    distortion = float(np.vdot(error, error))
    a = np.abs(k).reshape(layout)
    nonzero = float(np.count_nonzero(a))
    tail = a[a > _LARGEST]
    escapes = float((2.0 * np.log2(tail / _LARGEST) + 1.0).sum()) if tail.size else 0.0
    a = np.minimum(a, _LARGEST).astype(np.int64)
    return _magnitude_bits(a) + nonzero + escapes + 6.0 / (math.log(2.0) * step * step) * distortion


def gaussian_cost(energy: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """The same per coefficient for ideally coded Gaussians of ``energy``, by reverse water-filling."""
    relative = energy / (step * step / 12.0)
    return np.where(relative > 1.0, 0.5 * np.log2(np.maximum(relative, 1.0)) + _HALF, _HALF * relative)


_HALF = 0.5 / math.log(2.0)


def _magnitude_bits(a: NDArray[np.int64]) -> float:
    planes, rows, columns = a.shape
    best = table_bits(a.reshape(planes, -1)) if planes <= 64 else math.inf
    for groups in (a.reshape(planes * rows, columns), a.transpose(0, 2, 1).reshape(planes * columns, rows)):
        mean = groups.mean(axis=1)
        for count in _CLASSES:
            if count < len(groups):
                edges = np.unique(np.quantile(mean, np.arange(1, count) / count))
                kinds = np.searchsorted(edges, mean, side="right")
                best = min(best, table_bits(groups, kinds) + len(groups) * math.log2(count))
    return best


def table_bits(a: NDArray[np.int64], kinds: NDArray[np.int64] | None = None) -> float:
    """Bits of adaptive coding of the numbers a >= 0 (groups, n), one table for each of the ``kinds`` (groups,).

    Dirichlet-multinomial with a geometric start: -log2 of ``G(A) / G(A + n) prod_k G(A p_k + c_k) / G(A p_k)`` with the
    gamma function G, counts c_k, A = 8, and p the distribution of |k| for a two-sided geometric k of the table's mean.
    """
    kinds = np.arange(len(a)) if kinds is None else kinds
    tables, top = int(kinds.max()) + 1, int(a.max()) + 1
    flat = (a + (kinds * top)[:, None]).reshape(-1)
    counts = np.bincount(flat, minlength=tables * top).reshape(tables, top).astype(np.float64)
    counts = counts[counts.sum(axis=1) > 0]
    total = counts.sum(axis=1)
    mean = counts @ np.arange(top) / total
    ratio = (mean / (np.sqrt(1.0 + mean * mean) + 1.0))[:, None]  # 2 q / (1 - q**2) = mean
    start = np.where(np.arange(top) > 0, 2.0, 1.0) * np.maximum(ratio, 1e-9) ** np.arange(top)
    start = _PRIOR * np.maximum(start / start.sum(axis=1, keepdims=True), 1e-12)
    seen = (gammaln(start + counts) - gammaln(start)).sum(axis=1)
    nats = gammaln(_PRIOR + total) - gammaln(_PRIOR) - seen
    return float(nats.sum()) / math.log(2.0) + _TABLE * len(total)

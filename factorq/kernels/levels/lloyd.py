"""Lloyd-Max levels, on sorted points with prefix sums: an iteration costs K searches whatever the size of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import refuse

Floats = NDArray[Any]
Wide = NDArray[np.float64]

POINTS = 2**18
SAMPLE = 2**16
STRETCH, SHIFT = 1.15, 0.02


def lloyd_max(x: Floats, count: int, max_iter: int = 1000, tol: float = 1e-9) -> Wide:
    """(count,) levels that make sum_i min_k (x_i - levels_k)^2 locally smallest, not decreasing.

    Data of at most ``count`` distinct values give exactly those, the largest repeated to fill up. Up to 2**18 distinct
    values are used as they are; more are first gathered into about 2**18 runs of the sorted data, with exact counts and
    sums. The start is the quantiles of the density to the power 1/3 (Panter and Dite 1951); where a cell is left empty,
    the cell of largest error is cut in two.

    Parameters
    ----------
    x : (n,) array of float32 or float64, n >= 1, finite
    count : int, at least 1
    max_iter : int
    tol : float
        Stop when an iteration lowers the squared error by less than this share of it.

    Returns
    -------
    (count,) array of float64

    Raises
    ------
    ArgumentError
        If ``x`` is empty, not 1-D or not finite, or ``count`` is below 1.
    """
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise refuse("x", found=f"shape {x.shape}", allowed="a 1-D array of at least one finite number")
    if count < 1:
        raise refuse("count", found=count, allowed="an integer of at least 1")
    points, exact = _Points.of(x)
    if exact and points.value.size <= count:
        return np.concatenate([points.value, np.full(count - points.value.size, points.value[-1])])
    levels = points.start(count)
    last = np.inf
    for _ in range(max_iter):
        levels, error = points.step(levels)
        if not last - error > tol * error:
            break
        last = error
    return levels


@dataclass(frozen=True)
class _Points:
    """Sorted values with weights; prefix sums [0, ...] of weight, weight * value, weight * value^2."""

    value: Wide
    mass: Wide
    moment: Wide
    energy: Wide

    @classmethod
    def of(cls, x: Floats) -> tuple[_Points, bool]:
        """Points of ``x``, and whether they are exactly its distinct values."""
        ordered = np.sort(x)
        heads = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        exact = heads.size <= POINTS
        if not exact:
            heads = np.arange(0, x.size, -(-x.size // POINTS))
        weight = np.diff(heads, append=x.size).astype(np.float64)
        value = ordered[heads].astype(np.float64)
        if not exact:
            value = np.add.reduceat(ordered, heads, dtype=np.float64) / weight
        moment = weight * value
        sums = (np.concatenate([[0.0], np.cumsum(terms)]) for terms in (weight, moment, moment * value))
        return cls(value, *sums), exact

    def start(self, count: int) -> Wide:
        """Levels at the (k + 1/2) / count quantiles of density^(1/3), measured between 8 count + 257 quantiles."""
        share = np.linspace(0, self.mass[-1], 8 * count + 257)
        middle = 0.5 * (self.mass[1:] + self.mass[:-1])
        edges = np.interp(share, middle, self.value)
        weight = np.diff(edges) ** (2 / 3)  # equal masses: (1 / width)^(1/3) * width
        rising = np.concatenate([[0.0], np.cumsum(weight)])
        return np.asarray(np.interp((np.arange(count) + 0.5) / count * rising[-1], rising, edges))

    def step(self, levels: Wide) -> tuple[Wide, float]:
        """Centroids of the cells of ``levels``, and the squared error around them."""
        cuts = np.searchsorted(self.value, 0.5 * (levels[1:] + levels[:-1]), side="right")
        edges = np.concatenate([[0], cuts, [self.value.size]])
        if (edges[1:] == edges[:-1]).any():
            edges = self._repair(edges)
        mass, moment, energy = (np.diff(prefix[edges]) for prefix in (self.mass, self.moment, self.energy))
        return moment / mass, float(np.sum(energy - moment * moment / mass))

    def _repair(self, edges: NDArray[np.int64]) -> NDArray[np.int64]:
        """As many cells without empty ones: the one of largest error is cut at its centroid, again and again."""
        kept = np.unique(edges)
        while kept.size < edges.size:
            mass, moment, energy = (np.diff(prefix[kept]) for prefix in (self.mass, self.moment, self.energy))
            error = np.where(np.diff(kept) > 1, energy - moment * moment / mass, -np.inf)
            worst = int(np.argmax(error))
            cut = int(np.searchsorted(self.value, moment[worst] / mass[worst], side="right"))
            kept = np.insert(kept, worst + 1, min(max(cut, kept[worst] + 1), kept[worst + 1] - 1))
        return kept


def grouped_levels(
    x: Floats, count: int, group: int, rounds: int, fit: Callable[[Floats, Floats, int], tuple[NDArray[Any], Floats]]
) -> Wide:
    """Work of :func:`lloyd_max_grouped`; ``fit`` is :func:`fit_encode`."""
    sample = _sample(x, group, SAMPLE) if x.size else x
    if not sample.any():
        return np.linspace(-1, 1, count)
    rms = np.sqrt(np.mean(sample * sample, axis=1, keepdims=True))
    levels = lloyd_max((sample / np.where(rms > 0, rms, 1)).ravel(), count, 100, 1e-5)
    levels = np.where(levels > 0, STRETCH, 1.0) * levels + SHIFT
    best, least = _unit(levels), np.inf
    levels = best
    for _ in range(rounds):
        codes, scales = fit(sample, levels, sample.shape[1])
        scale = scales.astype(np.float64)
        error = float(np.sum((sample - scale * levels[codes]) ** 2))
        if error < least:
            best, least = levels, error
        flat = codes.ravel()
        cross = np.bincount(flat, (scale * sample).ravel(), count)
        norm = np.bincount(flat, np.broadcast_to(scale * scale, sample.shape).ravel(), count)
        levels = _unit(np.sort(np.divide(cross, norm, out=levels.copy(), where=norm > 0)))
    return best


def _sample(x: Floats, group: int, entries: int) -> Floats:
    """Take (groups, group) whole groups of ``x``, evenly spaced: at most ``entries`` numbers, at least one group."""
    width = min(group, x.shape[1])
    whole = x.shape[1] // width
    total = x.shape[0] * whole
    chosen = np.arange(0, total, -(-total // max(1, entries // width)))
    row, column = chosen // whole, chosen % whole * width
    return np.stack([x[i, j : j + width] for i, j in zip(row, column, strict=True)])


def _unit(levels: Wide) -> Wide:
    """``levels`` scaled to max|levels| = 1."""
    largest = np.max(np.abs(levels))
    return np.asarray(levels / largest) if largest > 0 else levels

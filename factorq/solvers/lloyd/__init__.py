"""Lloyd's k-means on vectors (Lloyd 1982), seeded by k-means++, with weights per entry and repair of empty clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import beside, contiguous, namespace, to_host
from ...errors import refuse
from ...kernels import lloyd as kernel

Floats = NDArray[Any]
Codes = NDArray[np.int32]
_SEEDED = 4  # points per codeword among which seeds are chosen
_MANY = 512  # points per centroid that allow to iterate on an eighth of them first
_REACH = 1.9  # below 2 no step raises the inertia; 12 steps reach .5 % less of it than 20 plain ones (K = 4096, d = 8)
_SAMPLE = 1 << 16  # errors looked at to find new places for empty clusters


@dataclass(frozen=True, eq=False)
class Clusters:
    """Centroids, the cluster of each point and how the iteration went.

    Parameters
    ----------
    centroids : NDArray, (K, d) float32
        Means of their clusters; those beyond the number of distinct points are 0.
    codes : NDArray, (n,) int32
        The nearest centroid of each point, ties to the lowest.
    inertia : tuple of float
        ``sum w (x - centroid)^2`` after each update on all points, w = 1 without weights.
    """

    centroids: Floats
    codes: Codes
    inertia: tuple[float, ...]


def kmeans(
    x: Floats,
    count: int,
    rng: np.random.Generator,
    *,
    weight: Floats | None = None,
    max_iter: int = 20,
    tol: float = 1e-4,
) -> Clusters:
    """Centroids (count, d) that make ``sum_i min_k sum_d w[i, d] (x[i, d] - c[k, d])^2`` locally smallest.

    Centroids move 1.9 times the way to the means of their points; those of the last iteration are returned. With 512
    points per centroid, ``max_iter`` iterations run on an eighth of the points and a quarter of ``max_iter`` on all.

    Parameters
    ----------
    x : NDArray, (n, d) float32, n >= 1
        Points, in units that make their squares safe. Of CuPy arrays, only places for empty clusters pass the host.
    count : int
        Number of centroids, at most 65536; more than there are distinct points is no harm.
    weight : NDArray, (n, d) float32, or None
        Nonnegative weights.
    max_iter : int
        Most iterations, at least 1.
    tol : float
        Stop when an iteration on all points lowers the inertia by less than this share of it.

    Raises
    ------
    ArgumentError
        If ``count`` is out of range, or the shapes do not fit.
    """
    if not 1 <= count <= kernel.MOST:
        raise refuse("codewords", found=count, allowed=f"1 to {kernel.MOST}")
    if weight is not None and weight.shape != x.shape:
        raise refuse("weight", found=f"shape {weight.shape}", allowed=f"{x.shape}")
    middle = _mean(x, weight)
    y = x - middle  # scores lose digits where all points are far from 0
    centroids = _start(y, count, rng)
    if len(y) >= _MANY * count:
        # 2**20 points, 256 codewords: 0.3 of the time, the same inertia to 0.05 %; with 64 points per codeword it
        # would be 0.5 % above
        size = len(y) // 8
        chosen = np.sort(rng.choice(len(y), size, replace=False, shuffle=False))
        chosen = beside(chosen, y)
        part, part_weight = y[chosen], None if weight is None else weight[chosen]
        centroids, _ = _iterate(_Points.of(part, part_weight), centroids, max_iter, 0.0)
        max_iter = -(-max_iter // 4)
    points = _Points.of(y, weight)
    centroids, inertia = _iterate(points, centroids, max_iter, tol)
    return Clusters((centroids + middle).astype(np.float32), points.nearest(centroids), inertia)


def search(x: Floats, centroids: Floats, weight: Floats | None = None) -> Codes:
    """The nearest of ``centroids`` (K, d) for each point (n, d), weighted by entry."""
    middle = _mean(centroids, None)
    return _Points.of(x - middle, weight).nearest(centroids - middle)


def means(x: Floats, codes: Codes, centroids: Floats, weight: Floats | None = None) -> Floats:
    """Weighted means (K, d) float32 of the points with each code; ``centroids`` where there are none."""
    sums, mass, _ = _Points.of(x, weight).moments(codes, len(centroids))
    return _quotient(sums, mass, centroids).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Points:
    """What a search reads of each point: ``x``, or ``(w x, w)`` where entries have weights."""

    x: Floats
    y: Floats
    weighted: bool
    energy: float

    @classmethod
    def of(cls, x: Floats, weight: Floats | None) -> _Points:
        if weight is None:
            return cls(x, contiguous(x), False, float(np.einsum("ij,ij->", x, x, dtype=np.float64)))
        y = np.concatenate([weight * x, weight], axis=1)
        return cls(x, y, True, float(np.einsum("ij,ij,ij->", weight, x, x, dtype=np.float64)))

    def nearest(self, centroids: Floats) -> Codes:
        c = centroids.astype(np.float32)
        half = 0.5 * c * c
        if self.weighted:
            table = np.concatenate([-c, half], axis=1)
            return kernel.nearest(self.y, contiguous(table.T), namespace(c).zeros(len(c), dtype=np.float32))
        return kernel.nearest(self.y, contiguous(-c.T), half.sum(axis=1))

    def moments(self, codes: Codes, count: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Sums of w x and of w by code, (K, d) each, and the number of points."""
        sums, counts = kernel.accumulate(self.y, codes, count)
        if self.weighted:
            d = self.x.shape[1]
            return sums[:, :d], sums[:, d:], counts
        return sums, np.broadcast_to(counts[:, None].astype(np.float64), sums.shape), counts


def _iterate(points: _Points, centroids: Floats, max_iter: int, tol: float) -> tuple[Floats, tuple[float, ...]]:
    """Centroids (K, d) float64 after at most ``max_iter`` updates, and the inertia at each."""
    history: list[float] = []
    updated = centroids
    for _ in range(max_iter):
        codes = points.nearest(centroids)
        sums, mass, counts = points.moments(codes, len(centroids))
        updated = _quotient(sums, mass, 0.0)
        history.append(max(points.energy - float(np.sum(updated * sums)), 0.0))
        still = bool((updated == centroids).all())
        centroids = centroids + _REACH * (updated - centroids)
        empty = np.flatnonzero(counts == 0)
        if empty.size and _repair(points, codes, updated, empty):
            centroids[empty] = updated[empty]
        elif still or (len(history) > 1 and history[-2] - history[-1] < tol * history[-2]):
            break
    return updated, tuple(history)


def _repair(points: _Points, codes: Codes, centroids: Floats, empty: NDArray[np.int64]) -> bool:
    """Put the ``empty`` centroids on the points of largest error, the first of equal ones; whether any moved."""
    stride = -(-len(codes) // _SAMPLE)
    x = points.x[::stride]
    lost = (x - centroids[codes[::stride]]) ** 2
    if points.weighted:
        lost *= points.y[::stride, x.shape[1] :]
    error = lost.sum(axis=1)
    worst = np.argsort(-error, kind="stable")
    worst = worst[error[worst] > 1e-12 * max(float(error.mean()), points.energy / len(codes) * 1e-12)]
    _, first = np.unique(to_host(x[worst]), axis=0, return_index=True)  # equal points are one place
    worst = worst[beside(np.sort(first)[: empty.size], worst)]
    centroids[empty[: worst.size]] = x[worst]
    return bool(worst.size)


def _start(y: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Seeds (count, d) float64 among a sample of the points, zeros where there are too few."""
    size = max(_SEEDED * count, 1 << 12)
    if len(y) > size:
        y = y[beside(np.sort(rng.choice(len(y), size, replace=False, shuffle=False)), y)]
    sample = contiguous(y)
    chosen = kernel.seed(sample, rng.random(count))
    centroids: Floats = namespace(y).zeros((count, y.shape[1]), dtype=np.float64)
    centroids[: len(chosen)] = sample[chosen]
    return centroids


def _mean(x: Floats, weight: Floats | None) -> Floats:
    """The weighted mean of each column, float32; 0 where there is no weight."""
    if weight is None:
        mean: Floats = x.mean(axis=0, dtype=np.float64)
        return mean.astype(np.float32)
    mass = weight.sum(axis=0, dtype=np.float64)
    moment = np.einsum("ij,ij->j", weight, x, dtype=np.float64)
    return _quotient(moment, mass, 0.0).astype(np.float32)


def _quotient(sums: Floats, mass: Floats, otherwise: Floats | float) -> Floats:
    """``sums / mass``, and ``otherwise`` where there is no mass."""
    found: Floats = np.where(mass > 0, sums / np.where(mass > 0, mass, 1.0), otherwise)
    return found

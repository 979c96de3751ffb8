"""CP factors on a grid of integers, one weight per term: annealed, then by exact moves of one entry at a time.

With the other factors and the weights w fixed, each row of a mode's factor Z is an integer least-squares problem in one
metric ``w w^T * G`` (r, r), shared by all rows; ``kernels.coordinate`` moves its entries. With all factors fixed the
weights are least squares: ``w = (G_1 * .. * G_N)^-1 diag(M^T Z)``. The scales of the modes multiply in each term, so r
weights do what a scale per column and mode would.

Plain descent from rounded real factors ends in the first local minimum. Rounding draws at a temperature T, of which
``2 s^2`` at a residual of variance s^2 per entry would be the posterior's, leaves it, and cooled over a hundred sweeps
ends far below: 64x64x9, rank 134, relative error at 4 / 3 / 2 bits .357 / .419 / .510 by descent, .310 / .350 / .443.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ...kernels.coordinate import Levels, descend, sample
from ..loop import Callback, Outcome, Progress, iterate
from .products import Model, Unfolded, hadamard

Floats = NDArray[np.float64]

# Temperature where it begins, over the residual's variance, or over what rounding added to it if that is less; it falls
# in proportion to the sweeps left. Rank 134, 4 bits, 100 sweeps, relative errors of a planted 64x64x9 / of resnet56's
# layer3.4.conv1 at half of this: .3157 / .374; at this .3143 / .370; at twice .317 / .376. At 8 bits rounding adds next
# to nothing, and heat as of the residual would undo what the real solver found (.282 -> .286).
_HEAT, _ADDED = 1.0, 4.0
_TRIAL, _COLD = 2, 0.01  # sweeps that compare starts; share of heat below which annealing changes nothing
_PASSES = 2
_LEVELS, _BEYOND = 128, np.linspace(1.05, 3.0, 24)  # most levels that the largest magnitude is tried at, and past them


@dataclass(frozen=True, eq=False)
class Rounded:
    """Factors of levels (n_k, r) and the weights (r,) of the terms."""

    factors: list[Floats]
    weights: Floats


def rounded(factors: Sequence[Floats], levels: Sequence[Levels]) -> Rounded:
    """Each column of each factor on its grid at the scale of least squared error; weights the products of scales."""
    scales = [fitted_scales(F, of_mode) for F, of_mode in zip(factors, levels, strict=True)]
    Z = [of_mode.nearest(F / s) for F, s, of_mode in zip(factors, scales, levels, strict=True)]
    alive = np.all([F.any(axis=0) for F in factors], axis=0)  # half-integers have no zero for a term that is none
    return Rounded(Z, np.where(alive, np.prod(scales, axis=0), 0.0))


def fitted_scales(F: Floats, levels: Levels) -> Floats:
    """For each column of F (n, r) about the scale of least squared error (r,); 1 for columns of zeros.

    The largest magnitude is taken for each of the levels, so that columns of integers are found again as they are, and
    for some beyond the last one, which clips it.
    """
    top = np.abs(F).max(axis=0)
    best, least = np.where(top > 0, top / levels.most, 1.0), np.full(top.shape, np.inf)
    inside = np.arange(levels.most, 0, -1.0)[:_LEVELS]
    for level in (*inside, *(levels.most * _BEYOND)):
        scale = np.where(top > 0, top / level, 1.0)
        Z = levels.nearest(F / scale)
        energy = np.einsum("ir,ir->r", Z, Z)
        scale = np.where(energy > 0, np.einsum("ir,ir->r", Z, F) / np.where(energy > 0, energy, 1.0), scale)
        lost = ((F - Z * scale) ** 2).sum(axis=0)
        better = (lost < least) & (scale > 0)
        best, least = np.where(better, scale, best), np.where(better, lost, least)
    return best


@dataclass(frozen=True, eq=False)
class Choice:
    """The integers to go on from, their relative error, their grid, and their heat in residual variances."""

    best: Rounded
    error: float
    levels: tuple[Levels, ...]
    heat: float
    note: str


def choose(X: Unfolded, starts: Sequence[Sequence[Floats]], grids: Sequence[tuple[Levels, ...]]) -> Choice:
    """The start and the grid that are best after a few sweeps of descent.

    Parameters
    ----------
    starts : sequence of real factors (n_k, r)
        Less and more regular ones: which of them round better depends on the bits.
    grids : sequence of levels, one for each mode
        Grids to choose from.
    """
    found: list[tuple[float, float, Rounded, tuple[Levels, ...]]] = []
    for factors in starts:
        real2 = X.residual2(factors, np.ones(factors[0].shape[1])) / X.norm2
        for levels in grids:
            first = descent(X, rounded(factors, levels), levels, max_iter=_TRIAL, tol=0.0, callback=None)
            found = [min([*found, (first.history[-1], real2, first.best, levels)], key=lambda entry: entry[0])]
    error, real2, best, levels = found[0]
    heat = _HEAT * min(1.0, _ADDED * max(error**2 - real2, 0.0) / error**2) if error > 0 else 0.0
    kind = "odd integers" if any(of_mode.shift for of_mode in levels) else "integers"
    note = f"{kind}, rounded to {error:.4g} (real factors {math.sqrt(real2):.4g})"
    return Choice(best, error, levels, heat if heat > _COLD else 0.0, note)


def anneal(
    X: Unfolded,
    start: Rounded,
    levels: Sequence[Levels],
    sweeps: int,
    heat: float,
    rng: np.random.Generator,
    callback: Callback | None,
) -> Rounded:
    """Integers after ``sweeps`` sweeps of rounded draws, from a temperature of ``heat`` residual variances to 0."""
    dtype = X.X.dtype  # that of the moves too: at a temperature above 0 the last digits are noise
    model = Model(X, list(start.factors), start.weights)
    variance = X.residual2(model.factors, model.weights) / X.X.size
    for count in range(sweeps):
        spread = math.sqrt(heat * variance * (1.0 - count / sweeps) / 2.0)

        def update(mode: int, M: Floats, G: Floats, spread: float = spread) -> Floats:
            w = model.weights
            Z = model.factors[mode].astype(dtype)  # a copy, and so is what follows
            noise = rng.standard_normal(Z.shape, dtype=np.float32).astype(dtype) * dtype.type(spread)
            sample(_weighted(G, w).astype(dtype), (M * w).astype(dtype), Z, noise, levels[mode])
            return Z.astype(np.float64)

        model.sweep(update)
        error2 = reweighted(model)
        variance = error2 / X.X.size
        if callback is not None:
            callback(Progress(count + 1, sweeps, math.sqrt(error2 / X.norm2)))
    return Rounded(model.factors, model.weights)


def descent(
    X: Unfolded, start: Rounded, levels: Sequence[Levels], *, max_iter: int, tol: float, callback: Callback | None
) -> Outcome[Rounded]:
    """Exact moves of entries and weights until they gain less than ``tol``; the error never rises."""

    def sweep(model: Model) -> tuple[Model, Rounded, float]:
        def update(mode: int, M: Floats, G: Floats) -> Floats:
            Z, w = model.factors[mode].copy(), model.weights
            descend(_weighted(G, w), M * w, Z, levels[mode], _PASSES)
            return Z

        model.sweep(update)
        error2 = reweighted(model)
        return model, Rounded(list(model.factors), model.weights), math.sqrt(error2 / X.norm2)

    model = Model(X, list(start.factors), start.weights)
    return iterate(sweep, model, max_iter=max_iter, tol=tol, callback=callback)


def _weighted(G: Floats, w: Floats) -> Floats:
    """``w w^T * G``, the metric of integers whose terms have these weights."""
    found = G * w
    found *= w[:, None]
    return found


def reweighted(model: Model) -> float:
    """Give the terms the weights of least squares, unless those at hand are better; the squared error."""
    kept, error2 = model.weights, model.error2()
    gram = hadamard(model.grams)
    h = np.einsum("ir,ir->r", model.M, model.factors[-1])
    used = gram.diagonal() > 0
    if not used.any():
        return error2
    found = np.zeros_like(kept)
    L = model.X.cholesky(gram[np.ix_(used, used)])
    found[used] = scipy.linalg.cho_solve((L, True), h[used])
    model.weights = found
    better = model.error2()
    if better <= error2:
        return better
    model.weights = kept
    return error2

"""The solvers of CP in the order in which they follow each other, for real factors and for integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...kernels.coordinate import Levels
from ...solvers.cp import admm, integers, real, start
from ...solvers.cp.integers import Rounded
from ...solvers.cp.products import Unfolded
from ...solvers.loop import Callback, Outcome, Progress
from ...solvers.svd import truncated_svd

Floats = NDArray[np.float64]
Grids = list[tuple[Levels, ...]]
T = TypeVar("T")

_REAL = 4  # one sweep in so many that cool has real factors


@dataclass(frozen=True, eq=False)
class Settings:
    """What a solver is told, as :class:`factorq.CP` has it; ``sweeps`` cool, ``given`` are factors to start from."""

    rank: int
    solver: str
    init: str
    given: tuple[Floats, ...] | None
    starts: int
    sweeps: int
    max_iter: int
    tol: float
    correction: float
    paper: bool
    rng: np.random.Generator
    callback: Callback | None

    @property
    def warm(self) -> int:
        """Sweeps of real factors that cool."""
        return self.sweeps // _REAL

    @property
    def before(self) -> int:
        """Most sweeps of real factors after those, where integers follow."""
        return min(self.warm or self.max_iter, self.max_iter)


class Told:
    """One count of sweeps for the callback over all stages of a solver, of which each begins where the last may end."""

    def __init__(self, callback: Callback | None, total: int) -> None:
        self.callback, self.total, self.done = callback, total, 0

    def stage(self, steps: int) -> Callback | None:
        """The callback of the next stage, of at most ``steps`` sweeps."""
        first, callback = self.done, self.callback
        self.done += steps
        if callback is None:
            return None
        return lambda progress: callback(Progress(first + progress.step, self.total, progress.objective))


@dataclass(frozen=True, eq=False)
class Real:
    """Real factors, how they were found, the relative error on the way."""

    factors: list[Floats]
    status: str
    history: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Whole:
    """Factors of levels and weights, the levels, how they were found, the relative error on the way."""

    best: Rounded
    levels: tuple[Levels, ...]
    status: str
    history: tuple[float, ...]


def real_factors(X: Unfolded, settings: Settings) -> Real:
    """Real factors of least error, the best of all starts."""
    if _is_svd(X, settings):
        return _singular(X, settings, settings.rng)[1]

    told = Told(settings.callback, settings.starts * (settings.warm + settings.max_iter))

    def solved(rng: np.random.Generator) -> tuple[float, Real]:
        factors = real.anneal(X, _start(X, settings, rng), settings.warm, rng, told.stage(settings.warm))
        found = _alternated(X, factors, settings, settings.max_iter, told)
        factors, status = found.best, found.status
        if settings.correction:
            factors = real.corrected(X, factors, settings.correction, settings.max_iter)
            status += ", terms made smaller"
        return found.history[-1], Real(factors, status, found.history)

    return _best(solved, settings)


def integer_factors(X: Unfolded, settings: Settings, bits: tuple[int, ...], grid: str) -> Whole:
    """Integers and weights by the solver of ``settings``, the best of all starts."""
    grids = _grids(bits, grid)
    solver = "paper" if settings.paper else settings.solver
    real_sweeps = 0 if _is_svd(X, settings) else settings.warm + settings.before
    whole_sweeps = {
        "paper": settings.max_iter,
        "als": 0,
        "admm": 2 * len(grids) * settings.max_iter,
        "coordinate": settings.sweeps + settings.max_iter,
    }[solver]
    told = Told(settings.callback, settings.starts * (real_sweeps + whole_sweeps))

    def solved(rng: np.random.Generator) -> tuple[float, Whole]:
        if solver == "paper":
            found = _published(X, settings, bits, rng, told)
        elif solver == "als":
            found = _simply_rounded(X, settings, grids, rng, told)
        elif solver == "admm":
            found = _multipliers(X, settings, grids, rng, told)
        else:
            found = _annealed(X, settings, grids, rng, told)
        return found.history[-1], found

    return _best(solved, settings)


def _annealed(X: Unfolded, settings: Settings, grids: Grids, rng: np.random.Generator, told: Told) -> Whole:
    chosen = integers.choose(
        X, _real_starts(X, settings, rng, told), grids
    )  # the real factors go before the rest begins
    best, note, listener = chosen.best, chosen.note, told.stage(settings.sweeps)
    if settings.sweeps and chosen.heat:
        cooled = integers.anneal(X, best, chosen.levels, settings.sweeps, chosen.heat, rng, listener)
        error = math.sqrt(X.residual2(cooled.factors, cooled.weights) / X.norm2)
        note += f", annealed in {settings.sweeps} sweeps to {error:.4g}"
        best = cooled if error < chosen.error else best
    found = _descended(X, settings, best, chosen.levels, told)
    return Whole(found.best, chosen.levels, f"{note}; {found.status}", found.history)


def _multipliers(X: Unfolded, settings: Settings, grids: Grids, rng: np.random.Generator, told: Told) -> Whole:
    """The alternating direction method on each grid, its best iterate finished by coordinate moves."""
    fine = _real_starts(X, settings, rng, told)[-1]
    found = []
    for levels in grids:
        schemes = [admm.Scheme(-of_mode.most, of_mode.most) for of_mode in levels]
        before = _by_admm(X, settings, fine, schemes, told)
        after = _descended(X, settings, before.best, levels, told)
        status = f"ADMM to {min(before.history):.4g}, then coordinate moves: {after.status}"
        found.append(Whole(after.best, levels, status, after.history))
    return min(found, key=lambda whole: whole.history[-1])


def _published(X: Unfolded, settings: Settings, bits: tuple[int, ...], rng: np.random.Generator, told: Told) -> Whole:
    schemes = [admm.Scheme.published(b) for b in bits]
    found = _by_admm(X, settings, _real_starts(X, settings, rng, told)[-1], schemes, told)
    return Whole(found.best, tuple(Levels(2.0 ** (b - 1)) for b in bits), found.status, found.history)


def _simply_rounded(X: Unfolded, settings: Settings, grids: Grids, rng: np.random.Generator, told: Told) -> Whole:
    fine = _real_starts(X, settings, rng, told)[-1]
    found = [integers.rounded(fine, levels) for levels in grids]
    errors = [math.sqrt(X.residual2(z.factors, z.weights) / X.norm2) for z in found]
    k = int(np.argmin(errors))
    return Whole(found[k], grids[k], "real factors by least squares, rounded", (errors[k],))


def _by_admm(
    X: Unfolded, settings: Settings, factors: list[Floats], schemes: list[admm.Scheme], told: Told
) -> Outcome[Rounded]:
    limit = settings.max_iter
    return admm.solve(X, factors, schemes, max_iter=limit, tol=settings.tol, callback=told.stage(limit))


def _descended(
    X: Unfolded, settings: Settings, start: Rounded, levels: tuple[Levels, ...], told: Told
) -> Outcome[Rounded]:
    limit = settings.max_iter
    return integers.descent(X, start, levels, max_iter=limit, tol=settings.tol, callback=told.stage(limit))


def _best(solved: Callable[[np.random.Generator], tuple[float, T]], settings: Settings) -> T:
    """The best of all starts, the first of equals."""
    found = [solved(rng) for rng in settings.rng.spawn(settings.starts)]
    return min(found, key=lambda pair: pair[0])[1]


def _start(X: Unfolded, settings: Settings, rng: np.random.Generator) -> list[Floats]:
    if settings.given is not None:
        return start.fitted(X, settings.given)
    made = start.singular_factors if settings.init == "svd" else start.random_factors
    return made(X, settings.rank, rng)


def _alternated(
    X: Unfolded, factors: list[Floats], settings: Settings, sweeps: int, told: Told
) -> Outcome[list[Floats]]:
    return real.alternate(X, factors, max_iter=sweeps, tol=settings.tol, callback=told.stage(sweeps))


def _real_starts(X: Unfolded, settings: Settings, rng: np.random.Generator, told: Told) -> list[list[Floats]]:
    """Real factors from which to round: more regular ones, if there are any, and last the ones of less error."""
    if _is_svd(X, settings):
        return [start.balanced(_singular(X, settings, rng)[0])]
    rough = real.anneal(X, _start(X, settings, rng), settings.warm, rng, told.stage(settings.warm))
    fine = _alternated(X, rough, settings, settings.before, told).best
    if settings.correction:
        fine = real.corrected(X, fine, settings.correction, settings.before)
    return [start.balanced(rough), start.balanced(fine)]


def _is_svd(X: Unfolded, settings: Settings) -> bool:
    """Whether the best real factors are those of an SVD: orthogonal terms, with nothing to correct."""
    return len(X.modes) == 2 and settings.rank <= min(X.modes) and settings.init != "given"


def _singular(X: Unfolded, settings: Settings, rng: np.random.Generator) -> tuple[list[Floats], Real]:
    found = truncated_svd(X.X, settings.rank, rng=rng)
    factors = [np.asarray(F, np.float64) for F in (found.U * found.s, found.Vt.T)]
    return factors, Real(factors, f"a matrix: {found.status}", (found.residual,))


def _grids(bits: tuple[int, ...], grid: str) -> Grids:
    """The grids to choose from; one bit has half-integers only."""
    half = tuple(Levels(2.0 ** (b - 1) - 0.5) for b in bits)
    whole = tuple(Levels(2.0 ** (b - 1) - (1.0 if b > 1 else 0.5)) for b in bits)
    return {"half": [half], "integer": [whole]}.get(grid) or list(dict.fromkeys([half, whole]))

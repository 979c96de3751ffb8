"""CP factors on a grid by the alternating direction method of multipliers: the published recipe, and a quicker one.

Cherniuk et al. 2023, arXiv 2308.04595, after AO-ADMM (Huang, Sidiropoulos and Liavas 2016, arXiv 1506.04209). For one
mode with the others held, G (r, r) and M (n, r) as everywhere here, ``rho = trace(G) / r`` and one Cholesky factor:

    Ht = (M + rho (H + U)) (G + rho I)^-1,    H = Q(Ht - U),    U += H - Ht,

Q the nearest point of the grid. H goes on to the next mode; U is kept from sweep to sweep. The recipe searches the step
of the grid anew in every inner iteration, runs up to 999 of them, and returns the last iterate. Otherwise here: five
inner iterations on the grid found in the first of them, U in the units of the new rho, the best iterate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from ...measure import squared_norm
from ..loop import Callback, Outcome, Progress, iterate
from .integers import Rounded
from .products import Model, Unfolded

Floats = NDArray[np.float64]

_INNER, _SETTLED = 5, 1e-8
_WINDOW, _MATRIX_WINDOW = 4, 9  # sweeps over which the published method forgives a rise
_PAPER_INNER, _PAPER_TOL, _PAPER_RISE, _PAPER_STEPS = 999, 1e-5, 1e-3, 200


@dataclass(frozen=True)
class Scheme:
    """Levels ``low .. high`` times one step per factor, and how the iteration goes."""

    low: float
    high: float
    inner: int = _INNER
    paper: bool = False

    @classmethod
    def published(cls, bits: int) -> Scheme:
        """Two's complement, the step searched at each projection, the dual variable as it is, 999 inner iterations."""
        return cls(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1, _PAPER_INNER, True)

    def step(self, x: Floats) -> float:
        """The step of least squared error among 200, as if the largest magnitude were .2 to 1.2 times what it is."""
        top = float(np.abs(x).max(initial=0.0))
        if top == 0.0:
            return 1.0
        steps = np.linspace(0.2, 1.2, _PAPER_STEPS) * top / (self.high - self.low) * 2.0
        return float(min(steps, key=lambda step: squared_norm(x - step * self.levels(x, step))))

    def levels(self, x: Floats, step: float) -> Floats:
        """The nearest levels, in units of the step."""
        shift = self.high % 1.0
        return np.clip(np.rint(x / step - shift) + shift, self.low, self.high)


@dataclass(frozen=True, eq=False)
class _State:
    model: Model
    duals: tuple[Floats, ...]
    rhos: tuple[float, ...]
    steps: tuple[float, ...]


def solve(
    X: Unfolded,
    factors: list[Floats],
    schemes: Sequence[Scheme],
    *,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> Outcome[Rounded]:
    """Factors of levels, and as weights the products of their steps, by ADMM from real ``factors``.

    Where the schemes are the published ones, the result is the last iterate, after a change of the relative error of
    less than 1e-5, a rise by 1e-3 within 4 sweeps (9 for matrices), or ``max_iter`` sweeps.
    """
    ones = np.ones(factors[0].shape[1])
    zeros = tuple(np.zeros_like(F) for F in factors)
    start = _State(Model(X, list(factors), ones), zeros, (0.0,) * len(factors), (0.0,) * len(factors))

    def sweep(state: _State) -> tuple[_State, Rounded, float]:
        model, duals, rhos, steps = state.model.copy(), list(state.duals), list(state.rhos), list(state.steps)

        def update(mode: int, M: Floats, G: Floats) -> Floats:
            scheme, rho = schemes[mode], float(np.trace(G)) / len(G)
            U = duals[mode] if scheme.paper or rho == 0.0 else duals[mode] * (rhos[mode] / rho)
            H, duals[mode], steps[mode] = _inner(model.factors[mode], U, M, G, rho, scheme)
            rhos[mode] = rho
            return H

        model.sweep(update)
        error = math.sqrt(max(model.error2(), 0.0) / X.norm2)
        pairs = zip(model.factors, steps, strict=True)
        stored = Rounded([np.rint(2.0 * H / step) / 2.0 for H, step in pairs], math.prod(steps) * ones)
        return _State(model, tuple(duals), tuple(rhos), tuple(steps)), stored, error

    if not any(scheme.paper for scheme in schemes):
        return iterate(sweep, start, max_iter=max_iter, tol=tol, callback=callback)
    return _published(sweep, start, max_iter, _MATRIX_WINDOW if len(factors) == 2 else _WINDOW, callback)


def _published(
    sweep: Callable[[_State], tuple[_State, Rounded, float]],
    start: _State,
    max_iter: int,
    window: int,
    callback: Callback | None,
) -> Outcome[Rounded]:
    state, history, why = start, [], f"stopped at max_iter={max_iter}"
    for count in range(1, max_iter + 1):
        state, stored, error = sweep(state)
        history.append(error)
        if callback is not None:
            callback(Progress(count, max_iter, error))
        if len(history) > 1 and abs(history[-2] - error) < _PAPER_TOL:
            why = f"settled after {count} sweeps"
            break
        if len(history) > window and error - history[-1 - window] > _PAPER_RISE:
            why = f"stopped after {count} sweeps since the error rose"
            break
    return Outcome(stored, tuple(history), f"ADMM as published {why}, last iterate kept (best {min(history):.4g})")


def _inner(H: Floats, U: Floats, M: Floats, G: Floats, rho: float, scheme: Scheme) -> tuple[Floats, Floats, float]:
    """H, U and the step after the inner iterations for one mode."""
    factor = scipy.linalg.cho_factor(G + (rho or 1.0) * np.eye(len(G)), lower=True)
    step = 0.0
    for _ in range(scheme.inner):
        free = scipy.linalg.cho_solve(factor, (M + rho * (H + U)).T, check_finite=False).T
        if scheme.paper or step == 0.0:
            step = scheme.step(free - U)
        before, H = H, step * scheme.levels(free - U, step)
        U = U + H - free
        primal, dual = squared_norm(H - free), squared_norm(H - before)
        if primal < _SETTLED * squared_norm(H) and dual < _SETTLED * squared_norm(U):
            break
    return H, U, step

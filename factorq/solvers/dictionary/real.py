"""Real factors: sparse codes by pursuit, the dictionary by least squares, fewer nonzeros from round to round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..damping import least_squares
from ..loop import Callback, Outcome, iterate
from .budget import Budget
from .start import Left, principal, starts
from .target import Target

Matrix = NDArray[Any]
SAMPLE = 1 << 15  # columns that atoms are learned on, at least 64 for each
_FALLING = 0.6  # share of the rounds in which the number of nonzeros falls to its target
_FRESH = 5  # rounds from one pursuit from zero to the next: in every round they gain 4 % more, in 3 times the time
_TRIAL = 10  # rounds by which several starts are compared


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Unit atoms C (m, r), codes Z (n, r) of the columns, and the price per nonzero that leads to so many.

    Codes at a price are about as many as the budget allows; :func:`polish` and ``quantize`` meet it.
    """

    C: NDArray[np.float64]
    Z: Matrix
    price: float


def sampled(target: Target, rank: int, rng: np.random.Generator) -> Target:
    """Columns enough to learn ``rank`` atoms on; the same target where that is all."""
    n = target.W.shape[1]
    most = max(SAMPLE, 64 * rank)
    return target if n <= most else target.columns(np.sort(rng.choice(n, most, replace=False)))


def learn(
    target: Target,
    rank: int,
    budget: Budget,
    rng: np.random.Generator,
    *,
    rounds: int,
    tries: int = 1,
    left: Left = principal,
) -> Dictionary:
    """Atoms and real codes for W (m, n).

    Parameters
    ----------
    rank : int
        Number of atoms, which may exceed m.
    budget : Budget
        How many nonzeros the codes may have.
    rounds : int
        Alternations.
    tries : int
        Starts that are compared after a few rounds; the best one goes on.
    left : callable
        From W (m, n) and k to its first k left singular vectors (m, k).
    """
    optimal = budget.everything and rank <= min(target.W.shape)  # the singular vectors of all columns
    part = target if optimal else sampled(target, rank, rng)
    plain = Target(part.seen)  # real atoms do not ask for more than L^T W
    if optimal:
        C = starts(plain.W, rank, 1, rng, left)[0]
        found = Dictionary(C, plain.products(C)[1], 0.0)
    else:
        candidates = starts(plain.W, rank, tries, rng, left, budget.prices)
        if tries > 1:
            trials = [_rounds(plain, C, budget, _TRIAL) for C in candidates]
            candidates = [min(trials, key=lambda d: min(polish(plain, d, budget, max_iter=2, tol=0.0).history)).C]
        found = _rounds(plain, candidates[0], budget, rounds)
    C = found.C if target.L is None else unit(part.moments(found.Z).dictionary())[0]
    if part is target and target.L is None:
        return Dictionary(C, found.Z, found.price)
    Z = np.zeros((target.W.shape[1], rank), target.W.dtype)
    G, B = target.products(C)
    budget.code(G, B, Z, found.price, restart=not budget.everything)
    return Dictionary(C, Z, found.price)


def polish(
    target: Target, found: Dictionary, budget: Budget, *, max_iter: int, tol: float, callback: Callback | None = None
) -> Outcome[tuple[Matrix, Matrix]]:
    """C (m, r) and codes Z (n, r) within the budget: least squares and descent in turn; the error does not rise."""
    G, B = target.products(found.C)
    Z = found.Z.copy()
    budget.fill(G, B, Z, found.price)
    budget.trim(G, B, Z)

    def step(Z: Matrix) -> tuple[Matrix, tuple[Matrix, Matrix], float]:
        moments = target.moments(Z)
        C = moments.dictionary()
        error2 = max(target.squared_error(C, moments, Z), 0.0)
        result = C, Z
        C, length = unit(C)
        Z = np.ascontiguousarray(Z * length.astype(Z.dtype))
        G, B = target.products(C)
        if budget.everything:
            Z = np.ascontiguousarray(_solved(G, B).astype(Z.dtype))
        else:
            budget.trim(G, B, Z, sharp=True)
        return Z, result, math.sqrt(error2 / target.energy) if target.energy > 0 else 0.0

    return iterate(step, Z, max_iter=max_iter, tol=tol, callback=callback)


def unit(C: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The atoms at length 1, and their lengths (r,); atoms of length 0 stay, with length 1."""
    length = np.linalg.norm(C, axis=0)
    length = np.where(length > 0, length, 1.0)
    return C / length, length


def _rounds(target: Target, C: NDArray[np.float64], budget: Budget, rounds: int) -> Dictionary:
    m, n = target.W.shape
    r = C.shape[1]
    everything = min(r, m) / r
    Z = np.zeros((n, r), target.W.dtype)
    price = 0.0
    for t in range(rounds):
        left = max(0.0, 1.0 - (t + 1) / (_FALLING * rounds)) ** 3
        now = Budget(budget.share + max(everything - budget.share, 0.0) * left, budget.per_column, budget.rated)
        G, B = target.products(C)
        if t == 0:
            price = now.first_price(G, B)
            if r <= m:
                Z[...] = B  # orthonormal atoms: these are all of them, at price 0
        price = now.code(G, B, Z, price, restart=t % _FRESH == 0 and r > 1)
        C, length = unit(_revived(target, target.moments(Z).dictionary(), C, Z))
        Z *= length.astype(Z.dtype)
    return Dictionary(C, Z, price)


def _revived(target: Target, C: NDArray[np.float64], before: Matrix, Z: Matrix) -> NDArray[np.float64]:
    """C with the worst fitted columns of W in place of atoms that no column uses."""
    dead = np.flatnonzero(np.linalg.norm(C, axis=0) == 0)
    if not dead.size:
        return C
    C = C.copy()
    C[:, dead] = before[:, dead]
    if len(dead) < C.shape[1]:
        rest = target.W[:, :SAMPLE] - C.astype(Z.dtype) @ Z[:SAMPLE].T
        energy = np.einsum("ij,ij->j", rest, rest, dtype=np.float64)
        worst = np.argsort(-energy, kind="stable")[: len(dead)]
        worst = worst[energy[worst] > 0]
        C[:, dead[: len(worst)]] = rest[:, worst]
    return C


def _solved(G: NDArray[np.float64], B: Matrix) -> Matrix:
    """Codes (n, r) of least squares, all entries kept."""
    return least_squares(G, B.T.astype(np.float64))[0].T

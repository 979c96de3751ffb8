"""Pruning masks that are boolean products: the largest squares under a tile-wise ``mask = A o B``, on plain arrays.

    maximise  sum over kept (i, j) of W[i, j]**2    over masks  any_f(A[i, f] and B[j, f])  of ``count`` entries

tile by tile, the number of kept entries being that of all tiles together. At a price per kept entry the tiles are
independent problems and each row of A, given B, is one of its own (:mod:`.moves`); the price is adapted from sweep to
sweep, so that tiles with more to keep keep more. Moves are drawn at a temperature that cools before the best ones
are taken: of a 1024x1024 Gaussian at S = .91, tiles 512 / 32 / 11 and rank 48 / 3 / 1 (3/16 bit each), plain descent
keeps .1978 / .2555 / .2716 of the squares, after 24 cooling sweeps they are .2002 / .2585 / .2747.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..loop import Callback, Outcome, Progress, iterate
from .meet import met
from .moves import Bools, Noise, measured, sweep
from .start import revive, thresholded
from .tiles import Tile, clear_padding, cut, joined

__all__ = ["Factors", "factorise"]

_HOT, _COLD = 0.6, 0.25  # temperatures, in prices, where cooling begins and ends
_PRICE = 0.57  # of the least square that magnitude pruning keeps: where the price of a Gaussian array ends
_FOLLOW = 0.3  # power of the ratio of counts by which the price moves
_JUMP = 2.0  # most that it moves at once


@dataclass(frozen=True, eq=False)
class Factors:
    """Binary factors of all tiles: ``left`` (columns of tiles, m, rank), ``right`` (rows of tiles, n, rank)."""

    left: Bools
    right: Bools


def factorise(
    W: NDArray[Any],
    rank: int,
    tile: Tile,
    count: int,
    *,
    anneal: int,
    max_iter: int,
    tol: float,
    rng: np.random.Generator,
    callback: Callback | None = None,
) -> Outcome[Factors]:
    """Binary factors whose product keeps at most ``count`` entries of W (m, n), and much of its squared norm.

    Parameters
    ----------
    W : NDArray, (m, n)
        Scaled to a largest magnitude near 1.
    rank : int
        Inner dimension of the boolean product of a tile.
    tile : tuple of int
        Rows and columns of a tile, at most those of W; the last ones may be ragged.
    count : int
        Entries to keep, at least 1. Fewer are kept by less than what one more factor of a row would add.
    anneal, max_iter : int
        Sweeps that cool, then most sweeps of plain descent.
    tol : float
        Least relative improvement of the error that is worth further sweeps.
    rng : Generator
    callback : callable, optional
        Told the relative error of W under the mask after each sweep.

    Returns
    -------
    Outcome
        The factors, the relative errors on the way, and how it ended.
    """
    squares = np.square(W, dtype=np.float32)
    total = float(np.sum(squares, dtype=np.float64))
    tiles = cut(squares, tile)
    least, peak = max(1e-9 * total / squares.size, 1e-37), float(squares.max())  # what is worth nothing is not kept
    price = start = max(_PRICE * float(np.partition(squares, -count, axis=None)[-count]), least)
    A, B = thresholded(tiles, price, rank, count / squares.size, rng)

    def moved(noise: Noise | None) -> float:
        """The error after a sweep; the price follows the number that is kept."""
        nonlocal price
        revive(tiles, price, A, B)
        kept, held = sweep(tiles, price, A, B, noise)
        step = (max(kept, 1) / count) ** _FOLLOW
        price = min(max(price * min(max(step, 1 / _JUMP), _JUMP), least), peak)
        return math.sqrt(max(1.0 - held * min(1.0, count / max(kept, 1)) / total, 0.0))

    def step(_: None) -> tuple[None, tuple[Bools, Bools, float], float]:
        here = price
        error = moved(None)
        return None, (A.copy(), B.copy(), here), error

    told = _Told(callback, anneal + max_iter)
    history = []
    for turn in range(anneal):
        heat = _HOT * (_COLD / _HOT) ** (turn / max(anneal - 1, 1))
        history.append(moved(Noise(rng, heat * start)))
        told(Progress(turn + 1, anneal, history[-1]))
    told.before = anneal
    outcome = iterate(step, None, max_iter=max_iter, tol=tol, callback=told)
    A, B, price = outcome.best
    clear_padding(A, B, (W.shape[0], W.shape[1]))
    A, B = met(tiles, price, A, B, count)
    held = measured(tiles, A, B)[1]
    history += [*outcome.history, math.sqrt(max(1.0 - held / total, 0.0))]
    return Outcome(Factors(*joined(A, B, (W.shape[0], W.shape[1]))), tuple(history), outcome.status)


@dataclass
class _Told:
    """A callback told of two stages as one."""

    callback: Callback | None
    steps: int
    before: int = 0

    def __call__(self, progress: Progress) -> None:
        if self.callback is not None:
            self.callback(Progress(self.before + progress.step, self.steps, progress.objective))

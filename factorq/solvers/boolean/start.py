"""Where binary factors start: non-negative factors, each cut at a quantile; and where empty ones start again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .moves import Bools, Floats, batches, covered, words

_ROUNDS, _MOST = 20, 100  # of multiplicative updates: for each factor, and in all
_NEVER_ZERO = np.float32(1e-12)


def thresholded(tiles: Floats, price: float, rank: int, share: float, rng: np.random.Generator) -> tuple[Bools, Bools]:
    """Binary factors (t, m, k) and (t, n, k) of tiles (t, m, n) of squares, whose products keep about a share of them.

    The non-negative factors are those of ``sqrt(max(squares - price, 0))``: what an entry is worth to keep. Of a
    1024x1024 Gaussian at S = .91, in tiles of 512x512 and rank 48, .2002 of the squares are kept in the end, .1972
    from those of the magnitudes, .1943 from random bits or from the best rows; in 32x32, rank 3, .2585 (.2577, .2564).
    """
    each = float(np.sqrt(1 - (1 - share) ** (1 / rank)))  # of the bits of either factor, were they independent
    A = np.zeros((len(tiles), tiles.shape[1], rank), np.bool_)
    B = np.zeros((len(tiles), tiles.shape[2], rank), np.bool_)
    for batch in batches(tiles):
        G, H = nonnegative(np.sqrt(np.maximum(tiles[batch] - np.float32(price), 0)), rank, rng)
        A[batch], B[batch] = upper(G, each), upper(H, each)
    return A, B


def revive(tiles: Floats, price: float, A: Bools, B: Bools) -> None:
    """Give factors that cover nothing, in place, what is worth most in one row: each of a tile another row of it.

    No entry that is kept is given up, so that what the mask is worth does not fall.
    """
    for batch in batches(tiles):
        a, b = A[batch], B[batch]
        empty = ~(a.any(axis=1) & b.any(axis=1))
        if not empty.any():
            continue
        V = tiles[batch] - np.float32(price)
        worth = np.where(covered(words(a), words(b)), 0, np.maximum(V, 0))
        order = np.argsort(-worth.sum(axis=2), axis=1, kind="stable")
        tile, factor = np.nonzero(empty)
        turn = (np.cumsum(empty, axis=1) - 1)[tile, factor]
        a[tile, :, factor], b[tile, :, factor] = False, False
        tile, factor, turn = (x[turn < order.shape[1]] for x in (tile, factor, turn))
        row = order[tile, turn]
        a[tile, row, factor] = True
        b[tile, :, factor] = worth[tile, row] > 0


def nonnegative(
    x: NDArray[Any], rank: int, rng: np.random.Generator, rounds: int | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Non-negative G (t, m, k), H (t, n, k) with ``x ~ G H^T`` for x (t, m, n) >= 0; their columns peak alike.

    Multiplicative updates (Lee and Seung 2001), from random numbers.
    """
    t, m, n = x.shape
    across = x.transpose(0, 2, 1)
    G = rng.random((t, m, rank), dtype=np.float32) + np.float32(0.1)
    H = rng.random((t, n, rank), dtype=np.float32) + np.float32(0.1)
    for _ in range(min(_ROUNDS * rank, _MOST) if rounds is None else rounds):
        H *= (across @ G) / (H @ (G.transpose(0, 2, 1) @ G) + _NEVER_ZERO)
        G *= (x @ H) / (G @ (H.transpose(0, 2, 1) @ H) + _NEVER_ZERO)
    balance = np.sqrt((H.max(axis=1, keepdims=True) + _NEVER_ZERO) / (G.max(axis=1, keepdims=True) + _NEVER_ZERO))
    return G * balance, H / balance


def upper(x: NDArray[Any], share: float) -> Bools:
    """Which entries of each x (m, k) of a stack are above their ``1 - share`` quantile."""
    return np.asarray(x > np.quantile(x, 1 - share, axis=(1, 2), keepdims=True))

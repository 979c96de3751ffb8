"""Where dictionaries start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]
Left = Callable[[Matrix, int], Matrix]
Prices = Callable[[Matrix], Matrix]
_STILL = 1e-5  # share of the kept energy under which a turn gains nothing
_TURNS = 40
_NOISE = 0.1  # of a drawn column, so that atoms differ where columns repeat


def principal(W: Matrix, rank: int) -> Matrix:
    """The first ``rank`` left singular vectors of W (m, n), by the Gram matrix of its shorter side."""
    W = W.astype(np.float64)
    m, n = W.shape
    vectors = np.linalg.eigh(W @ W.T if m <= n else W.T @ W)[1][:, ::-1][:, :rank]
    return np.asarray(vectors if m <= n else np.linalg.qr(W @ vectors)[0])


def turned(Y: Matrix, prices: Prices, turns: int) -> Matrix:
    """The orthogonal R (r, r) for which the entries of ``R^T Y`` worth their price hold about the most of Y (r, n).

    An orthogonal dictionary by Procrustes' problem. Singular vectors are a poor start, being dense by nature.

    Parameters
    ----------
    prices : callable
        From the squares (n, r) of the codes to what a kept one must reach: the number of them is given by that.
    turns : int
        Most rounds.
    """
    R = np.eye(len(Y), dtype=Y.dtype)
    before = 0.0
    for _ in range(turns):
        A = Y.T @ R
        squares = A * A
        Z = A * (squares >= np.asarray(prices(squares), Y.dtype))
        energy = float(np.vdot(Z, Z))
        if energy <= before * (1 + _STILL):
            break
        before = energy
        u, _, vt = np.linalg.svd(Y @ Z)
        R = u @ vt
    return R


def starts(
    W: Matrix,
    rank: int,
    count: int,
    rng: np.random.Generator,
    left: Left = principal,
    prices: Prices | None = None,
) -> list[NDArray[np.float64]]:
    """``count`` dictionaries (m, rank) of unit atoms for W (m, n), different in kind.

    The first has the left singular vectors, found by ``left`` (the default is for sides of up to about a thousand) and
    turned for ``prices`` where they are all (rank at most m), and beyond their number columns of W drawn with
    probability by their squared norms. The others are singular vectors turned at random, or all drawn (rank above m).
    """
    m, n = W.shape
    base = min(rank, m, n)
    U = left(W, base).astype(np.float64)
    found = []
    for k in range(count):
        if k == 0 and rank <= base and prices is not None:
            kept = U @ turned((U.T @ W).astype(W.dtype), prices, _TURNS)
        elif k == 0:
            kept = U
        elif rank <= base:
            kept = U @ np.linalg.qr(rng.standard_normal((base, base)))[0]
        else:
            kept = U[:, :0]
        drawn = _drawn(W, rank - kept.shape[1], rng)
        found.append(np.hstack([kept, drawn]))
    return found


def _drawn(W: Matrix, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """``count`` columns of W (m, n) with a little noise, of length 1."""
    m, n = W.shape
    weight = np.einsum("ij,ij->j", W, W, dtype=np.float64)
    total = float(weight.sum())
    picked = W[:, rng.choice(n, count, p=weight / total if total > 0 else None)].astype(np.float64)
    length = np.linalg.norm(picked, axis=0)
    picked += rng.standard_normal(picked.shape) * _NOISE * np.where(length > 0, length, 1) / np.sqrt(m)
    return np.asarray(picked / np.linalg.norm(picked, axis=0))

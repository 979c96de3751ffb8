"""Z on an entropy-coded trellis, C dense on a grid: transform coding with a learned transform (``codes="trellis"``).

The Karhunen-Loeve transform of the rows is the start. Against the decoded codes C is solved by least squares, rounded,
and the codes are solved and coded against that: atoms need not stay orthonormal, and bend to what the quantizer left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...codecs import Encoded, Grid, Path
from ...constraints.coded import Search
from ...kernels.pursuit import Alphabet
from ...measure import squared_distance
from ...solvers.damping import least_squares
from ...solvers.dictionary import Moments, Target, fitted_scales, principal, rounded_atoms
from ...solvers.loop import Callback, Outcome, iterate

Pair = tuple[Encoded, Encoded]
_SHRINK = 0.4  # of the ridge D / v, as for the terms of an SVD on a trellis


@dataclass(frozen=True, eq=False)
class _State:
    """The dictionary, and of the codes before: their moments, their step, their mean squared error."""

    C: NDArray[np.float64]
    moments: Moments | None = None
    step: float | None = None
    lost: float = 0.0


def solve(
    target: Target,
    rank: int,
    bits: int,
    search: Search,
    layout: tuple[int, int, int],
    exponent: int,
    *,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> Outcome[Pair]:
    """Stored factors of ``W * 2**exponent`` for the target's W (m, n), in as many bytes as ``search`` may take.

    Parameters
    ----------
    bits : int
        Per entry of C.
    layout : tuple of int
        Planes, rows and columns in which the codes (rank, n) are coded.
    """
    work = target.W.dtype
    of_c = Alphabet(1 << (bits - 1), -0.5, zero=False)
    C = principal(target.seen, rank)
    if target.L is not None:  # atoms that the metric sees as orthonormal
        C = np.linalg.lstsq(target.L.T, C, rcond=None)[0]

    def step(state: _State) -> tuple[_State, Pair, float]:
        scale = fitted_scales(state.C, of_c)
        whole = of_c.nearest(state.C / scale)
        if state.moments is not None:
            whole = rounded_atoms(state.moments, whole, scale, of_c)
        c = Grid.of_integers(whole, scale, bits=bits, axis=0, dtype=str(work), exponent=0)
        D = c.decode().astype(np.float64)
        G, B = target.products(D)
        variance = np.maximum(np.mean(B.astype(np.float64) ** 2, axis=0) / np.maximum(G.diagonal(), 1e-300), 1e-300)
        ridge = np.minimum(_SHRINK * state.lost / variance, 1e6) * G.diagonal()
        X = np.ascontiguousarray(least_squares(G + np.diag(ridge), B.T.astype(np.float64))[0], work)
        path: Path = search.path(X.reshape(layout), state.step)
        path = path.reshaped(X.shape)
        Z = path.decode()
        codes = np.ascontiguousarray(Z.T)
        moments = target.moments(codes)
        error2 = max(target.squared_error(D, moments, codes), 0.0)
        error = math.sqrt(error2 / target.energy) if target.energy > 0 else 0.0
        C = np.where(moments.A.diagonal() > 0, moments.dictionary(), D)
        after = _State(C, moments, path.step, squared_distance(X, Z) / X.size)
        return after, (c, path.rescaled(exponent)), error

    return iterate(step, _State(C), max_iter=max_iter, tol=tol, patience=1, callback=callback)

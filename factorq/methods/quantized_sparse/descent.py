"""Sparse codes by pursuit and both factors as integers (``solver="coordinate"``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...codecs import Codebook, Encoded, Grid, Mask
from ...constraints import Intersection, Real, Sparse
from ...measure import scaled
from ...solvers.dictionary import Budget, Codes, Dictionary, Target, learn, polish, quantize
from ...solvers.loop import Callback, Outcome
from ...solvers.svd import truncated_svd

Pair = tuple[Encoded, Encoded]
_MOST_ROUNDS = 100  # with real factors, which do not stop by themselves


def solve(
    target: Target,
    rank: int,
    bits: tuple[int, int] | None,
    budget: Budget,
    dtype: str,
    rng: np.random.Generator,
    exponent: int,
    *,
    tries: int,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> tuple[Pair, Outcome[Any]]:
    """Stored factors of ``W * 2**exponent`` for the target's W (m, n), and how the solver ended.

    Parameters
    ----------
    bits : tuple of two int, or None
        Of both factors' entries; None for numbers of ``dtype``.
    tries : int
        Starts that are compared.
    """

    def left(matrix: NDArray[Any], k: int) -> NDArray[Any]:
        return truncated_svd(matrix, k, rng=rng).U

    found = learn(target, rank, budget, rng, rounds=min(max(max_iter // 2, 1), _MOST_ROUNDS), tries=tries, left=left)
    if bits is None:
        return _real(target, found, budget, dtype, exponent, max_iter, tol, callback)
    outcome = quantize(target, found, budget, bits, rng, max_iter=max_iter, tol=tol, callback=callback)
    codes = outcome.best if target.energy > 0 else replace(outcome.best, scale=np.zeros(rank))  # +-1/2 cannot say 0
    return stored(codes, bits, str(target.W.dtype), exponent), outcome


def stored(codes: Codes, bits: tuple[int, int], dtype: str, exponent: int) -> Pair:
    """C as half-integers with a scale per atom, Z as a mask around integers; no mask where nothing is left out."""
    c = Grid.of_integers(codes.C, codes.scale, bits=bits[0], axis=0, dtype=dtype, exponent=exponent)
    Z = np.ascontiguousarray(codes.Z.T)
    if codes.shift < 0:
        one = np.ones(1)
        return c, Grid.of_integers(
            np.ascontiguousarray(codes.values(np.float64).T), one, bits=bits[1], axis=None, dtype=dtype
        )
    keep = Z != 0
    return c, Mask.encode(keep, Codebook.of_integers(Z[keep], bits=bits[1], shift=codes.shift, dtype=dtype))


def _real(
    target: Target,
    found: Dictionary,
    budget: Budget,
    dtype: str,
    exponent: int,
    max_iter: int,
    tol: float,
    callback: Callback | None,
) -> tuple[Pair, Outcome[Any]]:
    outcome = polish(target, found, budget, max_iter=max_iter, tol=tol, callback=callback)
    C, Z = outcome.best
    work = target.W.dtype
    of_z = Real(dtype) if budget.everything else Intersection(Sparse(0.0), Real(dtype))
    c = Real(dtype).encode(np.ascontiguousarray(scaled(C.astype(work), exponent)))
    return (c, of_z.encode(np.ascontiguousarray(Z.T))), outcome

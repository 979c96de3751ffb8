"""Where CP solvers start: random columns, leading singular vectors of the unfoldings, or given factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from .products import Unfolded, hadamard

Floats = NDArray[np.float64]

_MOST_GRAM = 4096  # rows of an unfolding whose Gram matrix is decomposed: beyond, vectors are drawn at random


def random_factors(X: Unfolded, rank: int, rng: np.random.Generator) -> list[Floats]:
    """Columns of normal numbers."""
    return fitted(X, [rng.standard_normal((n, rank)) for n in X.modes])


def singular_factors(X: Unfolded, rank: int, rng: np.random.Generator) -> list[Floats]:
    """For each mode the leading left singular vectors of the unfolding, random columns where the rank exceeds them.

    From the Gram matrix (n, n) of the unfolding: its r leading eigenvectors, without an SVD of the unfolding itself.
    """
    factors = []
    for mode, n in enumerate(X.modes):
        found = np.empty((n, 0))
        if n <= _MOST_GRAM:
            count = min(rank, n)
            found = scipy.linalg.eigh(_gram(X.X, mode), subset_by_index=(n - count, n - 1))[1][:, ::-1]
        drawn = rng.standard_normal((n, rank - found.shape[1])) / math.sqrt(n)
        factors.append(np.hstack([found, drawn]))
    return fitted(X, factors)


def fitted(X: Unfolded, factors: Sequence[Floats]) -> list[Floats]:
    """The factors at the common scale at which they come nearest to X in size: ``||P|| = ||X||``, columns balanced."""
    size = float(hadamard([F.T @ F for F in factors]).sum())
    scale = (X.norm2 / size) ** (0.5 / len(factors)) if size > 0 and X.norm2 > 0 else 1.0
    return balanced([F * scale for F in factors])


def balanced(factors: Sequence[Floats]) -> list[Floats]:
    """The same sum of outer products, the columns of each component of equal length in all modes."""
    lengths = [np.linalg.norm(F, axis=0) for F in factors]
    common = np.exp(sum(np.log(np.where(n > 0, n, 1.0)) for n in lengths) / len(factors))
    common = np.where(np.prod([n > 0 for n in lengths], axis=0), common, 0.0)
    return [F * (common / np.where(n > 0, n, 1.0)) for F, n in zip(factors, lengths, strict=True)]


def _gram(X: NDArray[Any], mode: int) -> Floats:
    """``X_(k) X_(k)^T`` (n_k, n_k) in float64, a block of the other modes at a time."""
    n = X.shape[mode]
    blocks = X.reshape(math.prod(X.shape[:mode]), n, -1)
    if mode == 0:
        matrix = blocks[0]
        step = max(1, (1 << 20) // n)
        return sum((_squared(matrix[:, k : k + step]) for k in range(0, matrix.shape[1], step)), start=np.zeros((n, n)))
    group = max(1, (1 << 20) // (n * blocks.shape[2]))
    return sum(
        (_squared(np.moveaxis(blocks[k : k + group], 1, 0).reshape(n, -1)) for k in range(0, len(blocks), group)),
        start=np.zeros((n, n)),
    )


def _squared(block: NDArray[Any]) -> Floats:
    wide = block.astype(np.float64)
    return np.asarray(wide @ wide.T)

"""Products of an array with the Khatri-Rao products of its factors, two matrix products for a sweep over all modes.

The modes are split in two halves, ``X (left modes, right modes)``. One product with the Khatri-Rao product of the right
factors serves all left modes, ``T (left modes, r)``, each of which contracts it with the other left factors, entry by
entry; with the left factors as they are then, one more product serves the right modes. Three ways: ``X_(1) (C . B)``
for A, and ``X_(1)^T A`` for both B and C. Nothing of the size of X times r is ever made.

512x512x9, rank 256, float32, one core: 35 ms a sweep and 18 MiB beside X, where three products with unfolded copies of
X take 261 ms and 539 MiB (TensorLy 0.9, parafac).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...forms import khatri_rao
from ...measure import squared_distance, squared_norm
from ..damping import damped_cholesky

Floats = NDArray[np.float64]
Update = Callable[[int, Floats], Floats]

_CANCELS = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-8}  # share of ||X||^2 with few digits left

_BLOCK = 1 << 20  # numbers of a Khatri-Rao product or of P at a time


class Unfolded:
    """An array X (n_1, .., n_N), N at least 2, split into left and right modes; never copied.

    Parameters
    ----------
    X : NDArray, (n_1, .., n_N), float32 or float64, C-contiguous
        Its dtype is that of the matrix products; everything of size r x r is float64.
    """

    def __init__(self, X: NDArray[Any]) -> None:
        self.X = X
        sides = [(math.prod(X.shape[:k]), math.prod(X.shape[k:])) for k in range(1, X.ndim)]
        self.cut = 1 + int(np.argmin([left + right for left, right in sides]))
        self.matrix = X.reshape(sides[self.cut - 1])
        self.norm2 = squared_norm(X)
        self.damped = 0.0  # the most that was added to a Gram matrix, over its mean diagonal

    @property
    def modes(self) -> tuple[int, ...]:
        """Sizes of the modes."""
        return self.X.shape

    def sweep(self, factors: list[Floats], update: Update) -> Floats:
        """Replace each factor in turn by ``update(mode, M)``, M (n, r) the product of X with all other factors.

        Parameters
        ----------
        factors : list of NDArray, (n_k, r) float64
            Changed in place; later modes see the new ones.

        Returns
        -------
        NDArray, (n_N, r) float64
            M of the last mode.
        """
        M = factors[-1]
        sides = (range(self.cut), range(self.cut, len(factors)))
        for side, other in (sides, sides[::-1]):
            matrix = self.matrix if side.start == 0 else self.matrix.T
            T = matrix @ khatri_rao([factors[k].astype(self.X.dtype) for k in other])
            for mode in side:
                M = _contracted(T, [self.modes[k] for k in side], [factors[k] for k in side], mode - side.start)
                factors[mode] = update(mode, M)
        return M

    def squared_error(self, factors: Sequence[Floats], weights: Floats, M: Floats, gram: Floats) -> float:
        """``||X - P||^2`` for P of ``factors`` and ``weights``, free of charge: from M of the last mode and all Grams.

        Parameters
        ----------
        M : NDArray, (n_N, r)
            Product of X with all factors but the last.
        gram : NDArray, (r, r)
            Hadamard product of the Grams of all factors: ``||P||^2 = w^T gram w``.
        """
        inner = np.einsum("ir,ir->r", M, factors[-1]) @ weights
        error2 = self.norm2 - 2.0 * float(inner) + float(weights @ gram @ weights)
        if error2 > _CANCELS[self.X.dtype] * self.norm2:
            return error2
        return self.residual2(factors, weights)

    def residual2(self, factors: Sequence[Floats], weights: Floats) -> float:
        """``||X - P||^2`` entry by entry, for some indices of the first right mode at a time."""
        left = khatri_rao(factors[: self.cut]) * weights
        first, *others = factors[self.cut :]
        inner = math.prod(self.modes[self.cut + 1 :])
        step = max(1, _BLOCK // (inner * max(left.shape)))
        total = 0.0
        for start in range(0, len(first), step):
            right = khatri_rao([first[start : start + step], *others])
            columns = slice(start * inner, start * inner + len(right))
            total += squared_distance(self.matrix[:, columns], left @ right.T)
        return total

    def cholesky(self, G: Floats) -> Floats:
        """L (r, r) with ``L L^T = G``, damped where that needs it; ``damped`` then has the most that was added."""
        L, damping = damped_cholesky(G)
        if damping:
            self.damped = max(self.damped, damping / float(G.diagonal().mean() or 1.0))
        return L


@dataclass(eq=False)
class Model:
    """``P[i, j, ..] = sum_r weights[r] A[i, r] B[j, r] ..`` on its way to X, with what a sweep keeps up to date.

    Parameters
    ----------
    X : Unfolded
        The array.
    factors : list of NDArray, (n_k, r) float64
        One per mode.
    weights : NDArray, (r,) float64
        Of the terms.
    """

    X: Unfolded
    factors: list[Floats]
    weights: Floats
    grams: list[Floats] = field(init=False)
    M: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.grams = [F.T @ F for F in self.factors]

    @property
    def rank(self) -> int:
        """Number of terms."""
        return self.weights.size

    def sweep(self, update: Callable[[int, Floats, Floats], Floats]) -> None:
        """Replace each factor in turn by ``update(mode, M, G)``.

        M (n, r) is the product of X with the other factors, G (r, r) the Hadamard product of their Grams; the weights
        are in neither.
        """

        def renew(mode: int, M: Floats) -> Floats:
            F = update(mode, M, hadamard(self.grams, mode))
            self.grams[mode] = F.T @ F
            return F

        self.M = self.X.sweep(self.factors, renew)

    def error2(self) -> float:
        """``||X - P||^2`` after a sweep."""
        return self.X.squared_error(self.factors, self.weights, self.M, hadamard(self.grams))

    def copy(self) -> Model:
        """The same, not changed by later sweeps of this one; what a factor holds is replaced, never written to."""
        other = Model.__new__(Model)
        other.__dict__.update(self.__dict__)
        other.factors, other.grams = list(self.factors), list(self.grams)
        return other


def hadamard(grams: Sequence[Floats], but: int | None = None) -> Floats:
    """Entrywise product of the Grams (r, r), without that of one mode."""
    return reduce(np.multiply, [G for k, G in enumerate(grams) if k != but])


def _contracted(T: NDArray[Any], sizes: list[int], factors: list[Floats], keep: int) -> Floats:
    """T (prod sizes, r) contracted with all ``factors`` but one, component by component: (sizes[keep], r)."""
    r = T.shape[1]
    before, after = math.prod(sizes[:keep]), math.prod(sizes[keep + 1 :])
    if factors[keep + 1 :]:
        right = khatri_rao([F.astype(T.dtype) for F in factors[keep + 1 :]])
        T = np.einsum("akr,kr->ar", T.reshape(-1, after, r), right)
    if keep:
        left = khatri_rao([F.astype(T.dtype) for F in factors[:keep]])
        T = np.einsum("kar,kr->ar", T.reshape(before, -1, r), left)
    return T.reshape(sizes[keep], r).astype(np.float64)

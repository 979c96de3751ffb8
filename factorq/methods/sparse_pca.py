"""Sparse principal components: dense scores times components with a given share of zeros."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import FLOATS
from ..constraints import Constraint, Intersection, Real, Sparse, check_sparsity
from ..errors import refuse, refuse_type
from ..forms import Chain, Fold, Folded, Form, Leaf
from ..kernels.threads import one_thread
from ..measure import binary_exponent, density_for, scaled
from ..named import settle
from ..solvers.damping import damped_cholesky
from ..solvers.dictionary.components import WIDER, Kept, dictionary, refitted, sparse_components
from ..solvers.dictionary.variance import added_variance
from ..solvers.svd import truncated_svd
from .base import Method, Problem, Solution
from .base.checks import check_rank, check_steps

_DENSITIES = (0.5, 0.25, 0.125, 1.0)  # from which a size decides the rank; the density then fills the size
_SPARSEST, _DENSEST = 0.01, 0.98
_BITMAP = 0.3  # density above which a mask is stored as one, or almost so large
_TOLD = 3  # components whose variance the status tells
Matrix = NDArray[Any]


@dataclass(frozen=True, repr=False)
class SparsePCA(Method):
    """``W (m, n) ~ C (m, r) @ Z (r, n)``: dense scores C, components Z with the share of zeros that is asked for.

    Not a penalty but the number of nonzeros is given: at most ``floor((1 - sparsity) * r * n)``. W is taken as it is;
    subtract the means of its columns first where the variance about them is meant. The components have length 1, the
    entry of largest magnitude positive, and come in the order in which each adds the most explained variance to those
    before it (the adjusted variance of Shen and Huang 2008), which the status tells. The scores are those of least
    squares. More axes are read as (shape[0], the rest). With a gram the error is
    ``trace((W - C Z) gram (W - C Z)^T)``: its diagonal decides where the nonzeros are, all of it what they are.

    Parameters
    ----------
    rank : int
        Number of components, 1 to min(m, n).
    sparsity : float
        Share of zeros in Z, 0 <= sparsity < 1; 0 gives the truncated SVD.
    per_component : bool
        The same share in every component, instead of where entries gain most.
    max_iter : int
        Rounds of the search while the number of nonzeros falls, and most rounds that follow.
    tol : float
        Least relative improvement of the error that is worth further rounds.

    Examples
    --------
    >>> import factorq as fq
    >>> W = np.outer(np.arange(1.0, 9.0), [0.0, 3.0, 0.0, 4.0])
    >>> F = fq.decompose(W, rank=1, sparsity=0.5)
    >>> F.factors[1].round(6)
    array([[0. , 0.6, 0. , 0.8]])
    """

    id: ClassVar[str] = "sparse_pca"
    drafts: ClassVar[Mapping[str, Any]] = {"rank": 1, "sparsity": 0.5}
    rank: int
    sparsity: float
    per_component: bool = False
    max_iter: int = 30
    tol: float = 1e-4

    def __post_init__(self) -> None:
        settle(self)
        check_rank(self.rank)
        check_sparsity(self.sparsity)
        check_steps(self.max_iter, self.tol)
        if not isinstance(self.per_component, bool):
            raise refuse_type("per_component", found=repr(self.per_component), allowed="True or False")

    def check(self, shape: tuple[int, ...]) -> None:
        most = min(shape[0], math.prod(shape[1:]))
        if self.rank > most:
            found = f"{self.rank} for an array of shape {shape}"
            remedy = "QuantizedSparse takes more atoms than that"
            raise refuse("rank", found=found, allowed=f"1 to {most}, the lesser side of the matrix", remedy=remedy)

    def constraints(self, dtype: str) -> tuple[Constraint, Intersection]:
        """What the entries of C and of Z may be."""
        return Real(dtype), Intersection(Sparse(self.sparsity), Real(dtype))

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        m, n = shape[0], math.prod(shape[1:])
        of_c, of_z = self.constraints(dtype)
        return of_c.nbytes((m, self.rank), dtype) + of_z.nbytes((self.rank, n), dtype)

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        found: dict[SparsePCA, None] = {}
        for density in _DENSITIES if {"rank", "sparsity"} <= free else (1.0 - self.sparsity,):
            rank = self._highest(shape, dtype, bits_per_weight, density) if "rank" in free else self.rank
            sized = replace(self, rank=rank)
            found[sized._filled(shape, dtype, bits_per_weight) if "sparsity" in free else sized] = None
        full = [method for method in found if 1.0 - _DENSEST < method.sparsity < 1.0 - _SPARSEST]
        return full or tuple(found)

    def _highest(self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, density: float) -> int:
        """The rank that about fits in a size, at least 1."""
        m, n = shape[0], math.prod(shape[1:])
        width = 8 * FLOATS[dtype].itemsize
        each = width * m + (width * density + 1) * n
        return max(1, min(m, n, int(bits_per_weight * m * n / each)))

    def _filled(self, shape: tuple[int, ...], dtype: str, bits_per_weight: float) -> SparsePCA:
        """The same with the sparsity that fills a size."""
        m, n = shape[0], math.prod(shape[1:])
        width = 8 * FLOATS[dtype].itemsize
        left = bits_per_weight * m / self.rank - width * m / n  # bits per entry of Z
        density = density_for(left, width)
        if density > _BITMAP:
            density = (left - 1.0 - 8 / (self.rank * n)) / width
        return replace(self, sparsity=round(1.0 - min(max(density, _SPARSEST), _DENSEST), 6))

    def cheaper(self) -> Method:
        return replace(self, max_iter=min(self.max_iter, 8))

    def solve(self, problem: Problem) -> Solution:
        W = problem.matrix
        exponent = binary_exponent(W)
        W = np.ascontiguousarray(scaled(W, -exponent))
        if problem.gram is not None:
            damped_cholesky(problem.gram)  # raises if it is no Gram matrix
        with one_thread():
            Z, note, history = self._components(W, problem)
            Z, told = _ordered(W, Z.astype(np.float64), problem.gram)
        of_c, of_z = self.constraints(problem.dtype)
        z = of_z.encode(np.ascontiguousarray(Z.T, W.dtype))
        C = dictionary(W, z.decode().T, problem.gram).astype(W.dtype)
        if binary_exponent(C) + exponent > np.finfo(W.dtype).maxexp:
            found = f"values up to {float(np.abs(problem.W).max()):.3g}, whose scores overflow {W.dtype}"
            raise refuse("W", found=found, allowed=f"less of the range of {W.dtype}", remedy="scale it first")
        form: Form = Chain(Leaf(of_c.encode(scaled(np.ascontiguousarray(C), exponent))), Leaf(z))
        if len(problem.W.shape) > 2:
            form = Folded(form, Fold.matrix(problem.W.shape))
        return Solution(form, f"{told}; {note}", history)

    def _kept(self, n: int) -> Kept:
        """How many of the entries of Z may be nonzero."""
        sparse = Sparse(self.sparsity)
        return Kept(sparse.count(n), each=True) if self.per_component else Kept(sparse.count(self.rank * n))

    def _components(self, W: Matrix, problem: Problem) -> tuple[Matrix, str, tuple[float, ...]]:
        """Components (n, r) of any length and order, how they were found, and the errors on the way."""
        n = W.shape[1]
        kept = self._kept(n)
        if not W.any() or kept.count == 0:
            return np.zeros((n, self.rank)), "W is zero" if kept.count else "no entry may be nonzero", ()
        if self.sparsity == 0:
            return self._dense(W, problem)
        size = np.ones(n) if problem.gram is None else np.sqrt(problem.gram.diagonal())
        weighted = W if problem.gram is None else np.ascontiguousarray(W * size.astype(W.dtype))
        if not weighted.any():
            return np.zeros((n, self.rank)), "W gram is zero", ()
        svd = truncated_svd(weighted, min(WIDER * self.rank, *W.shape), rng=problem.rng)
        leading = np.ascontiguousarray(svd.s[:, None] * svd.Vt)
        options: Any = {"max_iter": self.max_iter, "tol": self.tol, "callback": problem.callback}
        found = sparse_components(weighted, leading, self.rank, kept, **options)
        if problem.gram is None:
            return found.best, found.status, found.history
        per = np.where(size > 0, 1.0 / np.where(size > 0, size, 1.0), 0.0)
        metric = problem.gram * np.outer(per, per)  # about a unit diagonal: gradients find their way
        refit = refitted(weighted.astype(np.float64), found.best, metric, **options)
        return refit.best * per[:, None], f"on that support: {refit.status}", refit.history

    def _dense(self, W: Matrix, problem: Problem) -> tuple[Matrix, str, tuple[float, ...]]:
        """All entries kept: the right singular vectors, or what least squares make of the left ones in the metric."""
        if problem.gram is None:
            found = truncated_svd(W, self.rank, rng=problem.rng)
            return found.Vt.T, found.status, ()
        L, _ = damped_cholesky(problem.gram)
        found = truncated_svd((W @ L).astype(W.dtype), self.rank, rng=problem.rng)
        return W.T @ found.U, found.status, ()


def _ordered(W: Matrix, Z: Matrix, gram: Matrix | None) -> tuple[Matrix, str]:
    """The components (n, r) at length 1, in order, their peaks positive; and a sentence on what they explain."""
    length = np.linalg.norm(Z, axis=0)
    Z = Z / np.where(length > 0, length, 1.0)
    weighted = Z if gram is None else gram @ Z
    P = W @ weighted
    order, added = added_variance(Z.T @ weighted, P.T @ P)
    Z = Z[:, order]
    peak = Z[np.abs(Z).argmax(axis=0), np.arange(Z.shape[1])]
    Z = Z * np.where(peak < 0, -1.0, 1.0)
    energy = float(np.vdot(W, W)) if gram is None else float(np.vdot(W @ gram, W))
    share = added / energy if energy > 0 else added
    first = ", ".join(f"{s:.1%}" for s in share[:_TOLD]) + (", ..." if len(share) > _TOLD else "")
    empty = int(np.count_nonzero(length == 0))
    note = f", {empty} empty (a lower sparsity or rank fills them)" if empty else ""
    return Z, f"explained variance {float(share.sum()):.1%}: {first} by {len(share)} components{note}"

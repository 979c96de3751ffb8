"""Quantized sparse weight decomposition: a dense quantized codebook times a sparse quantized latent matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..arrays import FLOATS
from ..codecs import Encoded
from ..constraints import Constraint, Intersection, Quantized, Real, Sparse, check_sparsity, largest
from ..errors import refuse
from ..forms import Chain, Fold, Folded, Leaf
from ..measure import binary_exponent, density_for, scaled
from ..named import settle
from ..solvers.damping import damped_cholesky
from ..solvers.loop import iterate
from ..solvers.projected_gradient import Weighting, sparse_phase, start_factors, step_left, step_right
from ..solvers.svd import truncated_svd
from .base import Method, Problem, Solution, check_factor_bits, check_rank, check_steps, factor_bits

_ATOMS_PER_COLUMN, _LEAST_MOST = 4, 64  # a rank above is a slip, and would run for hours
_WIDTHS = ((4, 2), (5, 3), (6, 4), (8, 6))  # bits of C and Z that a target size may choose
Pair = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True, repr=False)
class QuantizedSparse(Method):
    """``W (m, n) ~ C (m, r) @ Z (r, n)``: C dense on a grid with a scale per atom, Z sparse on one common grid.

    Kuzmin, van Baalen, Nagel and Behboodi 2022, arXiv 2207.11048, by alternating projected gradient: first with real
    factors while the sparsity grows, then on the grids. The rows of Z are brought to one size, which the atoms carry,
    so that one scale suits them all; an entry is kept for what it gains times its atom's size. Weight SVD (no
    quantization, no sparsity), vector quantization and sparse PCA are special cases. The codebook costs
    ``r * bits / n`` bits per weight, so the array is folded to have few rows and many columns: kernel positions by
    channel pairs for a convolution, the shorter side of a matrix by the longer.

    Parameters
    ----------
    rank : int
        Number of atoms; may exceed m.
    bits : int, tuple of two int, or None
        Bits per entry of C and per kept entry of Z, 1 to 16; None keeps W's precision.
    sparsity : float
        Share of zeros in Z, 0 <= sparsity < 1.
    solver : "pgd"
        Alternating projected gradient.
    max_iter : int
        Most alternations; half as many go before them with real factors while the sparsity grows to its target.
    tol : float
        Least relative improvement that is worth further alternations.

    Examples
    --------
    >>> import factorq as fq
    >>> W = np.random.default_rng(0).standard_normal((16, 256))
    >>> F = fq.decompose(W, method=QuantizedSparse(rank=16, bits=4, sparsity=0.5))
    >>> F.bits_per_weight < 3.4, F.relative_error < 0.35
    (True, True)
    """

    id: ClassVar[str] = "quantized_sparse"
    drafts: ClassVar[Mapping[str, Any]] = {"rank": 1, "bits": 4, "sparsity": 0.5}
    rank: int
    bits: int | tuple[int, int] | None = None
    sparsity: float = 0.0
    solver: Literal["pgd"] = "pgd"
    max_iter: int = 100
    tol: float = 1e-4

    def __post_init__(self) -> None:
        settle(self)
        check_rank(self.rank)
        check_factor_bits(self.bits)
        check_sparsity(self.sparsity)
        check_steps(self.max_iter, self.tol)
        if self.solver != "pgd":
            raise refuse("solver", found=repr(self.solver), allowed="'pgd'")

    def check(self, shape: tuple[int, ...]) -> None:
        most = max(_LEAST_MOST, _ATOMS_PER_COLUMN * self.fold(shape).matrix_shape[1])
        if self.rank > most:
            found = f"{self.rank} for an array of shape {shape}"
            raise refuse("rank", found=found, allowed=f"1 to {most}: more atoms cannot pay")

    @staticmethod
    def fold(shape: tuple[int, ...]) -> Fold:
        """How an array of ``shape`` is read as a matrix with few rows and many columns."""
        if len(shape) > 2 and math.prod(shape[2:]) > 1:
            return Fold.positions(shape)
        wide = shape[0] <= math.prod(shape[1:])
        return Fold.matrix(shape) if wide else Fold.transposed(shape)

    def constraints(self, dtype: str) -> tuple[Constraint, Intersection]:
        """What the entries of C and of Z may be."""
        if self.bits is None:
            return Real(dtype), Intersection(Sparse(self.sparsity), Real(dtype))
        c, z = factor_bits(self.bits)
        values = Quantized(z, group=None, axis=None, grid="nonzero")
        return Quantized(c, group=None, axis=0, grid="midrise"), Intersection(Sparse(self.sparsity), values)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        m, n = self.fold(shape).matrix_shape
        of_c, of_z = self.constraints(dtype)
        return of_c.nbytes((m, self.rank), dtype) + of_z.nbytes((self.rank, n), dtype)

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        m, n = self.fold(shape).matrix_shape
        full = min(m, n)
        ranks = dict.fromkeys(max(1, full // k) for k in (1, 2, 4, 8)) if "rank" in free else (self.rank,)
        if "sparsity" not in free:
            yield from self._widths(shape, dtype, bits_per_weight, ranks, free)
            return
        for rank in ranks:
            for bits in _WIDTHS if "bits" in free else (self.bits,):
                c, z = factor_bits(bits) if bits is not None else 2 * (8 * FLOATS[dtype].itemsize,)
                left = (bits_per_weight * m * n - m * rank * c - 16 * (rank + 1)) / (rank * n)  # bits per entry of Z
                density = density_for(left, z)
                if 0.02 < density < 0.95:
                    yield replace(self, rank=rank, bits=bits, sparsity=round(1 - density, 6))

    def _widths(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, ranks: Iterable[int], free: frozenset[str]
    ) -> Iterable[Method]:
        """The ranks and bits whose predicted size is nearest under the target, at the given sparsity."""
        pairs = [(c, z) for c in range(2, 13) for z in range(1, 13)] if "bits" in free else [self.bits]
        tried = [replace(self, rank=rank, bits=bits) for rank in ranks for bits in pairs]
        budget = bits_per_weight * math.prod(shape) / 8
        under = [method for method in tried if method.nbytes(shape, dtype) <= budget]
        return sorted(under, key=lambda method: -method.nbytes(shape, dtype))[:4]

    def cheaper(self) -> Method:
        return replace(self, max_iter=min(self.max_iter, 8))

    def solve(self, problem: Problem) -> Solution:
        fold = self.fold(problem.W.shape)
        W = np.ascontiguousarray(fold.apply(problem.W))
        exponent = binary_exponent(W)
        W = scaled(W, -exponent)
        metric = self._metric(problem, fold)
        of_c, of_z = self.constraints(problem.dtype)

        def svd(matrix: NDArray[Any], rank: int) -> Pair:
            U = truncated_svd(matrix, rank, rng=problem.rng).U
            return U, U.T @ matrix

        C, Z = start_factors(W, self.rank, svd, problem.rng)
        start = sparse_phase(W, C, Z, of_z.sparse.count(Z.size), self.max_iter // 2, metric, largest)
        outcome = iterate(
            _alternation(W, of_c, of_z, metric, exponent), start,
            max_iter=self.max_iter, tol=self.tol, patience=10, callback=problem.callback,
        )  # fmt: skip
        c, z = outcome.best
        chain = Chain(Leaf(c), Leaf(z))
        plain = fold.split == fold.shape and fold.rows == (0,) and len(fold.shape) == 2
        reading = f"folded to {W.shape[0]}x{W.shape[1]}"
        return Solution(chain if plain else Folded(chain, fold), f"{reading}; {outcome.status}", outcome.history)

    def _metric(self, problem: Problem, fold: Fold) -> Weighting:
        if problem.gram is None:
            return Weighting()
        damped_cholesky(problem.gram)  # raises if it is no Gram matrix
        gram = (problem.gram / (np.trace(problem.gram) or 1.0)).astype(problem.W.dtype)
        if fold == Fold.matrix(fold.shape):
            return Weighting(right=gram)
        if fold == Fold.transposed(fold.shape):
            return Weighting(left=gram)
        allowed = "no gram for this fold, whose rows mix inputs with outputs"
        raise refuse("gram", found=f"quantized_sparse on {fold.shape}", allowed=allowed, remedy="use svd or scalar")


def _alternation(
    W: NDArray[Any], of_c: Constraint, of_z: Intersection, metric: Weighting, exponent: int
) -> Callable[[Pair], tuple[Pair, tuple[Encoded, Encoded], float]]:
    """One step of the alternation: gradient and projection of Z, then of C.

    The rows of Z are brought to unit size first, and the atoms carry the size: so one common scale suits all rows of Z,
    and an entry's error weighs as much as its atom is long.
    """
    norm2 = metric.squared(W)

    def step(state: Pair) -> tuple[Pair, tuple[Encoded, Encoded], float]:
        C, Z = state
        Z = step_right(W, C, Z, metric)
        length = np.linalg.norm(C, axis=0)[:, None]
        kept = of_z.sparse.mask(np.abs(Z) * length)
        size = np.sqrt((Z**2).sum(axis=1, where=kept) / np.maximum(kept.sum(axis=1), 1))[:, None]
        size = np.where(size > 0, size, 1).astype(W.dtype)
        weight = np.broadcast_to((length * size).astype(W.dtype), Z.shape)
        z = of_z.encode_weighted(Z / size, weight)
        Z = z.decode()
        C = of_c.project(step_left(W, C * size[:, 0], Z, metric))
        error = math.sqrt(metric.squared(W - C @ Z) / norm2) if norm2 > 0 else 0.0
        return (C, Z), (of_c.encode(scaled(C, exponent)), z), error

    return step

"""Quantized sparse weight decomposition: a dense quantized codebook times a sparse quantized latent matrix."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...codecs import Grid
from ...constraints import Coded, Constraint, Intersection, Quantized, Real, Sparse, check_rate, check_sparsity
from ...constraints.checks import check_bits
from ...errors import refuse, refuse_type
from ...forms import Chain, Fold, Folded, Leaf
from ...kernels.threads import one_thread
from ...measure import binary_exponent, scaled
from ...named import settle
from ...solvers.damping import damped_cholesky, explain_damping
from ...solvers.dictionary import Budget, Target
from ...solvers.loop import Outcome
from ..base import Method, Problem, Solution
from ..base.checks import check_factor_bits, check_rank, check_steps, factor_bits
from . import coded, descent, folds, gradient, sizes

_ATOMS_PER_ROW, _LEAST_MOST = 8, 64  # a rank above is a slip, and would run for hours
_CHOICES = {
    "solver": ("coordinate", "pgd"),
    "codes": ("grid", "trellis"),
    "support": ("global", "column", "rated"),
}


@dataclass(frozen=True, repr=False)
class QuantizedSparse(Method):
    """``W (m, n) ~ C (m, r) diag(s) Z (r, n)``: C dense half-integers, a scale per atom, Z sparse integers.

    Kuzmin, van Baalen, Nagel and Behboodi 2022, arXiv 2207.11048. Real factors first, while the share of zeros grows:
    Z by greedy coordinate descent (matching pursuit whose earlier choices stay open), C by least squares. Then the
    atoms are rounded, each entry taking up the errors of the others, and codes, scales and atoms follow each other
    among integers, each step the exact minimiser of its coordinate. Truncated SVD (no quantization, no sparsity),
    vector quantization (one nonzero per column) and sparse PCA (no quantization) are special cases.

    The codebook costs ``m * r * bits`` bits, so the array is folded to have few rows and many columns. Integers and
    masks are entropy-coded unless ``store="packed"`` is asked for.

    Parameters
    ----------
    rank : int
        Number of atoms; may exceed m.
    bits : int, tuple of two int, or None
        Bits per entry of C and per kept entry of Z, 1 to 16; None keeps W's precision. With ``codes="trellis"`` bits
        per entry of C and *stored* bits per entry of Z, a real number from 0.3 to 16.
    sparsity : float
        Share of zeros in Z, 0 <= sparsity < 1; more where further nonzeros gain nothing.
    solver : "coordinate" or "pgd"
        The solver above, or the plain alternating projected gradient: the baseline.
    codes : "grid" or "trellis"
        Z as a mask and integers; or all of it on an entropy-coded trellis, whose rate decides what becomes zero.
    support : "global", "column" or "rated"
        Zeros wherever they cost least; at least the same number in every column of Z; or where they cost least for the
        bits of an entropy-coded mask, in which nonzeros of rarely used atoms are dear.
    fold : str
        How the array is read as a matrix: "rows", "columns", "flat", "positions", "positions*2", "inputs/8",
        "outputs/8" and the like. "auto" is the shorter side by the longer for a matrix, for a convolution the kernel
        positions of as many inputs as hold the rank; where a target size leaves the rank free, what takes the fewest
        bytes.
    starts : int
        Dictionaries to start from, 1 to 64, compared after a few rounds.
    max_iter : int
        Most alternations; half as many go before them with real factors. Where there are more than 32,768 columns, on
        a sample of them; a few on all follow.
    tol : float
        Least relative improvement that is worth further alternations.

    Examples
    --------
    >>> import factorq as fq
    >>> W = np.random.default_rng(0).standard_normal((16, 256))
    >>> F = fq.decompose(W, method=QuantizedSparse(rank=16, bits=4, sparsity=0.5))
    >>> F.bits_per_weight < 3.4, F.relative_error < 0.25
    (True, True)
    """

    id: ClassVar[str] = "quantized_sparse"
    drafts: ClassVar[Mapping[str, Any]] = {"rank": 1, "bits": 4, "sparsity": 0.5}
    rank: int
    bits: int | tuple[int, float] | None = None
    sparsity: float = 0.0
    solver: Literal["coordinate", "pgd"] = "coordinate"
    codes: Literal["grid", "trellis"] = "grid"
    support: Literal["global", "column", "rated"] = "global"
    fold: str = "auto"
    starts: int = 1
    max_iter: int = 60
    tol: float = 1e-4

    def __post_init__(self) -> None:
        settle(self)
        check_rank(self.rank)
        check_sparsity(self.sparsity)
        check_steps(self.max_iter, self.tol)
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise refuse(name, found=repr(getattr(self, name)), allowed=" or ".join(map(repr, allowed)))
        if not isinstance(self.fold, str):
            raise refuse_type("fold", found=repr(self.fold), allowed="'auto', 'rows', 'positions' and the like")
        if isinstance(self.starts, bool) or not isinstance(self.starts, int) or not 1 <= self.starts <= 64:
            raise refuse("starts", found=repr(self.starts), allowed="an integer from 1 to 64")
        for name, plain in (("codes", "grid"), ("support", "global"), ("starts", 1)):
            given = getattr(self, name)
            if self.solver == "pgd" and given != plain:
                raise refuse(
                    "solver", found=f"'pgd' with {name}={given!r}", allowed=f"'coordinate', or {name}={plain!r}"
                )
            if self.codes == "trellis" and name != "codes" and given != plain:
                raise refuse(name, found=f"{given!r} with codes='trellis'", allowed=repr(plain))
        self._check_coded() if self.codes == "trellis" else check_factor_bits(self.bits)

    def _check_coded(self) -> None:
        if not isinstance(self.bits, tuple) or len(self.bits) != 2:
            allowed = "a pair: bits per entry of C, stored bits per entry of Z"
            raise refuse("bits", found=f"{self.bits!r} with codes='trellis'", allowed=allowed, remedy="bits=(6, 1.5)")
        check_bits(self.bits[0])
        check_rate(self.bits[1])
        if self.sparsity:
            allowed = "0: the stored bits decide what becomes zero"
            raise refuse("sparsity", found=f"{self.sparsity} with codes='trellis'", allowed=allowed)

    def check(self, shape: tuple[int, ...]) -> None:
        self._check_rank(self.folded(shape))
        if self.support == "column" and Budget(1.0 - self.sparsity).each(self.rank) < 1:
            allowed = (
                f"at most {1 - 1 / self.rank:.6g} with support='column': one nonzero of {self.rank} in each column"
            )
            raise refuse("sparsity", found=self.sparsity, allowed=allowed)

    def _check_rank(self, fold: Fold) -> None:
        m, n = fold.matrix_shape
        most = min(m, n) if self.codes == "trellis" else max(_LEAST_MOST, _ATOMS_PER_ROW * m)
        if self.rank > most:
            found = f"{self.rank} for an array of shape {fold.shape} folded to {m}x{n}"
            raise refuse("rank", found=found, allowed=f"1 to {most}: more atoms cannot pay")

    def folded(self, shape: tuple[int, ...], gram: bool = False) -> Fold:
        """How an array of ``shape`` is read as a matrix; a gram asks for the inputs as rows."""
        return folds.named(shape, self._fold(shape, gram))

    def _fold(self, shape: tuple[int, ...], gram: bool = False) -> str:
        if self.fold != "auto":
            return self.fold
        return "columns" if gram and self.solver != "pgd" else folds.default(shape, self.rank)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        m, n = self.folded(shape).matrix_shape
        if self.codes == "trellis" and isinstance(self.bits, tuple):
            c = Grid.predict((m, self.rank), self.bits[0], None, 0)
            return c + Coded(self.bits[1]).nbytes((self.rank, n), dtype)
        of_c, of_z = self._constraints(dtype)
        masked = self.sparsity > 0 or self.solver == "pgd"
        return of_c.nbytes((m, self.rank), dtype) + (of_z if masked else of_z.values).nbytes((self.rank, n), dtype)

    def _constraints(self, dtype: str) -> tuple[Constraint, Intersection]:
        """What the entries of C and of Z may be."""
        if self.bits is None:
            return Real(dtype), Intersection(Sparse(self.sparsity), Real(dtype))
        c, z = self._widths
        values = Quantized(z, group=None, axis=None, grid="nonzero")
        return Quantized(c, group=None, axis=0, grid="midrise"), Intersection(Sparse(self.sparsity), values)

    @property
    def store(self) -> str:
        return "packed" if self.bits is None else "entropy"

    @property
    def fills(self) -> bool:
        return self.codes == "trellis"

    @property
    def _widths(self) -> tuple[int, int]:
        c, z = self.bits if isinstance(self.bits, tuple) else factor_bits(self.bits)
        return int(c), int(z)

    def placed(self, W: NDArray[Any], bits_per_weight: float, free: frozenset[str], gram: bool) -> tuple[Method, str]:
        """With the fold and the rank that are expected to take the fewest bytes, where the rank is free."""
        if self.solver == "pgd" and gram:
            return self, ""
        if gram and self.fold == "auto" and "rank" not in free:
            return replace(self, fold="columns"), "the inputs of the gram as rows"
        if "rank" not in free or not W.any():
            return self, ""
        if self.codes == "grid" and not free >= {"bits", "sparsity", "codes"}:
            return replace(self, fold=self._fold(W.shape, gram)), ""  # whatever the rank will be
        only = self.fold if self.fold != "auto" else "columns" if gram else None
        with one_thread():
            found = folds.estimates(scaled(W, -binary_exponent(W)), bits_per_weight, only)
        listed = ", ".join(f"{e.fold} {e.bits:.3g}" for e in found[:4])
        why = f"fold chosen by estimated bits per weight for equal error: {listed}" if only is None else ""
        return replace(self, fold=found[0].fold, rank=found[0].rank), why

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        return sizes.versions(self, shape, dtype, bits_per_weight, free)

    def cheaper(self) -> Method:
        return replace(self, max_iter=min(self.max_iter, 2 if self.codes == "trellis" else 12), starts=1)

    def remarks(self, W: NDArray[Any], dtype: str) -> str:
        rows, columns = self.folded(W.shape).matrix_shape
        name = self._fold(W.shape)
        reading = f"folded to {rows}x{columns} ({name})"
        if self.fold != "auto":
            return reading
        kernel = name.startswith("positions")
        return f"{reading}, " + ("the fewest rows that hold the rank" if kernel else "its shorter side by the longer")

    def solve(self, problem: Problem) -> Solution:
        name = self._fold(problem.W.shape, problem.gram is not None)
        fold = folds.named(problem.W.shape, name)
        self._check_rank(fold)  # the gram may have changed the fold
        W = np.ascontiguousarray(fold.apply(problem.W))
        exponent = binary_exponent(W)
        W = scaled(W, -exponent)
        reading = f"folded to {W.shape[0]}x{W.shape[1]} ({name})"
        with one_thread():
            if self.solver == "pgd":
                metric, constraints = gradient.weighting(problem, fold), self._constraints(problem.dtype)
                limits: dict[str, Any] = {"max_iter": self.max_iter, "tol": self.tol}
                outcome: Outcome[Any] = gradient.descend(W, self.rank, constraints, metric, problem, exponent, **limits)
                c, z = outcome.best
            else:
                L, note = self._metric(problem, name)
                (c, z), outcome = self._descent(Target(W, L), problem, fold, exponent)
                reading += note
        chain = Chain(Leaf(c), Leaf(z))
        plain = fold == Fold.matrix(fold.shape) and len(fold.shape) == 2
        return Solution(chain if plain else Folded(chain, fold), f"{reading}; {outcome.status}", outcome.history)

    def _descent(self, target: Target, problem: Problem, fold: Fold, exponent: int) -> tuple[descent.Pair, Any]:
        options: dict[str, Any] = {"tol": self.tol, "callback": problem.callback}
        n = target.W.shape[1]
        if self.codes == "trellis" and isinstance(self.bits, tuple):
            search = Coded(self.bits[1]).search(self.rank * n)
            places = folds.layout(fold, self.rank)
            outcome = coded.solve(
                target, self.rank, self.bits[0], search, places, exponent, max_iter=self.max_iter, **options
            )
            return outcome.best, outcome
        budget = Budget(1.0 - self.sparsity, self.support == "column", self.support == "rated")
        bits = None if self.bits is None else self._widths
        return descent.solve(
            target, self.rank, bits, budget, problem.dtype, problem.rng, exponent,
            tries=self.starts, max_iter=self.max_iter, **options,
        )  # fmt: skip

    def _metric(self, problem: Problem, name: str) -> tuple[NDArray[Any] | None, str]:
        """The Cholesky factor of the gram over the rows of the fold."""
        if problem.gram is None:
            return None, ""
        if name != "columns":
            allowed = "no gram for this fold, whose rows are not the inputs"
            remedy = "leave fold at 'auto', or use svd or scalar"
            raise refuse("gram", found=f"quantized_sparse with fold={name!r}", allowed=allowed, remedy=remedy)
        L, damping = damped_cholesky(problem.gram / (np.trace(problem.gram) or 1.0))
        return L.astype(problem.W.dtype), f", {explain_damping(damping)}"

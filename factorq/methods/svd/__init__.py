"""Truncated singular value decomposition, with real or quantized factors, in the Frobenius or a gram metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...arrays import contiguous, to_host
from ...codecs import Encoded
from ...constraints import Coded, Constraint, Quantized, Real, check_group, check_rate
from ...constraints.checks import FEWEST_BITS, MOST_BITS
from ...errors import refuse
from ...forms import CP, Chain, Fold, Folded, Form, Leaf
from ...measure import binary_exponent, gram_error, scaled, squared_norm
from ...named import settle
from ...solvers.alternating import products, project_rows, squared_error, sweep_rows
from ...solvers.damping import damped_cholesky, explain_damping, least_squares
from ...solvers.loop import Outcome, iterate
from ...solvers.svd import SVDResult, truncated_svd
from ..base import Method, Problem, Solution
from ..base.checks import check_factor_bits, check_rank, check_steps
from . import coded_terms

_WIDTHS: tuple[int | tuple[int, int], ...] = (
    4,
    3,
    5,
    6,
    2,
    8,
    (4, 5),
    (5, 4),
    (3, 4),
    (4, 3),
    (6, 5),
    (5, 6),
    1,
    10,
    12,
)
_RATES = (1.6, 1.4, 1.9)  # bits per entry: least error on resnet56 and g2p at 0.5 and 1 bit per weight
_CANDIDATES = 3  # sizes that are solved to find the best; widths are tried in this order


@dataclass(frozen=True, repr=False)
class SVD(Method):
    """``W (m, n) ~ A (m, r) @ B (r, n)``: the best approximation of rank r; more axes as (shape[0], the rest).

    With ``bits``, both factors are quantized, and each is solved again against the already quantized other one (Saha,
    Srivastava and Pilanci 2023, arXiv 2310.11028): least squares, Babai's rounding with error feedback, and a sweep of
    exact row-wise minimisation. The best iterate is kept. With a gram, the error is
    ``trace((W - A B) gram (W - A B)^T)``.

    With ``codes="trellis"``, ``W ~ A diag(w) B^T`` where A and B are of the size of W's components, not of their roots:
    on an entropy-coded trellis with one step, each component gets the bits that its size deserves, those under the step
    none (reverse water-filling). Least squares of each factor against the stored other one correct for what was lost.

    Parameters
    ----------
    rank : int
        Number of components, 1 to min(m, n).
    bits : int, tuple of two int, or None
        Bits per entry of the factors (A, B), 1 to 16; None keeps W's precision. With ``codes="trellis"`` real numbers
        of stored bits, 0.3 to 16, to which a byte per component comes; one number is divided between the factors.
    group : int or None
        Entries of a component that share a scale; None for one scale per column of A and row of B.
    accuracy : float or None
        Relative excess of the real factors' error over the optimum that the solver must reach; 0 for the exact
        factors. None for the default of :func:`factorq.solvers.svd.truncated_svd`.
    max_iter : int
        Most alternations between quantized factors.
    tol : float
        Least relative improvement that is worth further alternations.
    codes : "grid" or "trellis"
        Evenly spaced values of ``bits`` bits, to compute with; or the least error for the stored bits.

    Examples
    --------
    >>> import factorq as fq
    >>> W = np.outer(np.arange(1.0, 9.0), np.ones(6))
    >>> fq.decompose(W, method=SVD(rank=1)).relative_error < 1e-12
    True
    """

    id: ClassVar[str] = "svd"
    drafts: ClassVar[Mapping[str, Any]] = {"rank": 1, "bits": 4}
    rank: int
    bits: float | tuple[float, float] | None = None
    group: int | None = None
    accuracy: float | None = None
    max_iter: int = 10
    tol: float = 1e-3
    codes: Literal["grid", "trellis"] = "grid"

    def __post_init__(self) -> None:
        settle(self)
        check_rank(self.rank)
        if self.codes == "trellis":
            self._check_coded()
        elif self.codes == "grid":
            check_factor_bits(self.bits)
        else:
            raise refuse("codes", found=repr(self.codes), allowed="'grid' or 'trellis'")
        check_group(self.group)
        check_steps(self.max_iter, self.tol)
        if self.accuracy is not None and not 0 <= self.accuracy < 1:
            raise refuse("accuracy", found=self.accuracy, allowed="a relative excess, 0 <= accuracy < 1, or None")

    def _check_coded(self) -> None:
        pair = self.bits if isinstance(self.bits, tuple) else (self.bits, self.bits)
        if len(pair) != 2:
            raise refuse("bits", found=self.bits, allowed="one number, or one for each of the 2 factors")
        for bits in pair:
            check_rate(bits)
        if self.group is not None:
            raise refuse("group", found=f"{self.group} with codes='trellis'", allowed="None: there are no scales")

    def check(self, shape: tuple[int, ...]) -> None:
        most = min(shape[0], math.prod(shape[1:]))
        if self.rank > most:
            found = f"{self.rank} for an array of shape {shape}"
            raise refuse("rank", found=found, allowed=f"1 to {most}, the lesser side of the matrix")

    def constraints(self, dtype: str) -> tuple[Constraint, Constraint]:
        """What the entries of A and of B may be."""
        if self.bits is None:
            return Real(dtype), Real(dtype)
        if self.codes == "trellis":
            a, b = self._rates
            return Coded(a), Coded(b)
        a, b = self._widths
        return Quantized(a, self.group, axis=0, grid="midrise"), Quantized(b, self.group, axis=1, grid="midrise")

    @property
    def _rates(self) -> tuple[float, float]:
        return self.bits if isinstance(self.bits, tuple) else (self.bits or MOST_BITS, self.bits or MOST_BITS)

    @property
    def _widths(self) -> tuple[int, int]:
        a, b = self._rates
        return int(a), int(b)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        m, n = shape[0], math.prod(shape[1:])
        a, b = self.constraints(dtype)
        found = a.nbytes((m, self.rank), dtype) + b.nbytes((self.rank, n), dtype)
        return found + (coded_terms.WEIGHTS.nbytes((1, self.rank), dtype) if self.codes == "trellis" else 0)

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        budget = bits_per_weight * math.prod(shape) / 8
        if self.codes == "trellis":
            yield from self._filled(shape, dtype, budget, free)
            return
        found: dict[float, Method] = {}
        pairs = _WIDTHS if "rank" in free else tuple((a, b) for a in range(1, 17) for b in range(1, 17))
        for bits in pairs if "bits" in free else (self.bits,):
            method = replace(self, bits=bits)
            method = method._highest(shape, dtype, budget) if "rank" in free else method
            share = method.nbytes(shape, dtype) / budget
            if share <= 1:
                found.setdefault(-round(share, 2), method)
        yield from [found[share] for share in sorted(found)[:_CANDIDATES]]

    def _highest(self, shape: tuple[int, ...], dtype: str, budget: float) -> SVD:
        """The same with the largest rank that fits in ``budget`` bytes, or with rank 1."""
        low, high = 1, min(shape[0], math.prod(shape[1:]))
        while low < high:
            middle = (low + high + 1) // 2
            fits = replace(self, rank=middle).nbytes(shape, dtype) <= budget
            low, high = (middle, high) if fits else (low, middle - 1)
        return replace(self, rank=low)

    def _filled(self, shape: tuple[int, ...], dtype: str, budget: float, free: frozenset[str]) -> Iterator[SVD]:
        """Trellis-coded versions of ``budget`` bytes: a rank for about the bits, and then the bits to the last byte."""
        m, n = shape[0], math.prod(shape[1:])
        for rate in _RATES if free >= {"rank", "bits"} else (1.0,):
            method = replace(self, bits=rate) if free >= {"rank", "bits"} else self
            method = method._highest(shape, dtype, budget) if "rank" in free else method
            a, b = method._rates
            coded = (a * m + b * n) * method.rank / 8
            for spare in (0, 1, 16, 32):  # small factors get bytes that their bits do not tell; and halves are rounded
                factor = (budget - spare - coded_terms.WEIGHTS.nbytes((1, method.rank), dtype)) / coded
                bits = a * factor, b * factor
                if not min(bits) >= FEWEST_BITS:
                    continue
                bits = min(bits[0], MOST_BITS), min(bits[1], MOST_BITS)
                filled = replace(method, bits=bits if isinstance(method.bits, tuple) else bits[0])
                if filled.nbytes(shape, dtype) <= budget:
                    yield filled
                    break

    def cheaper(self) -> Method:
        return replace(self, max_iter=min(self.max_iter, 2))

    def runs_on_gpu(self, gram: bool) -> bool:
        return self.bits is None and self.codes == "grid" and not gram

    def solve(self, problem: Problem) -> Solution:
        W = problem.matrix
        exponent = binary_exponent(W)
        W = scaled(W, -exponent)
        form: Form
        if self.codes == "trellis":
            form, turns, note = self._solve_coded(W, problem, exponent)
            return Solution(_folded(form, problem.W.shape), f"{note}; coded factors: {turns.status}", turns.history)
        A, B, notes = self._real(W, problem)
        if self.bits is None:
            factors = map(to_host, _unscale(A, B, exponent))
            a, b = (c.encode(x) for c, x in zip(self.constraints(problem.dtype), factors, strict=True))
            history: tuple[float, ...] = ()
        else:
            found = self._quantized(W, A, problem, exponent)
            if problem.gram is not None:
                found = self._better(found, W, problem, problem.gram, exponent)
            (a, b), history = found.best, found.history
            notes.append(f"quantized factors: {found.status}")
        form = Chain(Leaf(a), Leaf(b))
        return Solution(_folded(form, problem.W.shape), "; ".join(notes), history)

    def _quantized(self, W: NDArray[Any], A: NDArray[Any], problem: Problem, exponent: int) -> Outcome[Pair]:
        step = self._alternation(W, problem, exponent)
        return iterate(step, A, max_iter=self.max_iter, tol=self.tol, callback=problem.callback)

    def _better(
        self, found: Outcome[Pair], W: NDArray[Any], problem: Problem, gram: NDArray[Any], exponent: int
    ) -> Outcome[Pair]:
        """``found``, or what is found without the gram if it is better in it.

        The gram shapes the real factors and each least-squares solution, but not the rounding of B, so that at ranks
        where there is little to choose its solutions can be the worse ones.
        """
        plain = replace(problem, gram=None)
        other = self._quantized(W, self._real(W, plain)[0], plain, exponent)
        pair = (found, other)
        return min(pair, key=lambda o: gram_error(problem.matrix, o.best[0].decode() @ o.best[1].decode(), gram))

    def _real(self, W: NDArray[Any], problem: Problem) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
        """Balanced real factors: those of W, or of W L for a gram L L^T, with L taken out of B again."""
        found, notes = self._components(W, problem)
        root = np.sqrt(found.s)
        A, B = found.U * root, root[:, None] * found.Vt
        if problem.gram is not None:
            # B L^-1 would amplify what the damping hides; A^+ W is the same minimiser without an inverse of L.
            B = found.U.T @ W / np.where(root > 0, root, 1)[:, None]
        return A, B.astype(W.dtype), notes

    def _components(self, W: NDArray[Any], problem: Problem) -> tuple[SVDResult, list[str]]:
        """The components of W, or of W L for a gram L L^T."""
        if problem.gram is None:
            found = truncated_svd(W, self.rank, tol=self.accuracy, rng=problem.rng)
            return found, [found.status]
        L, damping = damped_cholesky(problem.gram)
        found = truncated_svd((W @ L).astype(W.dtype), self.rank, tol=self.accuracy, rng=problem.rng)
        return found, [found.status, explain_damping(damping)]

    def _solve_coded(self, W: NDArray[Any], problem: Problem, exponent: int) -> tuple[Form, Outcome[Pair], str]:
        """Trellis-coded terms; with a gram, also those found without it, whichever are better in it."""
        form, found, notes = self._terms(W, problem, exponent)
        if problem.gram is None:
            return form, found, notes
        other = self._terms(W, replace(problem, gram=None), exponent)
        errors = [gram_error(problem.matrix, f.dense(), problem.gram) for f in (form, other[0])]
        return (form, found, notes) if errors[0] <= errors[1] else (*other[:2], f"{notes}, better without")

    def _terms(self, W: NDArray[Any], problem: Problem, exponent: int) -> tuple[Form, Outcome[Pair], str]:
        components, notes = self._components(W, problem)
        rates = self.bits if isinstance(self.bits, tuple) else self._rates[0]
        turn, A, weights = coded_terms.start(W, components, rates, problem.gram, exponent)
        found = iterate(turn, A, max_iter=self.max_iter, tol=self.tol, callback=problem.callback)
        a, b = found.best
        return CP(Leaf(weights), (Leaf(a), Leaf(b))), found, "; ".join(notes)

    def _alternation(self, W: NDArray[Any], problem: Problem, exponent: int) -> Step:
        """One step of the alternation: quantize A, solve and quantize B against it, measure, solve A against B."""
        of_a, of_b = self.constraints(problem.dtype)
        metric = problem.gram
        norm2 = squared_norm(W) if metric is None else float(np.vdot(W @ metric, W))

        def solved_rows(G: NDArray[Any], H: NDArray[Any], bits: int) -> NDArray[Any]:
            of_row = Quantized(bits, self.group, axis=1, grid="midrise")

            def project(row: NDArray[Any]) -> NDArray[Any]:
                return np.asarray(of_row.project(row[None, :].astype(W.dtype))[0])

            return sweep_rows(project_rows(least_squares(G, H)[0], G, project), G, H, project)

        def step(A: NDArray[Any]) -> tuple[NDArray[Any], tuple[Encoded, Encoded], float]:
            Aq = of_a.project(A)
            G, H = products(Aq, W)
            B = solved_rows(G, H, self._widths[1]).astype(W.dtype)
            Bq = of_b.project(B)
            if metric is None:
                error2 = squared_error(W, norm2, Aq, G, H, Bq)
            else:
                lost = W - Aq @ Bq
                error2 = max(float(np.vdot(lost @ metric, lost)), 0.0)
            a, b = _unscale(Aq, Bq, exponent)
            G, H = products(Bq.T, W.T) if metric is None else products(Bq.T, W.T, (Bq @ metric).T.astype(W.dtype))
            A = solved_rows(G, H, self._widths[0]).T.astype(W.dtype)
            return A, (of_a.encode(a), of_b.encode(b)), math.sqrt(error2 / norm2) if norm2 > 0 else 0.0

        return step


Pair = tuple[Encoded, Encoded]
Step = Callable[[NDArray[Any]], tuple[NDArray[Any], Pair, float]]


def _folded(form: Form, shape: tuple[int, ...]) -> Form:
    """The form of a matrix as that of an array of ``shape``."""
    return form if len(shape) == 2 else Folded(form, Fold.matrix(shape))


def _unscale(A: NDArray[Any], B: NDArray[Any], exponent: int) -> Iterator[NDArray[Any]]:
    """Put the power of two that was taken out of W back, half of it into each factor."""
    half = exponent // 2
    yield contiguous(scaled(A, half))
    yield contiguous(scaled(B, exponent - half))

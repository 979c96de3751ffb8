"""CP factorisation: a sum of outer products, real or with factors of integers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...arrays import FLOATS
from ...codecs import Integers
from ...constraints import check_bits
from ...errors import refuse, refuse_type
from ...kernels.threads import one_thread
from ...measure import binary_exponent, scaled
from ...named import settle
from ...solvers.cp.products import Unfolded
from ..base import Method, Problem, Solution
from ..base.checks import check_rank, check_steps
from . import budget, stored
from .advice import advice
from .given import copied
from .reading import Axes, Modes, read, sizes
from .solve import Settings, integer_factors, real_factors

_WIDTHS = (2, 3, 4, 5, 6, 8, 1)  # bits that a size may choose: at equal bytes few bits and many terms are best
_CANDIDATES = 3
_LEAST_REDUCTION, _MOST_REDUCTION = 0.25, 1e6
_CLOSE = 0.98  # share of a target size that candidates should fill
_MOST_DIGITS = 100  # bits of a product of one entry of each factor, which float32 has to hold
_CHOICES = {
    "solver": ("coordinate", "admm", "als"),
    "grid": ("auto", "integer", "half"),
    "modes": ("auto", "kernel", "all"),
    "init": ("random", "svd", "given"),
}


@dataclass(frozen=True, repr=False)
class CP(Method):
    """``W[i, j, ..] ~ sum_r w[r] A[i, r] B[j, r] ..``: a sum of outer products, real or on a grid of integers.

    A convolution's weight (O, I, kh, kw) is read as (O, I, kh * kw): three small convolutions then take its place
    (:meth:`factorq.Factorization.to_conv`), at a fraction of its multiplications where the rank is low. With ``bits``
    the factors are integers, found together with the one weight per term rather than rounded afterwards (the problem of
    Cherniuk et al. 2023, arXiv 2308.04595): alternating least squares, annealed with a ridge, then noisy rounding
    of one entry at a time, in the metric of the Gram matrices, that cools to exact moves.

    To store an array, plain quantization is usually better at equal bytes; ``factorq.explain`` says where.

    Parameters
    ----------
    rank : int, optional
        Number of terms; may exceed every axis.
    bits : int, tuple of int, or None
        Bits per entry of the factors, 1 to 16, or one number for each mode; None keeps W's precision.
    solver : "coordinate", "admm" or "als"
        The solver above; the alternating direction method of the paper, finished by coordinate moves; or real factors,
        rounded at the end: the baseline.
    reduction : float, optional
        In place of ``rank``: parameters of W over those of the factors, 0.25 to 1e6; the rank follows from the shape.
    grid : "auto", "integer" or "half"
        Integers with 0, -7 .. 7 in 4 bits; odd integers, -15 .. 15; or whichever of them rounds better.
    modes : "auto", "kernel" or "all"
        Trailing axes read as one mode, kernel positions, or every axis a mode of its own; "auto" is "kernel" for arrays
        of 4 or 5 axes whose trailing ones are at most 16 long, equal or 1.
    init : "random", "svd", or CPTensor
        Random columns, leading singular vectors of the unfoldings, or a TensorLy ``CPTensor``, a pair (weights,
        factors), of W with its modes as read; never changed, and taken at the size of W.
    starts : int
        Random starts, 1 to 64, the best of which is kept.
    anneal : int, optional
        Sweeps that cool: for integers so many, after a fourth as many with real factors; for real factors that fourth
        alone. 0 for none. None for 24 to 160, by the size of the problem: fewer where they would take minutes.
    correction : float
        Share by which the error of real factors may rise to make their terms smaller (error-preserving correction);
        the terms of a matrix are orthogonal already.
    paper : bool
        With ``solver="admm"``: as published, with up to 999 inner iterations and the last iterate, from the real
        factors of this solver; its own tolerances count instead of ``tol``. Takes hours for large layers.
    max_iter : int
        Most sweeps after those that cool, and most sweeps of ADMM.
    tol : float
        Least relative improvement that is worth further sweeps.
    given : tuple of arrays
        Not to be set: the factors that ``init`` named, which is then "given". They are no part of the settings.

    Examples
    --------
    >>> import factorq as fq
    >>> rng = np.random.default_rng(0)
    >>> A, B, C = (rng.integers(-7, 8, (n, 3)).astype(float) for n in (8, 7, 6))
    >>> F = fq.decompose(np.einsum("ir,jr,kr->ijk", A, B, C), method=CP(rank=3, bits=4))
    >>> F.relative_error < 1e-6
    True
    """

    id: ClassVar[str] = "cp"
    drafts: ClassVar[Mapping[str, Any]] = {"rank": 1, "bits": 4}
    retuned: ClassVar[frozenset[str]] = frozenset({"rank"})
    takes_gram: ClassVar[bool] = False
    rank: int | None = None
    bits: int | tuple[int, ...] | None = None
    solver: Literal["coordinate", "admm", "als"] = "coordinate"
    reduction: float | None = None
    grid: Literal["auto", "integer", "half"] = "auto"
    modes: Modes = "auto"
    init: Any = "random"
    starts: int = 1
    anneal: int | None = None
    correction: float = 0.0
    paper: bool = False
    max_iter: int = 100
    tol: float = 1e-4
    given: Any = field(default=None, compare=False, metadata={"buffer": True})  # factors, not part of the settings

    def __post_init__(self) -> None:
        settle(self)
        if not isinstance(self.init, str):
            object.__setattr__(self, "given", copied(self.init))
            object.__setattr__(self, "init", "given")
        elif self.given is not None and (self.init != "given" or not isinstance(self.given, tuple)):
            raise refuse("given", found=type(self.given).__name__, allowed="None: init=factors sets it")
        if (self.rank is None) == (self.reduction is None):
            found = "neither it nor a reduction" if self.rank is None else f"{self.rank} and a reduction"
            raise refuse("rank", found=found, allowed="one of the two", remedy="CP(rank=64), or CP(reduction=2.0)")
        if self.rank is not None:
            check_rank(self.rank)
        self._check_numbers()
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                raise refuse(name, found=repr(value), allowed=" or ".join(map(repr, allowed)))
        for bits in self.bits if isinstance(self.bits, tuple) else (self.bits,):
            if bits is not None:
                check_bits(bits)
            elif isinstance(self.bits, tuple):
                raise refuse("bits", found=self.bits, allowed="one integer from 1 to 16, or one for each mode")
        if self.paper and (self.solver != "admm" or self.bits is None):
            raise refuse("paper", found=True, allowed="False, except with solver='admm' and bits")
        if self.solver == "admm" and self.bits is None:
            raise refuse("solver", found="'admm' without bits", allowed="'als' or 'coordinate' for real factors")

    def _check_numbers(self) -> None:
        check_steps(self.max_iter, self.tol)
        if isinstance(self.starts, bool) or not isinstance(self.starts, int) or not 1 <= self.starts <= 64:
            raise refuse("starts", found=repr(self.starts), allowed="an integer from 1 to 64")
        anneal = self.anneal
        if anneal is not None and (isinstance(anneal, bool) or not isinstance(anneal, int) or anneal < 0):
            raise refuse("anneal", found=repr(anneal), allowed="an integer of at least 0, or None")
        reduction = 1.0 if self.reduction is None else self.reduction
        for name, value in (("reduction", reduction), ("correction", self.correction)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise refuse_type(name, found=repr(value), allowed="a number")
        if not _LEAST_REDUCTION <= reduction <= _MOST_REDUCTION:
            allowed = f"a number from {_LEAST_REDUCTION:g} to {_MOST_REDUCTION:g}, such as 2.0 for half the weights"
            raise refuse("reduction", found=reduction, allowed=allowed)
        if not 0 <= self.correction < 1:
            raise refuse("correction", found=self.correction, allowed="a share of the error, 0 <= correction < 1")
        if not isinstance(self.paper, bool):
            raise refuse_type("paper", found=repr(self.paper), allowed="True or False")

    # --- for a shape --------------------------------------------------------------------------------------------------

    def axes(self, shape: tuple[int, ...]) -> Axes:
        """The axes of an array of ``shape``, grouped by mode."""
        return read(shape, self.modes)

    def terms(self, shape: tuple[int, ...]) -> int:
        """The number of terms for an array of ``shape``: the rank, or what the reduction leaves, at least 1."""
        if self.rank is not None:
            return self.rank
        modes = sizes(self.axes(shape))
        return max(1, int(math.prod(modes) / sum(modes) / (self.reduction or 1.0)))

    def widths(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Bits per entry for each mode of an array of ``shape``; None for real factors."""
        modes = len(self.axes(shape))
        if self.bits is None:
            return None
        return self.bits if isinstance(self.bits, tuple) else (self.bits,) * modes

    def check(self, shape: tuple[int, ...]) -> None:
        if self.init == "given" and self.given is None:
            found = "'given' without factors, as in a method read from a file"
            raise refuse("init", found=found, allowed="'random', 'svd' or a CPTensor")
        axes = self.axes(shape)
        modes = sizes(axes)
        reading = f"an array of shape {shape}, read as {'x'.join(map(str, modes))}"
        most = self._most(modes)
        if self.terms(shape) > most:
            remedy = "no more terms than that can pay"
            raise refuse("rank", found=f"{self.terms(shape)} for {reading}", allowed=f"1 to {most}", remedy=remedy)
        if sum(self.widths(shape) or ()) > _MOST_DIGITS:
            found = f"{self.bits} for the {len(modes)} modes of {reading}"
            raise refuse("bits", found=found, allowed=f"at most {_MOST_DIGITS} bits over all modes")
        if isinstance(self.bits, tuple) and len(self.bits) != len(modes):
            raise refuse(
                "bits", found=self.bits, allowed=f"one integer, or {len(modes)}, one for each mode of {reading}"
            )
        if self.given is not None:
            shapes = [F.shape for F in self.given]
            want = [(n, self.terms(shape)) for n in modes]
            if shapes != want:
                raise refuse("init", found=f"factors {shapes}", allowed=f"{want} for {reading}")

    @staticmethod
    def _most(modes: tuple[int, ...]) -> int:
        """The most terms: factors of four times W's numbers, or 64 terms, or what any W can be written with."""
        whole = math.prod(modes)
        return max(64, int(whole / sum(modes) / _LEAST_REDUCTION), whole // max(modes))

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return self._nbytes(shape, dtype, FLOATS[dtype].itemsize)

    def expected(self, shape: tuple[int, ...], dtype: str) -> int:
        """Bytes that are stored unless the error is so small that weights of integer factors have to be exact."""
        return self._nbytes(shape, dtype, 2)

    def _nbytes(self, shape: tuple[int, ...], dtype: str, weight: int) -> int:
        """Stored bytes, with ``weight`` bytes for a weight of integer factors."""
        modes, r, widths = sizes(self.axes(shape)), self.terms(shape), self.widths(shape)
        if widths is None:
            return FLOATS[dtype].itemsize * r * (sum(modes) + 1)
        return weight * r + sum(Integers.predict(n * r, bits) for n, bits in zip(modes, widths, strict=True))

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        most = bits_per_weight * math.prod(shape) / 8
        ranked = "rank" in free and self.given is None
        widths = (_WIDTHS if ranked else tuple(range(16, 0, -1))) if "bits" in free else (self.bits,)
        found: dict[int, Method] = {}
        for bits in widths:
            method = replace(self, bits=bits)
            method = method._highest(shape, dtype, most) if ranked else method
            if method.expected(shape, dtype) <= most:
                found.setdefault(method.expected(shape, dtype), method)
        near = [method for size, method in found.items() if size >= _CLOSE * most]
        yield from (near or [found[size] for size in sorted(found, reverse=True)])[: _CANDIDATES if ranked else 1]

    def _highest(self, shape: tuple[int, ...], dtype: str, most_bytes: float) -> CP:
        """The same with the largest rank whose factors and float16 weights fit in so many bytes, or with rank 1."""
        modes = sizes(self.axes(shape))
        low, high = 1, self._most(modes)
        while low < high:
            middle = (low + high + 1) // 2
            fits = replace(self, rank=middle, reduction=None).expected(shape, dtype) <= most_bytes
            low, high = (middle, high) if fits else (low, middle - 1)
        return replace(self, rank=low, reduction=None)

    def cheaper(self) -> Method:
        anneal = 24 if self.anneal is None else min(self.anneal, 24)
        return replace(self, anneal=anneal, max_iter=min(self.max_iter, 8), starts=1)

    # --- for an array -------------------------------------------------------------------------------------------------

    def outlook(self, shape: tuple[int, ...], dtype: str) -> str:
        modes, r = sizes(self.axes(shape)), self.terms(shape)
        peak = budget.peak(modes, r, 8 if dtype == "float64" else 4) / 2**20
        return f"read as {'x'.join(map(str, modes))}, {r} terms, a peak of about {peak:.0f} MiB beside W"

    def remarks(self, W: NDArray[Any], dtype: str) -> str:
        return f"{self.outlook(W.shape, dtype)}; {advice(self, W, dtype)}"

    def solve(self, problem: Problem) -> Solution:
        shape = problem.W.shape
        axes, r, bits = self.axes(shape), self.terms(shape), self.widths(shape)
        modes = sizes(axes)
        exponent = binary_exponent(problem.W)
        X = np.ascontiguousarray(scaled(problem.W, -exponent)).reshape(modes)
        reading = f"read as {'x'.join(map(str, modes))}"
        if not X.any():
            return Solution(stored.zero_form(axes, r, bits, X.dtype, problem.dtype), f"{reading}; W is zero")
        settings = self._settings(modes, r, problem)
        with one_thread():
            array = Unfolded(X)
            if bits is None:
                real = real_factors(array, settings)
                form = stored.real_form(real.factors, axes, exponent, X.dtype, problem.dtype)
                return Solution(form, f"{reading}; {real.status}{_damped(array)}", real.history)
            whole = integer_factors(array, settings, bits, self.grid)
            z = whole.best
            form = stored.integer_form(array, z.factors, z.weights, whole.levels, axes, bits, exponent, problem.dtype)
            return Solution(form, f"{reading}; {whole.status}{_damped(array)}", whole.history)

    def _settings(self, modes: tuple[int, ...], rank: int, problem: Problem) -> Settings:
        sweeps = budget.sweeps(modes, rank) if self.anneal is None else self.anneal
        return Settings(
            rank, self.solver, self.init, self.given, self.starts, sweeps, self.max_iter, self.tol, self.correction,
            self.paper, problem.rng, problem.callback,
        )  # fmt: skip


def _damped(X: Unfolded) -> str:
    return f"; Gram matrices damped by up to {X.damped:.1g} of their mean diagonal" if X.damped else ""

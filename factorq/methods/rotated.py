"""Any method on rotated weights: incoherent, Gaussian-like numbers for codes of fixed rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ..errors import refuse, refuse_type
from ..named import settle
from ..solvers.rotation import turn
from .base import Method, Problem, Solution


@dataclass(frozen=True, repr=False)
class Rotated(Method):
    """``W ~ L^T (method of L W R^T) R``: solved after random signs and a fast Hadamard transform, folded back on use.

    Rotation spreads outliers and evens out groups, which helps codes of fixed rate; an entropy coder would lose what
    it gains from the weights' own distribution. Errors are preserved exactly, and nothing but two seeds is stored.
    A gram is rotated with the input axes.

    Parameters
    ----------
    method : Method
        What to do with the rotated array.
    axes : "input" or "both"
        Turn the rows of W read as (shape[0], the rest), or its columns as well.

    Examples
    --------
    >>> import numpy as np, factorq as fq
    >>> W = np.random.default_rng(0).standard_t(2, (64, 256)).astype("float32")
    >>> plain, rotated = fq.Scalar(bits=3), Rotated(fq.Scalar(bits=3))
    >>> [round(fq.decompose(W, method=m).relative_error, 1) for m in (plain, rotated)]
    [0.3, 0.2]
    """

    id: ClassVar[str] = "rotated"
    method: Method
    axes: Literal["input", "both"] = "input"

    def __post_init__(self) -> None:
        settle(self)
        if not isinstance(self.method, Method):
            found = repr(self.method)
            raise refuse_type("method", found=found, allowed="a Method", remedy="for example Rotated(Scalar(bits=3))")
        if not isinstance(self.axes, str) or self.axes not in ("input", "both"):
            raise refuse("axes", found=repr(self.axes), allowed="'input' or 'both'")

    def check(self, shape: tuple[int, ...]) -> None:
        self.method.check(shape)

    @property
    def store(self) -> str:
        return self.method.store

    @property
    def fills(self) -> bool:
        return self.method.fills

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return self.method.nbytes(shape, dtype)

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        for method in self.method.resized(shape, dtype, bits_per_weight, free):
            yield replace(self, method=method)

    def cheaper(self) -> Method:
        return replace(self, method=self.method.cheaper())

    def solve(self, problem: Problem) -> Solution:
        W, gram, unturned = turn(problem.W, problem.gram, problem.rng, self.axes == "both")
        inner = self.method.solve(replace(problem, W=W, gram=gram))
        return Solution(unturned(inner.form), f"{inner.status}; rotated", inner.history)

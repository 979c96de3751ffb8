"""Every weight on its own: rounded to a grid or a codebook, pruned, or both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..arrays import FLOATS
from ..codecs import Encoded, Mask
from ..constraints import (
    DEFAULT_GROUP,
    Clustered,
    Constraint,
    Quantized,
    Real,
    Sparse,
    check_bits,
    check_group,
    check_sparsity,
)  # fmt: skip
from ..errors import refuse
from ..forms import Leaf
from ..measure import density_cost, density_for, gram_error
from ..named import settle
from ..solvers.damping import explain_damping
from ..solvers.feedback import Metric, round_columns
from .base import Method, Problem, Solution

_TABLE_BITS = 0.05  # bits per weight that a fitted codebook may cost under "auto"
_PASSES = 2  # of rounding with feedback; the third changes nothing to speak of


@dataclass(frozen=True, repr=False)
class Scalar(Method):
    """``W ~ scale * level[code]`` entry by entry, with a float16 scale per group, and zeros under a mask.

    Groups run along each row of W read as (shape[0], the rest); their scales minimise the squared error. With a gram,
    columns are rounded in turn and the later ones take up the error (GPTQ, arXiv 2210.17323); with sparsity as well,
    the entries to prune are those whose removal costs least in that metric (SparseGPT, arXiv 2301.00774), or the
    smallest where those would lose more.

    Parameters
    ----------
    bits : int or None
        Bits per stored value, 1 to 16; None keeps W's precision (pruning alone).
    group : int or None
        Entries that share a scale; None for a whole row.
    sparsity : float or None
        Share of zeros, 0 <= sparsity < 1; the kept entries are coded densely.
    levels : "auto", "uniform", "lloyd" or "nf4"
        An integer grid, or a scalar codebook: fitted to the array, or the 16 normal quantiles. "auto" takes the grid
        for all weights, and under a mask the fitted codebook, since what is left has a gap around 0 (half of a Gaussian
        array kept in 4 bits: squared error .0029 of theirs, on a grid .0062).
    grid : "auto", "midrise", "midtread" or "asymmetric"
        Kind of integer grid, as in :class:`factorq.constraints.Quantized`.

    Examples
    --------
    >>> import factorq as fq
    >>> W = np.random.default_rng(0).standard_normal((64, 256)).astype("float32")
    >>> fq.decompose(W, method=Scalar(bits=4)).bits_per_weight
    4.125
    """

    id: ClassVar[str] = "scalar"
    drafts: ClassVar[Mapping[str, Any]] = {"bits": 4, "sparsity": None}
    bits: int | None = None
    group: int | None = DEFAULT_GROUP
    sparsity: float | None = None
    levels: Literal["auto", "uniform", "lloyd", "nf4"] = "auto"
    grid: Literal["auto", "midrise", "midtread", "asymmetric"] = "auto"

    def __post_init__(self) -> None:
        settle(self)
        if self.bits is None and self.sparsity is None:
            allowed = "bits, sparsity or both"
            raise refuse(
                "Scalar", found="neither bits nor sparsity", allowed=allowed, remedy="for example Scalar(bits=4)"
            )
        if self.bits is not None:
            check_bits(self.bits)
        if self.sparsity is not None:
            check_sparsity(self.sparsity)
        check_group(self.group)
        if self.levels not in ("auto", "uniform", "lloyd", "nf4"):
            raise refuse("levels", found=repr(self.levels), allowed="'auto', 'uniform', 'lloyd' or 'nf4'")
        self.values("float32", 1)

    def values(self, dtype: str, size: int) -> Constraint:
        """What a kept entry of an array of ``size`` may be."""
        if self.bits is None:
            return Real(dtype)
        axis: Literal[1] | None = 1 if self.sparsity is None else None
        table_pays = 32 * 2**self.bits <= _TABLE_BITS * size
        fitted = self.sparsity is not None and self.grid == "auto" and table_pays
        if self.levels == "uniform" or (self.levels == "auto" and not fitted):
            return Quantized(self.bits, self.group, axis, self.grid)
        return Clustered(self.bits, self.group, axis, "nf4" if self.levels == "nf4" else "lloyd")

    def constraint(self, dtype: str, size: int) -> Constraint:
        """What an array of ``size`` may be."""
        values = self.values(dtype, size)
        return values if self.sparsity is None else Sparse(self.sparsity) & values

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return self.constraint(dtype, math.prod(shape)).nbytes(shape, dtype)

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        budget = bits_per_weight * math.prod(shape) / 8
        widths = range(min(16, int(bits_per_weight)), 0, -1) if "bits" in free else (self.bits,)
        if self.sparsity is None:
            dense = (self._grouped(shape, bits, bits_per_weight - bits) for bits in widths if bits is not None)
            yield from [m for m in dense if m is not None and m.nbytes(shape, dtype) <= budget][:2]
        if "sparsity" in free:
            for bits in (2, 3, 4) if "bits" in free else (self.bits,):
                stored = 8 * FLOATS[dtype].itemsize if bits is None else bits + 16 / (self.group or math.prod(shape))
                density = density_for(bits_per_weight, stored)
                if 0.005 < density < 0.99:
                    yield replace(self, bits=bits, sparsity=round(1 - density, 6))
        elif self.sparsity is not None:
            yield from self._at_sparsity(shape, dtype, budget, free)

    def _at_sparsity(self, shape: tuple[int, ...], dtype: str, budget: float, free: frozenset[str]) -> Iterable[Method]:
        """The bits and groups whose predicted size is nearest under the budget, at the given sparsity."""
        size, sparse = math.prod(shape), Sparse(self.sparsity or 0.0)
        count = sparse.count(size)
        mask = density_cost(count / size) * size / 8
        tried = [
            replace(self, bits=bits, group=group)
            for bits in (range(1, 17) if "bits" in free else (self.bits,))
            for group in ((16, 20, 24, 32, 40, 48, 64, 96, 128, 256, 1024) if bits is not None else (self.group,))
        ]
        sizes = [(mask + method.values(dtype, size).nbytes((count,), dtype), method) for method in tried]
        under = sorted((pair for pair in sizes if pair[0] <= budget), key=lambda pair: -pair[0])
        return [method for _, method in under[:3]]

    def _grouped(self, shape: tuple[int, ...], bits: int, spare_bits: float) -> Method | None:
        """The version whose scales take up to ``spare_bits`` per weight."""
        n = math.prod(shape[1:])
        groups = min(n, int(spare_bits * n / 16))
        return replace(self, bits=bits, sparsity=None, group=-(-n // groups)) if groups > 0 else None

    def runs_on_gpu(self, gram: bool) -> bool:
        grids = self.bits is not None and self.sparsity is None and self.levels in ("auto", "uniform")
        return grids and not gram

    def solve(self, problem: Problem) -> Solution:
        constraint = self.constraint(problem.dtype, problem.W.size)
        if problem.gram is None:
            return Solution(Leaf(constraint.encode(problem.W)), "closed form: nothing to iterate")
        W, gram = problem.matrix, problem.gram
        metric = Metric.of(gram)
        keep = None if self.sparsity is None else Sparse(self.sparsity).mask(metric.saliency(W))
        if self.bits is None:
            pruned = round_columns(W, metric, None, None, None, keep)[0]
            found = [(constraint.encode(pruned), "pruned column by column with error feedback")]
        else:
            found = self._rounded(W, metric, keep)
        if keep is not None:  # of few outputs, what is pruned for the gram may leave more than feedback can take up
            found.append(
                (constraint.encode(W), "the largest weights as without the gram, since others would lose more")
            )
        best, how = min(found, key=lambda pair: gram_error(W, pair[0].decode(), gram))
        return Solution(Leaf(best.reshaped(problem.W.shape)), f"{how}; {explain_damping(metric.damping)}")

    def _rounded(self, W: NDArray[Any], metric: Metric, keep: NDArray[np.bool_] | None) -> list[tuple[Encoded, str]]:
        """Two passes with feedback and rounding to nearest, and what to say of each.

        Columns grow by the errors that they take up and would be clipped at scales fitted to W, so the second pass has
        scales that were fitted to what the first one met.
        """
        values = self.values(str(W.dtype), W.size)

        def stored(x: NDArray[Any]) -> Encoded:
            return values.encode(x) if keep is None else Mask.encode(keep, values.encode(np.ascontiguousarray(x[keep])))

        found = []
        met = W if keep is None else round_columns(W, metric, None, None, None, keep)[1]
        for _ in range(_PASSES):
            start = stored(met)
            points = start.points()
            Q, met = round_columns(W, metric, points.levels, points.scale, points.offset, points.keep)
            found.append((start.nearest(Q), "rounded column by column with error feedback"))
        return [*found, (stored(W), "rounded to nearest, since error feedback would lose more")]

"""Pruning under a constraint: masks that are boolean products of two small binary matrices in every tile."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import FLOATS
from ..codecs import Boolean
from ..codecs.boolean import MOST_RANK, boolean_product, factor_shapes
from ..constraints import Constraint, Quantized, Real, Sparse, check_bits, check_group, check_sparsity, even_group
from ..errors import refuse, refuse_type
from ..forms import Leaf
from ..kernels.threads import one_thread
from ..measure import binary_entropy, binary_exponent, scaled
from ..named import settle
from ..solvers.boolean import factorise
from .base import Method, Problem, Solution
from .base.checks import check_rank, check_steps

_INDEX_BITS = (
    3 / 16
)  # per weight in square tiles of the default side: rank 48 in 512x512, which the published 0.28 bits imply
_WIDTHS = (1, 2, 4, 8)  # bits per kept value that a size may choose
_SIDES = 64  # sides of a tile that are tried for a size


@dataclass(frozen=True, repr=False)
class BooleanPruning(Method):
    """``W * mask``, with ``mask[i, j] = any_f(A[i, f] and B[j, f])`` in every tile of W read as (shape[0], the rest).

    The index takes ``rank (m' + n') / (m' n')`` bits per weight at any sparsity, and whether a weight is kept can be
    told from ``rank`` bits of either factor. This is **pruning under a constraint**, not a way to write a given mask:
    some large weights have to go and small ones to stay. The published results (Lee et al. 2019, arXiv 1905.05686)
    retrain the network under its mask; nothing is retrained here. An arbitrary mask takes H(S) bits per weight, with
    one bit per kept weight H(S) + (1 - S) in all: .5265 at S = .91, where this method takes .28.

    What that costs, of a 4096x4096 Gaussian array at S = .91 and 1 bit, scales included: rank 48 in tiles of 512x512
    keeps 20.1 % of the squared norm (non-negative factors of the magnitudes with a threshold on each, the published
    recipe as far as it is known here, 16.3 %; random masks 9 %) and has a relative error of .928 in .2789 bits.
    Small tiles of low rank are better at the same size, rank 1 in 11x11, the default, the best: 27.5 %, error .885,
    .2735 bits. The largest weights, wherever they are, hold 41.2 %, error .775, .531 bits; as few of them as fit into
    .2735 bits (S = .962) give .880. ``store="entropy"`` writes the factors of rank 48 in less: .155 bits in all.

    Parameters
    ----------
    sparsity : float
        Share of zeros, 0 <= sparsity < 1, of all tiles together: some keep more than others.
    rank : int
        Inner dimension of the boolean products, 1 to 1024.
    bits : int or None
        Bits per kept value, 1 to 16, on an integer grid; None keeps W's precision.
    tile : int, tuple of int, or None
        At most so many rows and columns in a tile, evenly. None for squares of side ``32 rank / 3``, where the index
        takes 3/16 bit per weight.
    group : int or None
        Kept values that share a float16 scale; None for one scale.
    anneal : int
        Sweeps in which moves are drawn at a temperature that cools; 0 for none.
    max_iter : int
        Most sweeps of descent that follow.
    tol : float
        Least relative improvement of the error that is worth further sweeps.

    Examples
    --------
    >>> import factorq as fq
    >>> W = np.random.default_rng(0).standard_normal((256, 256)).astype("float32")
    >>> F = fq.decompose(W, method=BooleanPruning(sparsity=0.91, bits=1))
    >>> round(F.bits_per_weight, 2), int(np.count_nonzero(F.to_dense())) <= 0.09 * W.size
    (0.28, True)
    """

    id: ClassVar[str] = "boolean_pruning"
    drafts: ClassVar[Mapping[str, Any]] = {"sparsity": 0.9}
    takes_gram: ClassVar[bool] = False
    sparsity: float
    rank: int = 1
    bits: int | None = None
    tile: int | tuple[int, int] | None = None
    group: int | None = 1024
    anneal: int = 24
    max_iter: int = 20
    tol: float = 1e-4

    def __post_init__(self) -> None:
        settle(self)
        check_sparsity(self.sparsity)
        check_rank(self.rank)
        if self.rank > MOST_RANK:
            raise refuse("rank", found=self.rank, allowed=f"1 to {MOST_RANK}")
        if self.bits is not None:
            check_bits(self.bits)
        check_group(self.group)
        check_steps(self.max_iter, self.tol)
        _check_tile(self.tile)
        if isinstance(self.anneal, bool) or not isinstance(self.anneal, int):
            raise refuse_type("anneal", found=repr(self.anneal), allowed="an integer of at least 0")
        if not 0 <= self.anneal < 1 << 31:
            raise refuse("anneal", found=self.anneal, allowed="an integer of at least 0, below 2**31")

    def tiles(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of the tiles of an array of ``shape``."""
        side = math.ceil(2 * self.rank / _INDEX_BITS)
        rows, columns = self.tile if isinstance(self.tile, tuple) else (self.tile or side,) * 2
        return even_group(rows, shape[0]) or 1, even_group(columns, math.prod(shape[1:])) or 1

    def values(self, dtype: str) -> Constraint:
        """What a kept entry may be; the mask leaves no gap around 0, so that a codebook gains nothing over a grid."""
        return Real(dtype) if self.bits is None else Quantized(self.bits, self.group, None)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        kept = self.values(dtype).nbytes((self._count(shape),), dtype)
        return Boolean.predict(shape, self.rank, self.tiles(shape)) + kept

    def _count(self, shape: tuple[int, ...]) -> int:
        return Sparse(self.sparsity).count(math.prod(shape))

    def _index(self, shape: tuple[int, ...]) -> float:
        """Bits of index per weight."""
        return 8 * Boolean.predict(shape, self.rank, self.tiles(shape)) / math.prod(shape)

    def outlook(self, shape: tuple[int, ...], dtype: str) -> str:
        index, mask = self._index(shape), binary_entropy(self.sparsity)
        return (
            f"the index takes {index:.3g} bits per weight, an arbitrary mask of this sparsity {mask:.3g}; meant for "
            "retraining under the mask: without it, compare plain pruning at the same size"
        )

    def remarks(self, W: NDArray[Any], dtype: str) -> str:
        return self.outlook(W.shape, dtype)

    def cheaper(self) -> Method:
        return replace(self, anneal=min(self.anneal, 4), max_iter=min(self.max_iter, 6))

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        for bits in _WIDTHS if "bits" in free else (self.bits,):
            found = replace(self, bits=bits)
            if "sparsity" in free:
                width = 8 * FLOATS[dtype].itemsize if bits is None else bits + 16 / (self.group or math.prod(shape))
                density = (bits_per_weight - self._index(shape)) / width
                if 0 < density < 1:
                    yield replace(found, sparsity=math.ceil((1 - density) * 1e6) / 1e6)
            elif "rank" in free:
                yield from found._indexed(shape, dtype, bits_per_weight * math.prod(shape) / 8)

    def _indexed(self, shape: tuple[int, ...], dtype: str, budget: float) -> Iterable[BooleanPruning]:
        """The version whose index fills what the values leave of a size: by the rank, or the tile if none is given."""
        left = budget - self.values(dtype).nbytes((self._count(shape),), dtype)
        if left <= 0:
            return
        if self.tile is None:
            side = math.ceil(math.prod(shape) * self.rank / (4 * left))
            tried = (replace(self, tile=side + more) for more in range(_SIDES))
        else:
            rank = int(left / Boolean.predict(shape, 8, self.tiles(shape)) * 8) + 1
            tried = (replace(self, rank=k) for k in range(min(rank, MOST_RANK), max(0, rank - _SIDES), -1))
        yield from [method for method in tried if method.nbytes(shape, dtype) <= budget][:1]

    def solve(self, problem: Problem) -> Solution:
        W, count = problem.matrix, self._count(problem.W.shape)
        tile = self.tiles(problem.W.shape)
        left, right = (np.zeros(bits, np.bool_) for bits in factor_shapes(problem.W.shape, self.rank, tile))
        status = "W is zero" if count else "no entry may be kept"
        history: tuple[float, ...] = ()
        if count and W.any():
            normal = np.ascontiguousarray(scaled(W, -binary_exponent(W)))
            steps: Any = {"anneal": self.anneal, "max_iter": self.max_iter, "tol": self.tol}
            with one_thread():
                found = factorise(normal, self.rank, tile, count, **steps, rng=problem.rng, callback=problem.callback)
            left, right, history = found.best.left, found.best.right, found.history
            status = f"{_told(normal, history[-1], count)}; {found.status}"
        keep = boolean_product(left, right, tile).reshape(problem.W.shape)
        values = self.values(problem.dtype).encode(np.ascontiguousarray(problem.W[keep]))
        return Solution(Leaf(Boolean.encode(left, right, tile, problem.W.shape, values)), status, history)


def _told(W: NDArray[Any], error: float, count: int) -> str:
    """What the mask costs, beside what as many of the largest weights would keep."""
    squares = np.square(W.reshape(-1), dtype=np.float64)
    largest = float(np.partition(squares, squares.size - count)[squares.size - count :].sum() / squares.sum())
    return f"the mask keeps {1 - error**2:.1%} of the squared norm, as many of the largest weights {largest:.1%}"


def _check_tile(tile: object) -> None:
    sizes = tile if isinstance(tile, tuple) else (tile,) * 2
    allowed = "an integer of at least 1, two of them, or None"
    if tile is not None and not (len(sizes) == 2 and all(map(_whole, sizes))):
        raise refuse_type("tile", found=repr(tile), allowed=allowed)
    if tile is not None and not all(1 <= size < 1 << 48 for size in sizes):
        raise refuse("tile", found=repr(tile), allowed=allowed)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

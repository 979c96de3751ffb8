"""Vector quantization: runs of weights as indices into a codebook fitted to them, in one stage or several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import FLOATS, beside, contiguous, namespace, to_host
from ..codecs import Dense, OneHot, Vectors
from ..codecs.vectors import ranges
from ..errors import refuse
from ..forms import Form, Leaf, Sum
from ..kernels.bits import packed_size
from ..measure import binary_exponent, gram_error, scaled
from ..named import settle
from ..solvers.damping import explain_damping
from ..solvers.lloyd import residual
from ..solvers.lloyd.columns import quantize_columns
from .base import Method, Problem, Solution
from .base.checks import check_steps

Floats = NDArray[Any]
_MOST_DIM, _MOST_CODEWORDS, _MOST_STAGES = 4096, 65536, 16


@dataclass(frozen=True, repr=False)
class VectorQuantization(Method):
    """``W ~ sum_s onehot_s @ codebook_s`` on rows cut into vectors: Lloyd's k-means, product and residual codes.

    W is read as (shape[0], the rest); each row is cut into vectors of ``dim`` entries, the last one padded. A vector
    is stored as ``ceil(log2(codewords))`` bits per stage; codebooks are float16. Books of several stages are fitted
    jointly: pairs of codes by exact search, all books by least squares. With a gram, the clusters are also fitted with
    its diagonal as weights, and blocks of columns are coded in turn while the later ones take up the error; the best
    by the error in the gram is kept. An array too small to pay for codebooks is stored as it is.

    Parameters
    ----------
    dim : int
        Entries of a vector.
    codewords : int
        Codewords of a codebook, 1 to 65536; no more than there are vectors are stored.
    stages : int
        Codewords that are added for each vector (residual codes).
    groups : int or None
        Ranges of columns with codebooks of their own (product codes); None for one codebook.
    max_iter : int
        Most iterations of k-means.
    tol : float
        Least relative improvement that is worth another iteration.

    Examples
    --------
    >>> import factorq as fq
    >>> W = np.random.default_rng(0).standard_normal((256, 256)).astype("float32")
    >>> F = fq.decompose(W, method=VectorQuantization(dim=4, codewords=256))
    >>> F.bits_per_weight, F.relative_error < 0.33
    (2.25, True)
    """

    id: ClassVar[str] = "vector_quantization"
    drafts: ClassVar[Mapping[str, Any]] = {"dim": 4, "codewords": 256}
    dim: int
    codewords: int
    stages: int = 1
    groups: int | None = None
    max_iter: int = 20
    tol: float = 1e-3

    def __post_init__(self) -> None:
        settle(self)
        most = {"dim": _MOST_DIM, "codewords": _MOST_CODEWORDS, "stages": _MOST_STAGES, "groups": _MOST_CODEWORDS}
        for name, limit in most.items():
            value = getattr(self, name)
            if name == "groups" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
                raise refuse(name, found=repr(value), allowed=f"an integer from 1 to {limit}")
        check_steps(self.max_iter, self.tol)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return min(self._coded(shape), self._plain(shape, dtype))

    def _plain(self, shape: tuple[int, ...], dtype: str) -> int:
        return math.prod(shape) * FLOATS[dtype].itemsize

    def _coded(self, shape: tuple[int, ...]) -> int:
        """Bytes of codes and codebooks."""
        plan = self._plan(shape)
        codes = packed_size(plan.rows * plan.per_row, max(1, (plan.count - 1).bit_length()))
        return int(self.stages * (codes + 2 * plan.groups * plan.count * plan.dim))

    def _plan(self, shape: tuple[int, ...]) -> _Plan:
        n = math.prod(shape[1:])
        dim = min(self.dim, n)
        per_row = -(-n // dim)
        groups = min(self.groups or 1, per_row)
        least = int(np.bincount(ranges(per_row, groups)).min()) if groups > 1 else per_row
        return _Plan(shape[0], n, dim, per_row, groups, min(self.codewords, shape[0] * least))

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        budget = bits_per_weight * math.prod(shape) / 8
        tried = dict.fromkeys(
            replace(self, dim=dim, codewords=codewords, stages=stages)
            for dim in sorted({self.dim, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16})
            for stages in {self.stages, 1, 2}
            for codewords in _counts()
        )
        sizes = [(method._coded(shape), method) for method in tried]
        under = sorted((pair for pair in sizes if pair[0] <= budget), key=lambda pair: -pair[0])
        near = [method for size, method in under if size >= 0.98 * budget] or [method for _, method in under[:1]]
        return sorted(near, key=lambda method: method._expected())[:3]

    def _expected(self) -> float:
        """Minus the expected log2(1 / D) / 2: the rate of the codes less what remains of the scalar quantizer's gap.

        Measured gaps on N(0, 1) at 2 bits, codebooks not counted: 0.46 with 1 dimension, 0.31 with 4, 0.24 with 2
        stages in 8.
        """
        return 0.46 / float(self.dim**0.3) - self.stages * math.log2(self.codewords) / self.dim

    def cheaper(self) -> Method:
        return replace(self, max_iter=min(self.max_iter, 5))

    def runs_on_gpu(self, gram: bool) -> bool:
        return not gram

    def solve(self, problem: Problem) -> Solution:
        shape = problem.W.shape
        if self._coded(shape) >= self._plain(shape, problem.dtype):
            plain = Dense.encode(to_host(problem.W), problem.dtype)
            return Solution(Leaf(plain), "stored as it is: codebooks would cost more")
        plan = self._plan(shape)
        exponent = binary_exponent(problem.W)
        matrix = contiguous(scaled(problem.matrix, -exponent).astype(np.float32, copy=False))
        found = [self._fitted(plan, matrix, problem, None)]
        if problem.gram is None:
            books, codes, history = found[0]
            return Solution(_form(plan, books, codes, shape, problem, exponent), "vectors coded to nearest", history)
        weight = np.maximum(problem.gram.diagonal(), 0).astype(np.float32)
        found.append(self._fitted(plan, matrix, problem, weight))
        names = ["vectors coded to nearest", "vectors coded to nearest by the gram's diagonal"]
        for start in tuple(found):
            codes, damping = quantize_columns(matrix, problem.gram, start[0], ranges(plan.per_row, plan.groups))
            found.append((start[0], codes, start[2]))
            names.append(f"column blocks coded in turn with error feedback; {explain_damping(damping)}")
        forms = [_form(plan, books, codes, shape, problem, exponent) for books, codes, _ in found]
        losses = [gram_error(problem.W, form.dense(), problem.gram) for form in forms]
        best = int(np.argmin(losses))
        return Solution(forms[best], names[best], found[best][2])

    def _fitted(self, plan: _Plan, matrix: Floats, problem: Problem, weight: Floats | None) -> _Fit:
        """Books (groups, stages, K, d) as they are stored, codes (rows, per_row, stages) and the history."""
        cut = plan.cut(matrix)
        masses: Floats | None = None
        if weight is not None:
            masses = np.broadcast_to(plan.cut(weight[None, :]), cut.shape)
        elif plan.padded:
            masses = np.broadcast_to(plan.cut(namespace(matrix).ones((1, plan.n), dtype=np.float32)), cut.shape)
        books = np.zeros((plan.groups, self.stages, plan.count, plan.dim), np.float32)
        codes = np.zeros((plan.rows, plan.per_row, self.stages), np.int32)
        history: tuple[float, ...] = ()
        owner = ranges(plan.per_row, plan.groups)
        for group, rng in enumerate(problem.rng.spawn(plan.groups)):
            own = slice(*np.searchsorted(owner, [group, group + 1]).tolist())
            x = contiguous(cut[:, own].reshape(-1, plan.dim))
            w = None if masses is None else contiguous(masses[:, own].reshape(-1, plan.dim))
            settings = {"max_iter": self.max_iter, "tol": self.tol}
            book, steps = residual.fit(x, plan.count, self.stages, rng, weight=w, **settings)  # type: ignore[arg-type]
            if self.stages > 1:
                book = residual.polish(x, book, w)
            books[group] = np.stack([_half(part) for part in to_host(book)])
            found = residual.encode(x, beside(books[group], x), w).astype(np.uint16)  # at most 65536 codewords
            codes[:, own] = to_host(found).reshape(plan.rows, -1, self.stages)
            history += tuple(math.sqrt(max(step, 0.0)) for step in steps)
        return books, codes, history


_Fit = tuple[Floats, NDArray[np.int32], tuple[float, ...]]


@dataclass(frozen=True)
class _Plan:
    """How a matrix (rows, n) is cut into vectors, and the sizes that follow."""

    rows: int
    n: int
    dim: int
    per_row: int
    groups: int
    count: int

    @property
    def padded(self) -> int:
        """Entries that the last vector of a row has beyond it."""
        return self.per_row * self.dim - self.n

    def cut(self, matrix: Floats) -> Floats:
        """The vectors (rows, per_row, dim) of a matrix, zeros beyond its end."""
        wide = np.pad(matrix, ((0, 0), (0, self.padded))) if self.padded else matrix
        return wide.reshape(len(matrix), self.per_row, self.dim)


def _counts() -> list[int]:
    """Numbers of codewords to try for a size, about 1 % apart above 64: the codebook's size fine-tunes the total."""
    return sorted({round(2 ** (k / 64)) for k in range(1 * 64, 12 * 64 + 1)})


def _half(book: Floats) -> Floats:
    return Dense.encode(book, "float16").decode()


def _form(
    plan: _Plan, books: Floats, codes: NDArray[np.int32], shape: tuple[int, ...], problem: Problem, exponent: int
) -> Form:
    """One leaf per stage."""
    dtype = str(problem.W.dtype)
    leaves: list[Form] = []
    for stage in range(books.shape[1]):
        book = scaled(books[:, stage].reshape(-1, plan.dim).astype(dtype), exponent)
        index = OneHot.encode(codes[:, :, stage].reshape(-1), plan.count, dtype)
        factor = Vectors(
            shape=shape, dtype=dtype, groups=plan.groups, index=index, codebook=Dense.encode(book, "float16")
        )
        leaves.append(Leaf(factor))
    return leaves[0] if len(leaves) == 1 else Sum(tuple(leaves))

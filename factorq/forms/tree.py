"""The tree of factors: leaves, chains, outer products, a core with a matrix per mode, sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, Protocol

from numpy.typing import NDArray

from ..arrays import contiguous
from ..errors import refuse
from .axes import Axes, Axis, contracted, count, of_product, parted, permuted

Matrix = NDArray[Any]
_MAX_AXES = 32


class Factor(Protocol):
    """What a form asks of its leaves."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int: ...

    def decode(self) -> NDArray[Any]: ...

    def matmul(self, x: Matrix) -> Matrix: ...

    def rmatmul(self, x: Matrix) -> Matrix: ...

    def contract(self, x: Matrix, axes: Axes) -> Matrix: ...


class Form(ABC):
    """A tree of factors that contracts to an array of ``shape``."""

    tag: ClassVar[str]
    shape: tuple[int, ...]

    @abstractmethod
    def parts(self) -> tuple[tuple[str, Form], ...]:
        """The named subtrees in order of contraction."""

    @abstractmethod
    def dense(self) -> NDArray[Any]:
        """The array that the factors contract to."""

    def leaves(self, prefix: str = "") -> dict[str, Leaf]:
        """Every leaf under its dotted name, in order."""
        return {name: leaf for role, part in self.parts() for name, leaf in part.leaves(_join(prefix, role)).items()}

    def matmul(self, x: Matrix) -> Matrix:
        """``F @ x`` for a matrix F (m, n) and x (n, b)."""
        return self.mixed(x, of_product(self.shape, left=False))

    def rmatmul(self, x: Matrix) -> Matrix:
        """``x @ F`` for a matrix F (m, n) and x (b, m)."""
        return self.mixed(x.T, of_product(self.shape, left=True)).T

    def contract(self, x: Matrix, axes: Axes) -> Matrix:
        """The sum over some axes of a matrix F times x: (entries summed over, b) gives (entries kept, b).

        Parameters
        ----------
        x : NDArray, (p, b)
            Its rows are in C order of the axes that are summed over.
        axes : tuple of Axis
            Those of F, cut as fine as the product needs it, in C order.
        """
        parts = parted(axes, self.shape)
        if parts is not None and len(parts) == 2:
            m, n = self.shape
            rows, columns = parts
            if count(rows, True) == 1 and count(columns, True) == n:
                return self.matmul(x)
            if count(rows, True) == m and count(columns, True) == 1:
                return self.rmatmul(x.T).T
        return self.mixed(x, axes)

    def mixed(self, x: Matrix, axes: Axes) -> Matrix:
        """:meth:`contract` where rows or columns are summed over in part; here from the dense array."""
        product: Matrix = contracted(self.dense(), x, axes)
        return product

    def skeleton(self, prefix: str = "") -> dict[str, Any]:
        """The tree as JSON; leaves stand for themselves by name."""
        parts = [part.skeleton(_join(prefix, role)) for role, part in self.parts()]
        return {"form": self.tag, "parts": parts, **self.settings()}

    def settings(self) -> dict[str, Any]:
        """What the skeleton needs beside the parts."""
        return {}

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(str(part) for _, part in self.parts())})"


@dataclass(frozen=True, eq=False)
class Leaf(Form):
    """W itself: one stored array."""

    factor: Factor
    tag: ClassVar[str] = "leaf"

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.factor.shape

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return ()

    def leaves(self, prefix: str = "") -> dict[str, Leaf]:
        return {prefix or "W": self}

    def dense(self) -> NDArray[Any]:
        return self.factor.decode()

    def matmul(self, x: Matrix) -> Matrix:
        return self.factor.matmul(x)

    def rmatmul(self, x: Matrix) -> Matrix:
        return self.factor.rmatmul(x)

    def mixed(self, x: Matrix, axes: Axes) -> Matrix:
        return self.factor.contract(x, axes)

    def skeleton(self, prefix: str = "") -> dict[str, Any]:
        return {"form": self.tag, "leaf": prefix or "W"}

    def __str__(self) -> str:
        return "x".join(map(str, self.shape))


@dataclass(frozen=True, eq=False)
class Chain(Form):
    """``W = A @ B``: (m, r) times (r, n)."""

    A: Form
    B: Form
    tag: ClassVar[str] = "chain"

    def __post_init__(self) -> None:
        a, b = self.A.shape, self.B.shape
        if len(a) != 2 or len(b) != 2 or a[1] != b[0] or a[1] < 1:
            raise refuse("chain", found=f"factors of shape {a} and {b}", allowed="(m, r) and (r, n), r at least 1")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.A.shape[0], self.B.shape[1]

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return ("A", self.A), ("B", self.B)

    def dense(self) -> NDArray[Any]:
        product: Matrix = self.A.dense() @ self.B.dense()
        return product

    def matmul(self, x: Matrix) -> Matrix:
        return self.A.matmul(self.B.matmul(x))

    def rmatmul(self, x: Matrix) -> Matrix:
        return self.B.rmatmul(self.A.rmatmul(x))

    def mixed(self, x: Matrix, axes: Axes) -> Matrix:
        parts = parted(axes, self.shape)
        if parts is None:
            return super().mixed(x, axes)
        rows, columns = parts
        r, b = self.A.shape[1], x.shape[1]
        p, q = count(rows, True), count(columns, True)  # summed over
        m, n = count(rows, False), count(columns, False)  # kept
        if m * q <= p * n:  # what is in between is the smaller one of (m, r, q) and (p, r, n)
            first = self.A.contract(x.reshape(p, q * b), (*rows, Axis(r, False)))
            between = permuted(first.reshape(m, r, q, b), (1, 2, 0, 3)).reshape(r * q, m * b)
            second = self.B.contract(between, (Axis(r, True), *columns))
            product: Matrix = permuted(second.reshape(n, m, b), (1, 0, 2)).reshape(m * n, b)
            return product
        turned = permuted(x.reshape(p, q, b), (1, 0, 2)).reshape(q, p * b)
        first = self.B.contract(turned, (Axis(r, False), *columns))
        between = permuted(first.reshape(r, n, p, b), (2, 0, 1, 3)).reshape(p * r, n * b)
        return self.A.contract(between, (*rows, Axis(r, True))).reshape(m * n, b)


@dataclass(frozen=True, eq=False)
class CP(Form):
    """``W[i, j, ...] = sum_r weights[r] * A[i, r] * B[j, r] * ...``: a sum of r rank-one terms (weights (1, r)).

    A mode may be several axes of W read as one, in C order: its factor is then (n_1, n_2, .., r), as that of the kernel
    positions of a convolution, (kh, kw, r).
    """

    weights: Form
    factors: tuple[Form, ...]
    tag: ClassVar[str] = "cp"

    def __post_init__(self) -> None:
        rank = self.weights.shape[-1]
        shapes = [f.shape for f in self.factors]
        sound = rank >= 1 and self.weights.shape == (1, rank) and all(len(s) > 1 and s[-1] == rank for s in shapes)
        if not sound or len(shapes) < 2 or len(self.shape) > _MAX_AXES or 0 in self.shape:
            found = f"weights {self.weights.shape} and factors {shapes}"
            raise refuse("cp", found=found, allowed="weights (1, r) and two or more factors (n_k, r)")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(n for f in self.factors for n in f.shape[:-1])

    @property
    def rank(self) -> int:
        """Number of terms."""
        return self.weights.shape[-1]

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return ("weights", self.weights), *((f"factor{k}", f) for k, f in enumerate(self.factors))

    def dense(self) -> NDArray[Any]:
        # The factor of the largest mode times the Khatri-Rao product of the others: one matrix product, and beside W
        # only (product of the other sizes, r) numbers.
        matrices = [self._matrix(f) for f in self.factors]
        modes = [len(matrix) for matrix in matrices]
        mode = modes.index(max(modes))
        others = khatri_rao([matrix for k, matrix in enumerate(matrices) if k != mode])
        unfolded = (matrices[mode] * self.weights.dense()) @ others.T
        rest = [n for k, n in enumerate(modes) if k != mode]
        order = [*range(1, mode + 1), 0, *range(mode + 1, len(modes))]
        return contiguous(permuted(unfolded.reshape(-1, *rest), order)).reshape(self.shape)

    def _matrix(self, factor: Form) -> Matrix:
        return factor.dense().reshape(-1, self.rank)

    def matmul(self, x: Matrix) -> Matrix:
        A, B = self.factors  # of a matrix, as all that multiplies
        return A.matmul(B.rmatmul(x.T).T * self.weights.dense().T)

    def rmatmul(self, x: Matrix) -> Matrix:
        A, B = self.factors
        return B.matmul((A.rmatmul(x) * self.weights.dense()).T).T


@dataclass(frozen=True, eq=False)
class Tucker(Form):
    """``W = core x_1 U_1 x_2 U_2 ...``: a core with a matrix (n_k, r_k) per mode."""

    core: Form
    factors: tuple[Form, ...]
    tag: ClassVar[str] = "tucker"

    def __post_init__(self) -> None:
        shapes = [f.shape for f in self.factors]
        if len(shapes) != len(self.core.shape) or any(
            len(s) != 2 or s[1] != r for s, r in zip(shapes, self.core.shape, strict=True)
        ):
            found = f"a core {self.core.shape} and factors {shapes}"
            raise refuse("tucker", found=found, allowed="one factor (n_k, r_k) per mode of the core (r_1, r_2, ...)")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(f.shape[0] for f in self.factors)

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return ("core", self.core), *((f"factor{k}", f) for k, f in enumerate(self.factors))

    def matmul(self, x: Matrix) -> Matrix:
        left, right = self.factors  # of a matrix, as all that multiplies
        return left.matmul(self.core.matmul(right.rmatmul(x.T).T))

    def rmatmul(self, x: Matrix) -> Matrix:
        left, right = self.factors
        return right.matmul(self.core.rmatmul(left.rmatmul(x)).T).T

    def dense(self) -> NDArray[Any]:
        result = self.core.dense()
        for k, factor in enumerate(self.factors):
            swapped = result.swapaxes(k, -1)
            product = swapped.reshape(-1, swapped.shape[-1]) @ factor.dense().T  # one matrix product per mode
            result = product.reshape(*swapped.shape[:-1], -1).swapaxes(k, -1)
        return contiguous(result)


@dataclass(frozen=True, eq=False)
class Sum(Form):
    """``W = F_1 + F_2 + ...``: forms of one shape, each made from what the ones before it left over."""

    terms: tuple[Form, ...]
    tag: ClassVar[str] = "sum"

    def __post_init__(self) -> None:
        shapes = [t.shape for t in self.terms]
        if not shapes or len(set(shapes)) != 1:
            raise refuse("sum", found=f"terms of shapes {shapes}", allowed="one or more terms of equal shape")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.terms[0].shape

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return tuple((f"term{k}", t) for k, t in enumerate(self.terms))

    def dense(self) -> NDArray[Any]:
        return self._total(lambda term: term.dense())

    def matmul(self, x: Matrix) -> Matrix:
        return self._total(lambda term: term.matmul(x))

    def rmatmul(self, x: Matrix) -> Matrix:
        return self._total(lambda term: term.rmatmul(x))

    def mixed(self, x: Matrix, axes: Axes) -> Matrix:
        return self._total(lambda term: term.contract(x, axes))

    def _total(self, value: Callable[[Form], NDArray[Any]]) -> NDArray[Any]:
        total = value(self.terms[0])
        for term in self.terms[1:]:
            total = total + value(term)
        return total


def khatri_rao(matrices: Sequence[Matrix]) -> Matrix:
    """``(prod n_k, r)``: the Kronecker product column by column of matrices (n_k, r), the last one's rows fastest."""
    return reduce(lambda A, B: (A[:, None, :] * B[None, :, :]).reshape(-1, A.shape[1]), matrices)


def _join(prefix: str, role: str) -> str:
    return ".".join(filter(None, (prefix, role)))

"""How factors contract to W: a leaf, a chain, outer products, a core with a matrix per mode, a sum, a folded matrix.

A form is a small tree. Its leaves hold factors, objects with ``shape``, ``decode()`` and ``nbytes`` (the codecs'
``Encoded``); the form itself only multiplies. ``skeleton()`` writes the tree as JSON with the names of its leaves,
:func:`from_skeleton` reads it back.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from string import ascii_letters
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import ArtifactError, FactorqError, refuse

Matrix = NDArray[Any]
_MAX_AXES = 32


class Factor(Protocol):
    """What a form asks of its leaves."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int: ...

    def decode(self) -> NDArray[Any]: ...


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
        """``F @ x`` for x (n, b) without building W, where the form allows it."""
        return np.asarray(self.dense() @ x)

    def rmatmul(self, x: Matrix) -> Matrix:
        """``x @ F`` for x (b, m) without building W, where the form allows it."""
        return np.asarray(x @ self.dense())

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
        return np.asarray(self.A.dense() @ self.B.dense())

    def matmul(self, x: Matrix) -> Matrix:
        return self.A.matmul(self.B.matmul(x))

    def rmatmul(self, x: Matrix) -> Matrix:
        return self.B.rmatmul(self.A.rmatmul(x))


@dataclass(frozen=True, eq=False)
class CP(Form):
    """``W[i, j, ...] = sum_r weights[r] * A[i, r] * B[j, r] * ...``: a sum of r rank-one terms (weights (1, r))."""

    weights: Form
    factors: tuple[Form, ...]
    tag: ClassVar[str] = "cp"

    def __post_init__(self) -> None:
        rank = self.weights.shape[-1]
        shapes = [f.shape for f in self.factors]
        if len(shapes) < 2 or self.weights.shape != (1, rank) or any(len(s) != 2 or s[1] != rank for s in shapes):
            found = f"weights {self.weights.shape} and factors {shapes}"
            raise refuse("cp", found=found, allowed="weights (1, r) and two or more factors (n_k, r)")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(f.shape[0] for f in self.factors)

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return ("weights", self.weights), *((f"factor{k}", f) for k, f in enumerate(self.factors))

    def dense(self) -> NDArray[Any]:
        # The factor of the largest mode times the Khatri-Rao product of the others: one matrix product, and beside W
        # only (product of the other sizes, r) numbers.
        mode = int(np.argmax(self.shape))
        others = [f.dense() for k, f in enumerate(self.factors) if k != mode]
        khatri_rao = others[0]
        for factor in others[1:]:
            khatri_rao = (khatri_rao[:, None, :] * factor[None, :, :]).reshape(-1, khatri_rao.shape[1])
        unfolded = (self.factors[mode].dense() * self.weights.dense()) @ khatri_rao.T
        rest = [n for k, n in enumerate(self.shape) if k != mode]
        return np.ascontiguousarray(np.moveaxis(unfolded.reshape(-1, *rest), 0, mode))

    def matmul(self, x: Matrix) -> Matrix:
        if len(self.factors) != 2:
            return super().matmul(x)
        return np.asarray((self.factors[0].dense() * self.weights.dense()) @ self.factors[1].rmatmul(x.T).T)

    def rmatmul(self, x: Matrix) -> Matrix:
        if len(self.factors) != 2:
            return super().rmatmul(x)
        return np.asarray((self.factors[0].rmatmul(x) * self.weights.dense()) @ self.factors[1].dense().T)


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

    def dense(self) -> NDArray[Any]:
        modes = len(self.factors)
        result = self.core.dense()
        for k, factor in enumerate(self.factors):
            axes = ascii_letters[:modes]
            out = axes.replace(axes[k], "Z")
            result = np.einsum(f"{axes},Z{axes[k]}->{out}", result, factor.dense(), optimize=True)
        return np.ascontiguousarray(result)


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

    def _total(self, value: Callable[[Form], NDArray[Any]]) -> NDArray[Any]:
        total = value(self.terms[0])
        for term in self.terms[1:]:
            total = total + value(term)
        return total


@dataclass(frozen=True)
class Fold:
    """A declared, invertible reading of an array of ``shape`` as a matrix.

    The array is reshaped (C order) to ``split``, the axes ``rows`` of it go first, and the two groups of axes are
    flattened: ``W.reshape(split).transpose(rows + others).reshape(prod rows, prod others)``.

    Parameters
    ----------
    shape : tuple of int
        The array's shape.
    split : tuple of int
        A finer shape of the same size.
    rows : tuple of int
        Axes of ``split`` that make up the rows, in order.

    Examples
    --------
    >>> fold = Fold.positions((8, 4, 3, 3))  # kernel positions x channel pairs
    >>> fold.matrix_shape
    (9, 32)
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    rows: tuple[int, ...]

    def __post_init__(self) -> None:
        axes = range(len(self.split))
        if len(self.shape) > _MAX_AXES or len(self.split) > _MAX_AXES:
            raise refuse("fold", found=f"{len(self.split)} axes", allowed=f"at most {_MAX_AXES}")
        if math.prod(self.shape) != math.prod(self.split) or min((*self.shape, *self.split), default=0) < 1:
            raise refuse("fold", found=f"shape {self.shape} split as {self.split}", allowed="two shapes of one size")
        if len(set(self.rows)) != len(self.rows) or not set(self.rows) <= set(axes) or len(self.rows) > 64:
            raise refuse("fold", found=f"rows {self.rows}", allowed=f"distinct axes of {self.split}")

    @classmethod
    def matrix(cls, shape: tuple[int, ...]) -> Fold:
        """The first axis by all others: (O, I, kh, kw) as (O, I*kh*kw)."""
        return cls(shape, shape, (0,))

    @classmethod
    def transposed(cls, shape: tuple[int, ...]) -> Fold:
        """All axes but the first by the first: a matrix becomes its transpose."""
        return cls(shape, shape, tuple(range(1, len(shape))))

    @classmethod
    def positions(cls, shape: tuple[int, ...]) -> Fold:
        """The trailing axes (kernel positions) by the first two (channel pairs): (O, I, kh, kw) as (kh*kw, O*I)."""
        return cls(shape, shape, tuple(range(2, len(shape))))

    @property
    def order(self) -> tuple[int, ...]:
        """The permutation of the axes of ``split``: rows first."""
        return self.rows + tuple(a for a in range(len(self.split)) if a not in self.rows)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""
        m = math.prod(self.split[a] for a in self.rows)
        return m, math.prod(self.split) // m

    def apply(self, W: NDArray[Any]) -> Matrix:
        """The matrix of ``W``; a view where the axes allow it."""
        return W.reshape(self.split).transpose(self.order).reshape(self.matrix_shape)

    def undo(self, matrix: Matrix) -> NDArray[Any]:
        """The array whose matrix is ``matrix``."""
        permuted = matrix.reshape([self.split[a] for a in self.order])
        return permuted.transpose(np.argsort(self.order)).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Folded(Form):
    """``W = fold.undo(inner)``: a form of the folded matrix read as the array it came from."""

    inner: Form
    fold: Fold
    tag: ClassVar[str] = "folded"

    def __post_init__(self) -> None:
        if self.inner.shape != self.fold.matrix_shape:
            raise refuse("fold", found=f"an inner form {self.inner.shape}", allowed=f"{self.fold.matrix_shape}")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.fold.shape

    @property
    def _transposes(self) -> bool:
        return len(self.shape) == 2 and self.fold.split == self.shape and self.fold.rows == (1,)

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return (("", self.inner),)

    def settings(self) -> dict[str, Any]:
        return {"shape": list(self.fold.shape), "split": list(self.fold.split), "rows": list(self.fold.rows)}

    def dense(self) -> NDArray[Any]:
        return self.fold.undo(self.inner.dense())

    def matmul(self, x: Matrix) -> Matrix:
        return self.inner.rmatmul(x.T).T if self._transposes else super().matmul(x)

    def rmatmul(self, x: Matrix) -> Matrix:
        return self.inner.matmul(x.T).T if self._transposes else super().rmatmul(x)


def from_skeleton(skeleton: Any, leaves: Mapping[str, Factor], depth: int = 0) -> Form:
    """The form that :meth:`Form.skeleton` wrote, with its leaves looked up in ``leaves``.

    Raises
    ------
    ArtifactError
        If the skeleton is malformed or names a leaf that is not there.
    """
    if depth > 16:
        raise ArtifactError("form: nested more than 16 deep")
    try:
        tag = skeleton["form"]
        if tag == Leaf.tag:
            return Leaf(leaves[skeleton["leaf"]])
        parts = [from_skeleton(part, leaves, depth + 1) for part in skeleton["parts"]]
        if tag == Chain.tag:
            return Chain(*parts)
        if tag in (CP.tag, Tucker.tag):
            return (CP if tag == CP.tag else Tucker)(parts[0], tuple(parts[1:]))
        if tag == Sum.tag:
            return Sum(tuple(parts))
        if tag == Folded.tag:
            return Folded(parts[0], Fold(*(tuple(map(int, skeleton[key])) for key in ("shape", "split", "rows"))))
    except ArtifactError:
        raise
    except (FactorqError, KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise ArtifactError(f"form: malformed description ({error})") from None
    raise ArtifactError(
        f"form: found {tag!r}, known are leaf, chain, cp, tucker, sum, folded; a newer factorq wrote this"
    )


def _join(prefix: str, role: str) -> str:
    return ".".join(filter(None, (prefix, role)))

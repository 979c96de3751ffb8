"""Arrays read as matrices: a declared, invertible fold, and the form of a folded array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import refuse
from .axes import Axes, moved, parted, permuted
from .tree import Form, Matrix

_MAX_AXES = 32


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
        matrix: Matrix = permuted(W.reshape(self.split), self.order).reshape(self.matrix_shape)
        return matrix

    def undo(self, matrix: Matrix) -> NDArray[Any]:
        """The array whose matrix is ``matrix``."""
        wide = matrix.reshape([self.split[a] for a in self.order])
        array: NDArray[Any] = permuted(wide, np.argsort(self.order).tolist()).reshape(self.shape)
        return array


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

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return (("", self.inner),)

    def settings(self) -> dict[str, Any]:
        return {"shape": list(self.fold.shape), "split": list(self.fold.split), "rows": list(self.fold.rows)}

    def dense(self) -> NDArray[Any]:
        return self.fold.undo(self.inner.dense())

    def mixed(self, x: Matrix, axes: Axes) -> Matrix:
        parts = parted(axes, self.fold.split)
        if parts is None:  # rows or columns of the product lie across axes of the fold
            return super().mixed(x, axes)
        starts = np.cumsum([0, *map(len, parts)])
        order = [starts[a] + k for a in self.fold.order for k in range(len(parts[a]))]
        fine = [axis for part in parts for axis in part]
        turned = [fine[i] for i in order]
        back = [int(i) for i in np.argsort(order)]
        found = self.inner.contract(moved(x, fine, order, summed=True), tuple(turned))
        return moved(found, turned, back, summed=False)


def transposed(form: Form) -> Form:
    """The form of the transpose of a matrix; twice gives the first one back."""
    fold = Fold.transposed((form.shape[1], form.shape[0]))
    if isinstance(form, Folded) and form.fold == Fold.transposed(form.shape):
        return form.inner
    return Folded(form, fold)

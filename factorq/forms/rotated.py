"""Arrays that were turned before they were factored: random signs and a fast orthonormal transform, undone on use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import contiguous
from ..errors import refuse
from ..kernels import hadamard
from .tree import Form, Matrix


@dataclass(frozen=True, eq=False)
class Rotated(Form):
    """``W = L^T inner R`` for W read as (shape[0], the rest), L and R the rotations that the seeds stand for.

    Parameters
    ----------
    inner : Form
        Stands for ``L W R^T``, of W's shape.
    right : int or None
        Seed of the rotation of the input axes, 0 to 2**63 - 1; None for none.
    left : int or None
        The same of the output axis.
    """

    inner: Form
    right: int | None
    left: int | None = None
    tag: ClassVar[str] = "rotated"

    def __post_init__(self) -> None:
        for seed in (self.right, self.left):
            if seed is not None:
                hadamard.check_seed(seed)
        if len(self.inner.shape) < 2:
            raise refuse("rotated", found=f"an inner form {self.inner.shape}", allowed="two or more axes")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.inner.shape

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return (("", self.inner),)

    def settings(self) -> dict[str, Any]:
        return {"seeds": [self.right, self.left]}

    def dense(self) -> NDArray[Any]:
        matrix = self.inner.dense().reshape(self.shape[0], math.prod(self.shape[1:]))
        return unturned(matrix, self.right, self.left).reshape(self.shape)

    def matmul(self, x: Matrix) -> Matrix:
        x = self._promoted(x)
        return _columns(self.inner.matmul(_columns(x, self.right, False)), self.left, True)

    def rmatmul(self, x: Matrix) -> Matrix:
        x = self._promoted(x)
        turned = x if self.left is None else hadamard.rotate(x, self.left)
        product = self.inner.rmatmul(turned)
        return product if self.right is None else hadamard.unrotate(product, self.right)

    @staticmethod
    def _promoted(x: Matrix) -> Matrix:
        return x.astype(np.result_type(x.dtype, np.float32), copy=False)


def turned(matrix: Matrix, right: int | None, left: int | None) -> Matrix:
    """``L matrix R^T`` for a float32 or float64 matrix (m, n); None turns nothing."""
    rows = matrix if right is None else hadamard.rotate(matrix, right)
    return _columns(rows, left, False)


def unturned(matrix: Matrix, right: int | None, left: int | None) -> Matrix:
    """``L^T matrix R``: the inverse of :func:`turned`."""
    columns = _columns(matrix, left, True)
    return columns if right is None else hadamard.unrotate(columns, right)


def _columns(x: Matrix, seed: int | None, inverse: bool) -> Matrix:
    if seed is None:
        return x
    rows = contiguous(x.T)
    return contiguous((hadamard.unrotate if inverse else hadamard.rotate)(rows, seed).T)

"""Numbers as they are, in one of the floating dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import FLOATS
from ..kernels import narrow
from ..measure import binary_exponent, scaled
from .base import Encoded, Points, Read, Shadow, buffer, products
from .base.shadow import Numbers

_CUT = 1 << 16
"""Entries that are made wider at a time."""
_FEW = {"float32": (2, 4, 3), "float16": (1, 32, 32), "bfloat16": (1, 32, 32)}
"""From how many columns, and up to how many of F @ x and of x @ F, a kernel reads what is stored; else BLAS does."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Dense(Encoded):
    """``x = values * 2**exponent``: values in float16, bfloat16, float32 or float64.

    Parameters
    ----------
    stored : str
        Dtype of the stored values.
    exponent : int
        A power of two taken out before rounding, so that float16 neither overflows nor underflows; 0 otherwise.
    values : NDArray, ``shape``, ``stored``
        The stored numbers.

    Examples
    --------
    >>> Dense.encode(np.array([0.1, 1000.0], np.float32), stored="bfloat16").decode()
    array([1.00097656e-01, 1.00000000e+03], dtype=float32)
    """

    id: ClassVar[str] = "dense"
    stored: str
    exponent: int = 0
    values: NDArray[Any] = buffer()

    @classmethod
    def encode(cls, x: NDArray[Any], stored: str | None = None) -> Dense:
        """Round ``x`` (float32 or float64) to ``stored``; its own dtype if None."""
        name = stored or str(x.dtype)
        exponent = _half_exponent(x) if name == "float16" else 0
        values = np.ascontiguousarray(scaled(x, -exponent), dtype=FLOATS[name]).reshape(x.shape)
        if values is x or values.base is not None:  # never share memory with the caller's array
            values = values.copy()
        return cls(shape=x.shape, dtype=str(x.dtype), stored=name, exponent=exponent, values=values)

    def check(self) -> None:
        self.require(self.stored in FLOATS, f"stored dtype {self.stored!r} is none of {', '.join(FLOATS)}")
        self.require(isinstance(self.exponent, int) and abs(self.exponent) <= 1200, "exponent is out of range")
        self.require(isinstance(self.values, np.ndarray) and self.values.dtype == FLOATS[self.stored], "wrong dtype")
        self.require(self.values.shape == self.shape, f"values have shape {self.values.shape}, expected {self.shape}")

    def decode(self) -> NDArray[Any]:
        return np.asarray(scaled(self.values.astype(self.dtype), self.exponent))

    def cuts(self) -> Sequence[tuple[slice, slice]]:
        return products.strips(*self.matrix, _CUT)

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        values = self._matrix[rows, columns]
        if self.dtype == "float32" and self._readable:
            return values if self.stored == "float32" else narrow.widen(values, self.exponent)
        return np.asarray(scaled(values.astype(self.dtype), self.exponent))

    def matmul(self, x: NDArray[Any]) -> NDArray[Any]:
        if self._few(x, x.shape[1], 1):
            out = np.zeros((self.matrix[0], x.shape[1]), np.float32)
            narrow.matmul(self._matrix, self.exponent, x, out)
            return out
        return np.asarray(self._matrix @ x) if self._as_it_is(x) else super().matmul(x)

    def rmatmul(self, x: NDArray[Any]) -> NDArray[Any]:
        if self._few(x, x.shape[0], 2):
            out = np.zeros((x.shape[0], self.matrix[1]), np.float32)
            narrow.rmatmul(x, self._matrix, self.exponent, out)
            return out
        return np.asarray(x @ self._matrix) if self._as_it_is(x) else super().rmatmul(x)

    @property
    def _matrix(self) -> NDArray[Any]:
        return self.values.reshape(self.matrix)

    def _as_it_is(self, x: NDArray[Any]) -> bool:
        """Whether BLAS can multiply what is stored."""
        return self.exponent == 0 and self.values.dtype == self.dtype == x.dtype

    def _few(self, x: NDArray[Any], columns: int, side: int) -> bool:
        few = _FEW.get(self.stored, (1, 0, 0))
        right = few[0] <= columns <= few[side] and self.dtype == "float32" and x.dtype == np.float32
        return right and self._readable

    @cached_property
    def _readable(self) -> bool:
        return narrow.readable(self._matrix, self.exponent)

    @property
    def streamed(self) -> str | None:
        return "values"

    def part(self, first: int, stop: int, read: Read | None = None) -> NDArray[Any]:
        values = read(first, stop) if read else self.values.reshape(-1)[first:stop]
        return np.asarray(scaled(values.astype(self.dtype), self.exponent))

    @property
    def on_gpu(self) -> bool:
        return True

    def decode_on_gpu(self) -> Any:
        return scaled(self.values.astype(self.dtype), self.exponent)

    def shadow(self, reselect: bool = False) -> Shadow:
        return Numbers(self)

    def nearest(self, x: NDArray[Any]) -> Dense:
        return self.encode(x, self.stored)

    def points(self) -> Points:
        return Points()

    def reshaped(self, shape: tuple[int, ...]) -> Dense:
        return replace(self, shape=shape, values=self.values.reshape(shape))

    def summary(self) -> str:
        return f"{super().summary()}, {self.stored}"


def _half_exponent(x: NDArray[Any]) -> int:
    """The power of two that brings ``max|x|`` to the top of float16's range: whatever was a float16 stays as it was."""
    exponent = binary_exponent(x) - 16
    return exponent if np.ldexp(float(np.abs(x).max(initial=0.0)), -exponent) <= 65504 else exponent + 1

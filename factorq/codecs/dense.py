"""Numbers as they are, in one of the floating dtypes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import FLOATS
from ..measure import binary_exponent, scaled
from .base import Encoded, Points, buffer


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

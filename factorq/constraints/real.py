"""Floating numbers in a precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from ..arrays import FLOATS
from ..codecs import Dense, Encoded
from ..errors import refuse
from .base import Constraint


@dataclass(frozen=True)
class Real(Constraint):
    """Floating numbers, in ``dtype`` or in the precision they come in.

    Examples
    --------
    >>> import numpy as np
    >>> Real("float16").project(np.array([[1 / 3]], np.float32))
    array([[0.33325195]], dtype=float32)
    """

    id: ClassVar[str] = "real"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in FLOATS:
            raise refuse("dtype", found=repr(self.dtype), allowed=", ".join(FLOATS))

    def encode(self, x: NDArray[Any]) -> Encoded:
        return Dense.encode(x, self.dtype)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return math.prod(shape) * FLOATS[self.dtype or dtype].itemsize

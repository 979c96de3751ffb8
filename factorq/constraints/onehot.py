"""Rows with one entry of 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import NDArray

from ..codecs import Encoded, OneHot
from ..errors import refuse
from ..kernels.bits import packed_size
from .base import Constraint


@dataclass(frozen=True)
class OneHotRows(Constraint):
    """One entry of 1 in each row, at its largest value, zeros elsewhere: the assignments of vector quantization."""

    id: ClassVar[str] = "onehot"

    def encode(self, x: NDArray[Any]) -> Encoded:
        if x.ndim != 2 or x.shape[1] == 0:
            raise refuse("x", found=f"shape {x.shape}", allowed="a matrix (n, K) with at least one column")
        return OneHot.encode(x.argmax(axis=1), x.shape[1], str(x.dtype))

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return packed_size(shape[0], max(1, (shape[1] - 1).bit_length()))

"""The contract of constraints: a set of arrays that can be stored."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from numpy.typing import NDArray

from ..codecs import Encoded
from ..named import Named


class Constraint(Named):
    """A set of arrays that can be stored."""

    kind: ClassVar[str] = "constraints"

    @abstractmethod
    def encode(self, x: NDArray[Any]) -> Encoded:
        """The nearest allowed array to ``x`` (float32 or float64, finite), as it is stored."""

    @abstractmethod
    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        """Bytes that ``encode`` stores for an array of ``shape``; an upper bound where that depends on the values."""

    def project(self, x: NDArray[Any]) -> NDArray[Any]:
        """``encode(x).decode()``."""
        return self.encode(x).decode()

    def __and__(self, other: Constraint) -> Constraint:
        from .intersection import intersect  # here: it knows the members, which are made from this class

        return intersect(self, other)

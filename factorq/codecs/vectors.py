"""Vector codes: a one-hot matrix times a codebook, the rows of the product laid side by side as those of a matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError
from .base import Encoded, Points, buffer


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Vectors(Encoded):
    """``x[i, t d : (t+1) d] = codebook[index[i v + t] + K g(t)]``: the chain one-hot @ codebook, contracted by look-up.

    The array is read as (shape[0], n) and each row is cut into v vectors of d entries; what the last one has beyond
    the row is dropped. The vectors of a row fall into equal ranges g with a codebook of K codewords each; the range
    follows from the position and is not stored.

    Parameters
    ----------
    groups : int
        Number of ranges, at least 1.
    index : Encoded, one-hot, (shape[0] * v, K)
        The codeword of each vector within its range's codebook.
    codebook : Encoded, dense, (groups * K, d)
        The codewords.

    Examples
    --------
    >>> from factorq.codecs import Dense, OneHot
    >>> book = Dense.encode(np.array([[0, 1], [2, 3]], np.float32), "float16")
    >>> index = OneHot.encode(np.array([1, 0]), 2)
    >>> Vectors(shape=(1, 3), dtype="float32", groups=1, index=index, codebook=book).decode()
    array([[2., 3., 0.]], dtype=float32)
    """

    id: ClassVar[str] = "vectors"
    groups: int
    index: Encoded = buffer()
    codebook: Encoded = buffer()

    def check(self) -> None:
        self.require(len(self.shape) >= 1, "no rows")
        factors = (self.index, "onehot"), (self.codebook, "dense")
        sound = all(isinstance(factor, Encoded) and factor.id == id for factor, id in factors)
        self.require(sound, "index is no one-hot matrix, or the codebook is not dense")
        self.require(len(self.codebook.shape) == 2 and self.codebook.shape[1] > 0, "the codebook is no matrix")
        self.require(self.index.dtype == self.dtype == self.codebook.dtype, "factors of another dtype")
        count, per_row = self.index.shape[1], self.per_row
        groups_ok = isinstance(self.groups, int) and 1 <= self.groups <= max(per_row, 1)
        self.require(groups_ok, f"groups {self.groups!r} not in 1..{per_row}")
        self.require(self.index.shape[0] == self.shape[0] * per_row, f"{self.index.shape[0]} codes")
        self.require(self.codebook.shape[0] == self.groups * count, f"{self.codebook.shape[0]} codewords")

    @property
    def per_row(self) -> int:
        """Vectors per row."""
        return -(-math.prod(self.shape[1:]) // self.codebook.shape[1])

    def decode(self) -> NDArray[Any]:
        n = math.prod(self.shape[1:])
        offset = self.index.shape[1] * ranges(self.per_row, self.groups)
        codes = self.indices().astype(np.int64).reshape(self.shape[0], self.per_row) + offset
        wide = self.codebook.decode()[codes].reshape(self.shape[0], self.per_row * self.codebook.shape[1])
        return np.ascontiguousarray(wide[:, :n]).reshape(self.shape)

    def indices(self) -> NDArray[Any]:
        """The codeword of each vector within its range, (shape[0] * v,) unsigned."""
        index: NDArray[Any] = self.index.index()  # type: ignore[attr-defined]
        return index

    def nearest(self, x: NDArray[Any]) -> Vectors:
        raise ArtifactError("vectors: entries are not coded one by one")

    def points(self) -> Points:
        return Points()

    def summary(self) -> str:
        books = f", {self.groups} codebooks" if self.groups > 1 else ""
        return f"{super().summary()}, {self.index.shape[1]} codewords of {self.codebook.shape[1]}{books}"


def ranges(per_row: int, groups: int) -> NDArray[np.int64]:
    """The range of each vector of a row, (per_row,): as equal as can be."""
    return np.arange(per_row, dtype=np.int64) * groups // max(per_row, 1)

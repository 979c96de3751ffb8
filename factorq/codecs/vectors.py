"""Vector codes: a one-hot matrix times a codebook, the rows of the product laid side by side as those of a matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import contiguous, namespace
from ..errors import ArtifactError
from ..kernels import lookup
from .base import Encoded, Ops, Points, Shadow, buffer, products
from .base.shadow import Arrays, Tensor, Tensors

_CUT = 1 << 16
"""Entries that are decoded at a time."""
_FEW = 16
"""Columns up to which a GPU multiplies codes as they are, four columns at a time; not yet measured there."""
_SHARE, _LEAST = 64, 1 << 16
"""Codes unpacked at a time take at most this part of the array, or so many bytes."""


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
        out = np.empty(self.matrix, self.dtype)
        for rows, columns in self.cuts():
            out[rows, columns] = self.cut(rows, columns)
        return out.reshape(self.shape)

    @property
    def on_gpu(self) -> bool:
        return True

    def decode_on_gpu(self) -> Any:
        index, v = self.index.index_on_gpu(), self.per_row  # type: ignore[attr-defined]
        owner = namespace(index).arange(v) * self.groups // max(v, 1)
        codes = index.astype("int64").reshape(self.shape[0], v) + self.index.shape[1] * owner
        wide = self.codebook.decode_on_gpu()[codes].reshape(self.shape[0], -1)
        return wide[:, : self.matrix[1]].reshape(self.shape)

    def matmul_on_gpu(self, x: Any) -> Any:
        if str(x.dtype) != "float32" or x.shape[1] > _FEW:
            return super().matmul_on_gpu(x)
        out = namespace(x).zeros((self.matrix[0], x.shape[1]), x.dtype)
        lookup.matmul(*self._codes_on_gpu(), contiguous(x), out)
        return out

    def rmatmul_on_gpu(self, x: Any) -> Any:
        if str(x.dtype) != "float32" or len(x) > _FEW:
            return super().rmatmul_on_gpu(x)
        out = namespace(x).zeros((len(x), self.matrix[1]), x.dtype)
        lookup.rmatmul(*self._codes_on_gpu(), contiguous(x), out)
        return out

    def _codes_on_gpu(self) -> tuple[Any, Any]:
        codes = self.index.index_on_gpu().reshape(self.matrix[0], self.per_row)  # type: ignore[attr-defined]
        return codes, self.codebook.decode_on_gpu().reshape(self.groups, self.index.shape[1], -1)

    def indices(self) -> NDArray[Any]:
        """The codeword of each vector within its range, (shape[0] * v,) unsigned."""
        index: NDArray[Any] = self.index.index()  # type: ignore[attr-defined]
        return index

    def cuts(self) -> Sequence[tuple[slice, slice]]:
        return products.strips(*self.matrix, _CUT, self.codebook.shape[1])

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        dim, v = self.codebook.shape[1], self.per_row
        places = slice(columns.start // dim, -(-columns.stop // dim))
        first, stop = rows.start * v + places.start, (rows.stop - 1) * v + places.stop
        codes = self.index.index(first, stop).reshape(rows.stop - rows.start, -1)  # type: ignore[attr-defined]
        words = self.books[ranges(v, self.groups)[places], codes]
        return np.asarray(words.reshape(len(codes), -1)[:, : columns.stop - columns.start])

    def matmul(self, x: NDArray[Any]) -> NDArray[Any]:
        if x.dtype != np.float32 or not self._plain:
            return super().matmul(x)
        out = np.zeros((self.matrix[0], x.shape[1]), np.float32)
        for rows, codes in self._blocks():
            lookup.matmul(codes, self._words, x, out[rows])
        return out

    def rmatmul(self, x: NDArray[Any]) -> NDArray[Any]:
        if x.dtype != np.float32 or not self._plain:
            return super().rmatmul(x)
        out = np.zeros((x.shape[0], self.matrix[1]), np.float32)
        for rows, codes in self._blocks():
            lookup.rmatmul(codes, self._words, x[:, rows], out)
        return out

    @cached_property
    def books(self) -> NDArray[Any]:
        """The codewords, (groups, K, d)."""
        return self.codebook.decode().reshape(self.groups, self.index.shape[1], -1)

    @cached_property
    def _words(self) -> lookup.Codewords:
        """The codewords that a product looks up: pairs of pairs of them, where that many codes fill a byte."""
        book = self.books
        for _ in range(self._codes_at_once.bit_length() - 1):
            first, second = np.tile(book, (1, book.shape[1], 1)), np.repeat(book, book.shape[1], axis=1)
            book = np.concatenate([first, second], axis=2)
        return lookup.Codewords.of(book)

    @cached_property
    def _codes_at_once(self) -> int:
        """Codes that are looked up as one: two of few bits are one of twice as many, for words of twice the length."""
        bits, count = self._bits, 8 // self._bits
        fills = bits in (1, 2, 4) and self.index.shape[1] == 1 << bits and self.per_row % count == 0
        return count if fills and self.groups == 1 and count * self.codebook.shape[1] <= lookup.WIDEST else 1

    @property
    def _bits(self) -> int:
        return self.index.packed()["indices"].bits

    def _blocks(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Rows and their codes, all at once where they are whole bytes as they are stored."""
        m, v = self.matrix[0], self.per_row
        if self._codes_at_once > 1:
            yield slice(0, m), self.index.buffers()["indices"].reshape(m, -1)
            return
        step = m if self._bits in (8, 16) else self._rows_at_once
        for i in range(0, m, step):
            rows = slice(i, min(i + step, m))
            codes = self.index.codes(rows.start * v, rows.stop * v)  # type: ignore[attr-defined]
            yield rows, codes.reshape(-1, v)

    @cached_property
    def _rows_at_once(self) -> int:
        """Rows whose codes may be unpacked; 0 if even one is too long."""
        nbytes = self.per_row * (1 if self._bits <= 8 else 2)
        return min(self.matrix[0], max(4 * self.size // _SHARE, _LEAST) // max(nbytes, 1))

    @cached_property
    def _plain(self) -> bool:
        """Whether look-ups serve: not where a number that is not finite would be multiplied by a zero of theirs.

        They do for any number of columns: at 2048x4096 with 256 columns they took 52 to 65 ms for 256 codewords of 8,
        decoding and BLAS 234; for 4096 codewords of 4, 257 and 345.
        """
        return self.dtype == "float32" and self._rows_at_once > 0 and bool(np.isfinite(self.books).all())

    def shadow(self, reselect: bool = False) -> Shadow:
        return _Words(self)

    def nearest(self, x: NDArray[Any]) -> Vectors:
        raise ArtifactError("vectors: entries are not coded one by one")

    def points(self) -> Points:
        return Points()

    def summary(self) -> str:
        books = f", {self.groups} codebooks" if self.groups > 1 else ""
        return f"{super().summary()}, {self.index.shape[1]} codewords of {self.codebook.shape[1]}{books}"


class _Words(Shadow):
    """The codewords learn from all vectors that point to them; the assignment stays."""

    encoded: Vectors

    def __init__(self, encoded: Vectors) -> None:
        super().__init__(encoded)
        self._book = encoded.codebook.shadow()

    def parameters(self, start: NDArray[Any] | None = None) -> Arrays:
        return self._book.parameters()

    def constants(self) -> Arrays:
        encoded = self.encoded
        first = encoded.index.shape[1] * ranges(encoded.per_row, encoded.groups)
        codes = encoded.indices().astype(np.int64).reshape(-1, encoded.per_row) + first
        return {"codes": codes, **self._book.constants()}

    def value(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Tensor:
        m, n = self.encoded.matrix
        words = self._book.value(ops, parameters, constants)[constants["codes"]]
        return words.reshape(m, -1)[:, :n].reshape(self.encoded.shape)

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Encoded:
        return replace(self.encoded, codebook=self._book.stored(parameters))


def ranges(per_row: int, groups: int) -> NDArray[np.int64]:
    """The range of each vector of a row, (per_row,): as equal as can be."""
    return np.arange(per_row, dtype=np.int64) * groups // max(per_row, 1)

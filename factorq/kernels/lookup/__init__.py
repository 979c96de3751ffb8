"""Products with a matrix of codewords that is never built: W[i, t d : (t+1) d] = book[g(t), codes[i, t]].

Two ways, and :mod:`.plan` says which is due. *Directly*, a codeword is multiplied where it lies: v multiply-adds of d
numbers for each row and column of x. *By tables*, ``table_t[k] = codeword_k . x_t`` is made for a few places t at a
time and read at r codes, which takes K d + r steps instead of r d; in the other direction ``table_t[k]`` sums the rows
of x whose code is k, and is multiplied with the codebook then.

Sums are float32, in an order that does not depend on the number of threads. With u = 2^-24 and v codes in a row,

    |y_i - sum_j W_ij x_j| <= (v + d + G ceil(d / 8) + 16) u sum_j |W_ij x_j|

for W x and G codebooks, to first order; for x W of r rows, with r + K + 16 in the place of all that. On a GPU chains
are at most ``d (ceil(v / 32) + 1) + 64`` long.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import is_cupy
from ...errors import ArtifactError, refuse, refuse_type
from .. import twin
from ..threads import each, product_workers, ranges
from .plan import WIDEST, aligned, bounds, pieces, split_book, split_rows, table_room

__all__ = ["WIDEST", "Codewords", "matmul", "rmatmul"]

Array = NDArray[Any]
Floats = NDArray[np.float32]

_ROWS = 4
"""Rows that a kernel deals with at a time: threads begin at multiples of it."""
_PLACES = 16
"""The same for places of codes."""


@dataclass(frozen=True)
class Codewords:
    """G codebooks of K codewords of d entries, as the kernels read them: made once, for many products.

    Parameters
    ----------
    groups, count, dim : int
        G, K and d.
    parts : (G, S, K', L) array of float32
        Each codeword as S vectors of L = 4 or 8 entries, with zeros up to the next multiple of L, and of 8 codewords.
    """

    groups: int
    count: int
    dim: int
    parts: Floats

    @classmethod
    def of(cls, book: Floats) -> Codewords:
        """The codewords ``book`` (G, K, d), float32.

        Raises
        ------
        ArgumentTypeError
            If it is no such array, or empty.
        """
        if not isinstance(book, np.ndarray) or book.ndim != 3 or book.dtype != np.float32 or not book.size:
            found = f"{book.dtype} {book.shape}" if isinstance(book, np.ndarray) else type(book).__name__
            raise refuse_type("book", found=found, allowed="float32 (G, K, d)")
        groups, count, dim = book.shape
        return cls(groups, count, dim, split_book(book))


def matmul(codes: Array, book: Any, x: Floats, out: Floats) -> None:
    """out[i] += sum_t book[g(t), codes[i, t]] . x[t d : (t+1) d], g(t) = t G // v: (r, v d) times (v d, b).

    Parameters
    ----------
    codes : (r, v) array of uint8 or uint16, all less than K
        The codes of a row lie side by side, rows as far apart as they may.
    book : Codewords, or (G, K, d) CuPy array of float32
        G codebooks of K codewords of d entries, G at most v. The array goes with CuPy arrays in all places, which are
        taken as they are: codes are not looked at.
    x : (n, b) array of float32, n <= v d
        Rows beyond n count as zero.
    out : (r, b) array of float32
        Changed in place.

    Raises
    ------
    ArtifactError
        If a code is not less than K.
    ArgumentError, ArgumentTypeError
        If the arguments are not as above.

    Examples
    --------
    >>> book = Codewords.of(np.array([[[0, 1], [2, 3]]], np.float32))
    >>> out = np.zeros((1, 1), np.float32)
    >>> matmul(np.array([[1, 0]], np.uint8), book, np.array([[1], [10], [100], [1000]], np.float32), out)
    >>> out
    array([[1032.]], dtype=float32)
    """
    if is_cupy(codes):
        twin(__name__, codes, book, x, out).matmul(codes, book, x, out)
        return
    _check(codes, book, x, out)
    rows, wide = len(codes), codes.shape[1] * book.dim
    if x.shape[0] > wide or out.shape != (rows, x.shape[1]):
        raise refuse("x", found=f"{x.shape} for out {out.shape}", allowed=f"(n, b), n <= {wide}, for ({rows}, b)")
    if not out.size or not wide:
        return
    product = _Product.of(codes, book)
    for columns, lanes in pieces(rows, book.count, book.dim, x.shape[1]):
        part = x[:, columns]
        out[:, columns] += product.gathers(part, lanes) if lanes else product.dots(part)


def rmatmul(codes: Array, book: Any, x: Floats, out: Floats) -> None:
    """out[:, t d : (t+1) d] += sum_i x[:, i] book[g(t), codes[i, t]], g(t) = t G // v: (b, r) times (r, v d).

    Parameters
    ----------
    codes, book
        As for :func:`matmul`.
    x : (b, r) array of float32
    out : (b, n) array of float32, n <= v d
        Changed in place; what is beyond n is dropped.

    Raises
    ------
    ArtifactError, ArgumentError, ArgumentTypeError
        As for :func:`matmul`.

    Examples
    --------
    >>> book = Codewords.of(np.array([[[0, 1], [2, 3]]], np.float32))
    >>> out = np.zeros((1, 3), np.float32)
    >>> rmatmul(np.array([[1, 0]], np.uint8), book, np.array([[10]], np.float32), out)
    >>> out
    array([[20., 30.,  0.]], dtype=float32)
    """
    if is_cupy(codes):
        twin(__name__, codes, book, x, out).rmatmul(codes, book, x, out)
        return
    _check(codes, book, x, out)
    rows, wide, n = len(codes), codes.shape[1] * book.dim, out.shape[1]
    if x.shape[1] != rows or len(out) != len(x) or n > wide:
        raise refuse("x", found=f"{x.shape} for out {out.shape}", allowed=f"(b, {rows}) for (b, n), n <= {wide}")
    if not out.size or not rows:
        return
    product = _Product.of(codes, book)
    for columns, lanes in pieces(rows, book.count, book.dim, len(x)):
        part = x[columns].T
        out[columns] += (product.scatters(part, lanes) if lanes else product.axpys(part)).T[:, :n]


@dataclass(frozen=True)
class _Product:
    """A matrix of codewords, laid out for the kernels, and the threads that they run on."""

    kernel: ModuleType
    threads: int
    codes: Array
    bounds: NDArray[np.int64]
    books: Floats
    dim: int

    @classmethod
    def of(cls, codes: Array, book: Codewords) -> _Product:
        codes = codes if codes.strides[1] == codes.itemsize and codes.flags.aligned else codes.copy()
        places = bounds(codes.shape[1], book.groups)
        return cls(twin(__name__, codes), product_workers(), codes, places, book.parts, book.dim)

    def dots(self, x: Floats) -> Floats:
        entries, sums = split_rows(x, self.codes.shape[1], self.dim), aligned(len(self.codes), x.shape[1])

        def run(part: slice) -> None:
            self.kernel.dots(self.codes, self.bounds, self.books, entries, part.start, part.stop, sums)

        each(run, ranges(len(sums), self.threads, _ROWS), self.threads)
        return sums

    def axpys(self, x: Floats) -> Floats:
        entries, (_, parts, _, lanes) = np.ascontiguousarray(x), self.books.shape
        sums = aligned(x.shape[1], parts, self.codes.shape[1], lanes)

        def run(part: slice) -> None:
            self.kernel.axpys(self.codes, self.bounds, self.books, entries, part.start, part.stop, sums)

        each(run, ranges(sums.shape[2], self.threads, _PLACES), self.threads)
        rows = sums.transpose(2, 1, 3, 0).reshape(sums.shape[2], -1, x.shape[1])[:, : self.dim]
        return rows.reshape(-1, x.shape[1])

    def gathers(self, x: Floats, lanes: int) -> Floats:
        entries, sums = aligned(self.codes.shape[1] * self.dim, lanes), aligned(len(self.codes), lanes)
        entries[: len(x), : x.shape[1]] = x

        def run(part: slice) -> None:
            tables = table_room(self.books, lanes)
            self.kernel.gathers(
                self.codes, self.bounds, self.books, self.dim, entries, tables, part.start, part.stop, sums
            )

        each(run, ranges(len(sums), self.threads, _ROWS), self.threads)
        return sums[:, : x.shape[1]]

    def scatters(self, x: Floats, lanes: int) -> Floats:
        entries, sums = aligned(len(x), lanes), aligned(self.codes.shape[1] * self.dim, lanes)
        entries[:, : x.shape[1]] = x

        def run(part: slice) -> None:
            tables = table_room(self.books, lanes)
            self.kernel.scatters(
                self.codes, self.bounds, self.books, self.dim, entries, tables, part.start, part.stop, sums
            )

        each(run, ranges(self.codes.shape[1], self.threads, _PLACES), self.threads)
        return sums[:, : x.shape[1]]


def _check(codes: Array, book: Codewords, x: Floats, out: Floats) -> None:
    if not isinstance(codes, np.ndarray) or codes.ndim != 2 or codes.dtype not in (np.uint8, np.uint16):
        found = f"{codes.dtype} {codes.shape}" if isinstance(codes, np.ndarray) else type(codes).__name__
        raise refuse_type("codes", found=found, allowed="uint8 or uint16 (r, v)")
    for name, array in (("x", x), ("out", out)):
        if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype != np.float32:
            found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise refuse_type(name, found=found, allowed="a float32 matrix")
    if book.groups > max(codes.shape[1], 1):
        raise refuse("book", found=f"{book.groups} groups", allowed=f"at most {codes.shape[1]}, the codes of a row")
    if codes.size and book.count <= np.iinfo(codes.dtype).max and int(codes.max()) >= book.count:
        raise ArtifactError(f"vectors: code {int(codes.max())} for {book.count} codewords")

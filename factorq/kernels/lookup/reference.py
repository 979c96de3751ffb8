"""The specification of products with vector codes: the rows or places asked for are built, then multiplied."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float32]


def dots(codes: Array, bounds: Array, books: Floats, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[i, c] += sum_t word(i, t) . x[c, :, t] for rows i in first..stop, x (b, S, v, L)."""
    out[first:stop] += np.einsum("itsl,cstl->ic", _words(codes[first:stop], bounds, books), x)


def axpys(codes: Array, bounds: Array, books: Floats, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[c, :, t] += sum_i x[i, c] word(i, t) for places t in first..stop, out (b, S, v, L)."""
    words = _words(codes, bounds, books)[:, first:stop]
    out[:, :, first:stop] += np.einsum("ic,itsl->cstl", x, words)


def gathers(
    codes: Array, bounds: Array, books: Floats, dim: int, x: Floats, tables: Floats, first: int, stop: int, out: Floats
) -> None:
    """out[i] += sum_t table_t[code(i, t)], table_t = book x[t dim : (t + 1) dim], for rows i in first..stop.

    ``tables`` is room for some of them.
    """
    out[first:stop] += _matrix(codes[first:stop], bounds, books, dim) @ x


def scatters(
    codes: Array, bounds: Array, books: Floats, dim: int, x: Floats, tables: Floats, first: int, stop: int, out: Floats
) -> None:
    """out[t dim : (t + 1) dim] += book^T table_t, table_t[k] = sum of x[i] over code(i, t) = k, t in first..stop."""
    places = slice(first * dim, stop * dim)
    out[places] += _matrix(codes, bounds, books, dim)[:, places].T @ x


def _words(codes: Array, bounds: Array, books: Floats) -> Floats:
    """The codewords (r, v, S, L) of codes (r, v), of books (G, S, K, L)."""
    group = np.searchsorted(bounds, np.arange(codes.shape[1]), side="right") - 1
    return np.asarray(books.transpose(0, 2, 1, 3)[group, codes])


def _matrix(codes: Array, bounds: Array, books: Floats, dim: int) -> Floats:
    words = _words(codes, bounds, books)
    return words.reshape(*codes.shape, -1)[:, :, :dim].reshape(len(codes), -1)

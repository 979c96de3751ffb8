"""Which way a product with vector codes goes, and how its arrays lie for the kernels."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LANES = (4, 8, 16)
"""Columns of x that tables may have."""
WIDEST = 64
"""Entries that codewords may have when several codes are looked up as one."""
_TABLES = 1 << 17
"""Bytes of tables at a time: they stay in a second-level cache of 512 KB beside what else passes through it. For 16
columns of 4096x4096, K = 256 and d = 8, tables of 8 places (128 KB) took 4.5 ms, of 32 places 6.1, of one 7.3."""
_DIRECT = 0.2
_LOOKUP = {4: 0.8, 8: 1.0, 16: 1.3}
_ENTRY = {4: 0.24, 8: 0.24, 16: 0.5}
"""Nanoseconds on one core of an EPYC, 2 Mi codes, K = 256 and d = 8: a multiply-add of up to 8 entries of a codeword
for one column; a look-up for 4, 8 or 16 columns; a multiply-add on the way to a table of so many columns."""


def pieces(rows: int, count: int, dim: int, columns: int) -> list[tuple[slice, int]]:
    """Ranges of columns of x, and the columns that their tables have, 0 for the direct way.

    ``count`` codewords of ``dim`` entries, ``rows`` rows of codes.
    """
    found = []
    for first in range(0, columns, LANES[-1]):
        size = min(LANES[-1], columns - first)
        lanes = next(lanes for lanes in LANES if lanes >= size)
        table = rows * _LOOKUP[lanes] + count * dim * _ENTRY[lanes]
        direct = rows * size * -(-dim // 8) * _DIRECT
        found.append((slice(first, first + size), lanes if table < direct else 0))
    return found


@lru_cache(maxsize=64)
def bounds(places: int, groups: int) -> NDArray[np.int64]:
    """The first place of each group and the number of all, (groups + 1,): place t is in group t groups // places."""
    found = -(-np.arange(groups + 1, dtype=np.int64) * places // groups)
    found.flags.writeable = False
    return found


def split_book(book: Floats) -> Floats:
    """Codewords (G, K, d) as (G, S, K', L): S vectors of L = 4 or 8 entries each; zeros up to K', a multiple of 8."""
    groups, count, dim = book.shape
    lanes = _lanes(dim)
    parts = -(-dim // lanes)
    wide = np.zeros((groups, -(-count // 8) * 8, parts * lanes), np.float32)
    wide[:, :count, :dim] = book
    out = aligned(groups, parts, wide.shape[1], lanes)
    out[...] = wide.reshape(groups, -1, parts, lanes).transpose(0, 2, 1, 3)
    return out


def split_rows(x: Floats, places: int, dim: int) -> Floats:
    """x (n, b) as (b, S, places, L): entry s L + l of place t is row t dim + s L + l of x, zero where there is none."""
    lanes = _lanes(dim)
    out = aligned(x.shape[1], -(-dim // lanes), places, lanes)
    columns = x.T
    if len(x) < places * dim:
        columns = np.zeros((x.shape[1], places * dim), np.float32)
        columns[:, : len(x)] = x.T
    whole = columns.reshape(-1, places, dim)
    for s in range(out.shape[1]):
        part = whole[:, :, s * lanes : (s + 1) * lanes]
        out[:, s, :, : part.shape[2]] = part
    return out


def table_room(books: Floats, lanes: int) -> Floats:
    """Room for the tables of up to 8 places."""
    size = books.shape[2] * lanes
    return aligned(size * max(1, min(8, _TABLES // (4 * size))))


def aligned(*shape: int) -> Floats:
    """Zeros that start at a multiple of 64 bytes.

    Vectors across two lines of the cache take longer to load: where every other codeword lay so, products took 1.6
    times as long.
    """
    room = np.zeros(math.prod(shape) + 16, np.float32)
    start = -room.__array_interface__["data"][0] % 64 // 4
    found: Any = room[start : start + math.prod(shape)]
    return np.asarray(found.reshape(shape))


def _lanes(dim: int) -> int:
    return 4 if dim <= 4 else 8

"""The XOR network of the slices and where their outputs stand: what both twins and the door share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..splitmix64 import splitmix64

WIDTH = 512
"""Slices of a full tile."""
EXHAUSTIVE = 12
"""Up to this many inputs, all of them are tried."""


def tile_count(size: int, n_out: int) -> int:
    """ceil(size / (512 * n_out)): tiles of ``size`` positions."""
    return -(-size // (WIDTH * n_out))


def tile_width(size: int, n_out: int, tile: int) -> int:
    """Slices of a tile: 512; in the last one ceil(rest / n_out), rounded up to a multiple of 8."""
    rest = size - tile * WIDTH * n_out
    return min(WIDTH, -(-rest // (8 * n_out)) * 8)


def stream_bytes(size: int, n_in: int, n_out: int) -> int:
    """Bytes of the stream of one plane: for each tile, ``n_in`` rows of one bit per slice."""
    tiles = tile_count(size, n_out)
    return sum(n_in * (count * width // 8) for count, width in _widths(size, n_out, tiles))


def network(n_in: int, n_out: int, seed: int) -> NDArray[np.uint64]:
    """Rows of M (n_out, ceil(n_in / 64)): bit q of a row, lowest bit of its first word first, is input q.

    Row i is made of the words ``i * w .. i * w + w - 1`` that splitmix64 gives from ``seed``, ``w = ceil(n_in / 64)``;
    of the last one only the low bits are kept. A row that comes out zero gets the one bit ``i % n_in``.
    """
    words = -(-n_in // 64)
    rows = splitmix64(n_out * words, seed).reshape(n_out, words)
    rows[:, -1] &= np.uint64((1 << (n_in - 64 * (words - 1))) - 1)
    for i in np.flatnonzero(~rows.any(axis=1)).tolist():
        rows[i, i % n_in // 64] = np.uint64(1 << i % n_in % 64)
    return rows


def _widths(size: int, n_out: int, tiles: int) -> list[tuple[int, int]]:
    """(how many, slices) of the tiles before the last one, and of the last one."""
    return [(tiles - 1, WIDTH), (1, tile_width(size, n_out, tiles - 1))] if tiles else []

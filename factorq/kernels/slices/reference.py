"""The specification of the slices: one slice, one equation, one input at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .network import EXHAUSTIVE, WIDTH, network, tile_count, tile_width

Bytes = NDArray[np.uint8]


def solve(care: NDArray[np.bool_], values: NDArray[np.uint64], planes: int, n_in: int, n_out: int, seed: int) -> Bytes:
    """Streams (planes, bytes) of the inputs of all slices."""
    rows = _integers(network(n_in, n_out, seed))
    codes = np.zeros(care.size, np.uint64)
    codes[care] = values
    parts = [np.zeros((planes, 0), np.uint8)]
    for tile in range(tile_count(care.size, n_out)):
        start, width = tile * WIDTH * n_out, tile_width(care.size, n_out, tile)
        inputs = np.zeros((planes, n_in, width), np.uint8)
        for s in range(width):
            positions = np.arange(start + s, care.size, width)[:n_out]
            kept = np.flatnonzero(care[positions]).tolist()
            equations = [(rows[i], int(codes[positions[i]]) & ((1 << planes) - 1)) for i in kept]
            for j, x in enumerate(_solve_slice(equations, planes, n_in)):
                inputs[j, :, s] = [(x >> q) & 1 for q in range(n_in)]
        parts.append(np.packbits(inputs, axis=2, bitorder="little").reshape(planes, -1))
    return np.concatenate(parts, axis=1)


def outputs(stream: Bytes, size: int, n_in: int, n_out: int, seed: int, first: int, stop: int) -> Bytes:
    """Bitmaps (planes, bytes) of the outputs of the tiles first..stop: y = M x (mod 2)."""
    rows = np.unpackbits(network(n_in, n_out, seed).astype("<u8").view(np.uint8), axis=1, bitorder="little")
    matrix = rows[:, :n_in].astype(np.int64)
    bits = [np.zeros((len(stream), 0), np.uint8)]
    for tile in range(first, stop):
        start, width = tile * WIDTH * n_out, tile_width(size, n_out, tile)
        at = tile * n_in * (WIDTH // 8)
        inputs = stream[:, at : at + n_in * (width // 8)].reshape(len(stream), n_in, width // 8)
        y = (matrix @ np.unpackbits(inputs, axis=2, bitorder="little").astype(np.int64)) % 2
        bits.append(y.reshape(len(stream), -1)[:, : size - start].astype(np.uint8))
    return np.packbits(np.concatenate(bits, axis=1), axis=1, bitorder="little")


def _solve_slice(equations: list[tuple[int, int]], planes: int, n_in: int) -> list[int]:
    """Inputs x_j of each plane j that fit its equations (row, code): parity(row & x_j) = bit j of the code."""
    if n_in > EXHAUSTIVE:
        return _eliminate(equations, planes, n_in)
    return [_search([(row, (code >> j) & 1) for row, code in equations], n_in) for j in range(planes)]


def _eliminate(equations: list[tuple[int, int]], planes: int, n_in: int) -> list[int]:
    """Each equation is reduced by those before it until its lowest input is new; if nothing is left, it is dropped."""
    pivots: dict[int, tuple[int, int]] = {}
    for row, code in equations:
        lowest = _lowest(row)
        while row and lowest in pivots:
            row, code = row ^ pivots[lowest][0], code ^ pivots[lowest][1]
            lowest = _lowest(row)
        if row:
            pivots[lowest] = row, code
    inputs = [0] * planes  # inputs that are no pivots stay zero
    for q in sorted(pivots, reverse=True):
        row, code = pivots[q]
        for j in range(planes):
            inputs[j] |= (((code >> j) & 1) ^ _parity(row & inputs[j])) << q
    return inputs


def _search(equations: list[tuple[int, int]], n_in: int) -> int:
    """The smallest of the inputs with the fewest mismatches."""
    x = np.arange(1 << n_in, dtype=np.uint64)
    mismatches = np.zeros(x.size, np.int64)
    for row, bit in equations:
        mismatches += (np.bitwise_count(x & np.uint64(row)) & 1) != bit
    return int(np.argmin(mismatches))


def _integers(rows: NDArray[np.uint64]) -> list[int]:
    return [sum(word << (64 * k) for k, word in enumerate(row)) for row in rows.tolist()]


def _lowest(row: int) -> int:
    return (row & -row).bit_length() - 1


def _parity(row: int) -> int:
    return row.bit_count() & 1

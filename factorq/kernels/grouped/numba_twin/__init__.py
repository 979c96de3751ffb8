"""Products with codes as they are packed: eight at a time through vector registers, on threads of our own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from ...threads import each, product_workers, ranges
from ..layout import LANES, MOST_LEVELS, Matrix
from .blocks import block_of
from .loops import BAND, adder, dotter, stripper
from .panels import empty, fill
from .walk import Tile

Floats = NDArray[np.float32]

_STEP = 128
"""Codes of a row in a turn of the innermost loop, at most."""
_SMALL = 1 << 18
"""Products of fewer multiplications run on one thread."""


def matmul(matrix: Matrix, x: Floats) -> Floats:
    exponent = _exponent(x)
    out = np.empty((matrix.shape[0], x.shape[1]), np.float32)
    for part, columns in _parts(x.shape[1]):
        out[:, part] = _dots(matrix, x[:, part], columns, exponent)
    return _scaled(out, -exponent)


def rmatmul(x: Floats, matrix: Matrix) -> Floats:
    exponent = _exponent(x)
    out = np.empty((x.shape[0], matrix.shape[1]), np.float32)
    for part, columns in _parts(x.shape[0]):
        _sums(matrix, x[part], columns, exponent, out[part])
    return _scaled(out, -exponent)


def _dots(matrix: Matrix, x: Floats, columns: int, exponent: int) -> Floats:
    """M @ x * 2**exponent, for panels of so many columns."""
    (rows, n), segment = matrix.shape, matrix.segment
    tile = _tile(matrix.bits, gcd(n, segment), columns, matrix.minima is not None, matrix.levels is not None)
    width = -(-x.shape[1] // columns) * columns
    panels, sums = _aligned(width * n), _aligned(width * -(-n // segment) * LANES)
    fill(x, columns, _powers(tile), np.float32(2.0**exponent), segment, panels, sums)
    init = np.zeros_like(sums) if tile.minima else np.float32(-matrix.zero) * sums
    out, stored, levels = np.zeros(rows * width, np.float32), _stored(matrix), _levels(matrix)
    loop = dotter(tile)

    def multiply(some: slice) -> None:
        arrays = *stored, *_room(matrix), levels, panels, init, sums, out
        loop(*arrays, n, segment, matrix.per_row, width, some.start, some.stop)

    _run(multiply, rows, rows * n * width)
    return out.reshape(rows, width)[:, : x.shape[1]]


def _sums(matrix: Matrix, x: Floats, columns: int, exponent: int, out: Floats) -> None:
    """Out = x @ M * 2**exponent, for panels of so many columns."""
    (rows, n), segment = matrix.shape, matrix.segment
    tile = _tile(matrix.bits, gcd(n, segment), columns, matrix.minima is not None, matrix.levels is not None)
    width, height = -(-len(x) // columns) * columns, -(-rows // tile.rows) * tile.rows
    wide = np.zeros((width, height), np.float32)
    np.multiply(x, np.float32(2.0**exponent), out=wide[: len(x), :rows])
    weights = np.ascontiguousarray(wide.reshape(-1, columns, height).transpose(0, 2, 1)).reshape(-1)
    groups = -(-n // segment)
    product, sums = np.zeros(width * n, np.float32), np.zeros(width * groups, np.float32)
    stored, levels = _stored(matrix), _levels(matrix)
    loop = stripper(tile._replace(times=1)) if columns == 4 else adder(tile)

    def add(some: slice) -> None:
        arrays = *stored, *_room(matrix), levels, weights, product, sums
        loop(*arrays, rows, n, segment, matrix.per_row, width, height, some.start, some.stop)

    _run(add, groups, rows * n * width)
    empty(product, sums, columns, _powers(tile), np.float32(1.0 if tile.minima else -matrix.zero), segment, out)


def _parts(count: int) -> list[tuple[slice, int]]:
    """The columns in panels of 4, and what is left in one of 1, 2 or 4."""
    whole = count // 4 * 4
    rest = [(slice(whole, count), 4 if count - whole == 3 else count - whole)] if count > whole else []
    return [(slice(0, whole), 4)] * (whole > 0) + rest


def _exponent(x: Floats) -> int:
    """The power of two that brings x near 2**40: far from both ends of the range with codes and float16 scales."""
    peak = max(float(x.max()), -float(x.min()))
    return int(min(40 - np.frexp(peak)[1], 126))


def _scaled(x: Floats, exponent: int) -> Floats:
    x *= np.float32(2.0**exponent)
    return x


@cache
def _tile(bits: int, multiple: int, columns: int, minima: bool, levels: bool) -> Tile:
    """The loop for groups and rows of a multiple of so many codes."""
    block = block_of(bits, multiple)
    times = next(t for t in (8, 4, 2, 1) if t == 1 or (block.codes * t <= _STEP and multiple % (block.codes * t) == 0))
    rows = 4 if columns < 4 and not levels else 2  # at most 8 sums, for 16 registers; levels need some themselves
    return Tile(bits, block.run, times, rows, columns, minima, levels)


@cache
def _powers(tile: Tile) -> Floats:
    """The powers of two that what meets the code k of a lane is multiplied with: (run, 8)."""
    places = [[0 if tile.levels else tile.block.place(lane, k) for lane in range(LANES)] for k in range(tile.run)]
    return np.asarray(0.5 ** np.asarray(places), np.float32)


def _aligned(size: int) -> Floats:
    """``size`` numbers from the start of a line of the cache on: a vector that lies across two is loaded twice."""
    room = np.empty(size + 16, np.float32)
    return room[-room.ctypes.data % 64 // 4 :][:size]


def _stored(matrix: Matrix) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint16]]:
    """Codes, and the bits of all scales and minima; none of these for 0."""
    rows = matrix.shape[0]
    scales = np.ones((1, 1), np.float16) if matrix.scales is None else matrix.scales
    minima = np.empty((1, 0), np.float16) if matrix.minima is None else matrix.minima
    bits = [(x if len(x) == rows else np.repeat(x, rows, axis=0)).reshape(-1).view(np.uint16) for x in (scales, minima)]
    return matrix.codes, bits[0], bits[1]


def _room(matrix: Matrix) -> tuple[Floats, Floats]:
    """For the scales and minima of a band of rows as float32."""
    size = BAND * matrix.per_row
    return np.empty(size, np.float32), np.empty(size, np.float32)


def _levels(matrix: Matrix) -> Floats:
    levels = np.zeros(MOST_LEVELS, np.float32)
    if matrix.levels is not None:
        levels[: matrix.levels.size] = matrix.levels
    return levels


def _run(function: Callable[[slice], None], count: int, work: int) -> None:
    threads = product_workers() if work >= _SMALL else 1
    each(function, ranges(count, threads), threads)

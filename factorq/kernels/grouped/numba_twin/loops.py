"""The loops around the tiles, compiled for one kind of matrix when it is first met."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types

from ...words.numba_twin import kernel
from .dots import dot
from .sums import axpy, strip
from .vectors import copy
from .walk import Tile

BAND = 32
"""Rows whose codes stay near while panel after panel meets them, and whose scales are made float32 at a time."""
_AREA = 4096
"""Entries of a panel that stay in the first cache while row after row meets them."""
_NEAR = 1 << 17
"""Bytes of codes that stay in the second cache."""

_BYTES, _FLOATS = types.Array(types.uint8, 1, "C", readonly=True), types.Array(types.float32, 1, "C")
_HALVES = types.Array(types.uint16, 1, "C", readonly=True)


@kernel(types.void(_HALVES, types.int64, types.int64, _FLOATS))
def widen(halves: Any, first: Any, stop: Any, floats: Any) -> None:
    """Floats = the float16 whose bits are halves[first:stop], if there are any halves."""
    count = stop - first if halves.size > 0 else 0
    words = floats.view(np.uint32)
    for i in range(count):
        h = np.uint32(halves[first + i])
        words[i] = (h & np.uint32(0x7FFF)) << np.uint32(13) | (h & np.uint32(0x8000)) << np.uint32(16)
    for i in range(count):
        floats[i] *= np.float32(2.0**112)  # exponents have another bias; subnormal numbers become normal ones


@cache
def dotter(tile: Tile) -> Callable[..., None]:
    """Make the loop that adds the rows base..stop of a matrix times panels to ``out`` (rows * width,)."""
    number, bits, rows, columns = tile.number, tile.bits, tile.rows, tile.columns

    def multiply(  # type: ignore[no-untyped-def]
        codes, scales, minima, wide, least, levels, x, init, sums, out, n, group, per_row, width, start, stop
    ):
        groups = -(-n // group)
        area = groups if width == 1 else max(1, _AREA // (columns * group))
        for top in range(start, stop, BAND):
            last = min(top + BAND, stop) - 1
            widen(scales, top * per_row, (last + 1) * per_row, wide)
            widen(minima, top * per_row, (last + 1) * per_row, least)
            for first in range(0, groups, area):
                end = min(first + area, groups)
                for panel in range(width // columns):
                    for row in range(top, last + 1, rows):
                        numbers = row, last, top, per_row, n * bits // 8, n, group, first, end, panel, width
                        dot(codes, wide, least, levels, x, init, sums, out, numbers, number)

    return kernel(types.void(_BYTES, _HALVES, _HALVES, *[_FLOATS] * 7, *[types.int64] * 6))(multiply)


@cache
def adder(tile: Tile) -> Callable[..., None]:
    """Make the loop that adds x times the rows base..stop, in the groups left..right, to panels ``out``."""
    number, bits, rows, columns = tile.number, tile.bits, tile.rows, tile.columns

    def add(  # type: ignore[no-untyped-def]
        codes, scales, minima, wide, least, levels, x, out, sums, m, n, group, per_row, width, height, left, right
    ):
        area = max(1, _AREA // (columns * group))
        for top in range(0, m, BAND):
            last = min(top + BAND, m) - 1
            widen(scales, top * per_row, (last + 1) * per_row, wide)
            widen(minima, top * per_row, (last + 1) * per_row, least)
            for first in range(left, right, area):
                end = min(first + area, right)
                for panel in range(width // columns):
                    for row in range(top, last + 1, rows):
                        numbers = row, last, top, per_row, n * bits // 8, n, group, first, end, panel, height
                        axpy(codes, wide, least, levels, x, out, sums, numbers, number)

    return kernel(types.void(_BYTES, _HALVES, _HALVES, *[_FLOATS] * 6, *[types.int64] * 8))(add)


@cache
def stripper(tile: Tile) -> Callable[..., None]:
    """As :func:`adder`, by strips of columns: a band of rows is copied, strip after strip (rows, bytes), to ``near``.

    Where they are, rows of a power of two bytes share few places of the first cache.
    """
    number, bits, columns = tile.number, tile.bits, tile.columns

    def add(  # type: ignore[no-untyped-def]
        codes, scales, minima, wide, least, levels, x, out, sums, m, n, group, per_row, width, height, left, right
    ):
        area = max(1, _AREA // 2 // (columns * group))
        row_bytes, near_bytes = n * bits // 8, area * group * bits // 8
        band = max(8, min(BAND, _NEAR // row_bytes))
        near = np.empty(-(-(right - left) // area) * band * near_bytes, np.uint8)
        factors = np.empty(band * columns, np.float32)
        for top in range(0, m, band):
            last = min(top + band, m) - 1
            widen(scales, top * per_row, (last + 1) * per_row, wide)
            widen(minima, top * per_row, (last + 1) * per_row, least)
            for row in range(top, last + 1):
                for first in range(left, right, area):
                    start, end = first * group * bits // 8, min((first + area) * group, n) * bits // 8
                    to = ((first - left) // area * band + row - top) * near_bytes
                    copy(near, to, codes, row * row_bytes + start, end - start)
            for first in range(left, right, area):
                end, place = min(first + area, right), (first - left) // area * band * near_bytes
                for panel in range(width // columns):
                    numbers = top, last, top, per_row, near_bytes, n, group, first, end, panel, height
                    strip(near[place:], wide, least, levels, x, out, sums, factors, numbers, number)

    return kernel(types.void(_BYTES, _HALVES, _HALVES, *[_FLOATS] * 6, *[types.int64] * 8))(add)

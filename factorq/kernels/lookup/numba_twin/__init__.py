"""The compiled twin: which rows, columns and tables the loops of ``vectors`` run over."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from ...lanes.numba_twin import columns_of
from ...words.numba_twin import kernel
from .vectors import axpy_rows, collect, dot_rows, fill_table, gather_rows, scatter_rows

Array = NDArray[Any]
Floats = NDArray[np.float32]

_ROWS = 4
"""Rows at a time: their words of codes and their sums fit the registers."""
_BLOCK = 256
"""Rows whose codes are read again for the next columns: 64 bytes of each stay in the second-level cache."""
_IN = {n: types.Array(types.float32, n, "C", readonly=True) for n in (2, 4)}
_OUT = {n: types.Array(types.float32, n, "C") for n in (1, 2, 4)}
_BOUNDS = types.Array(types.int64, 1, "C", readonly=True)
_INT = types.int64


def dots(codes: Array, bounds: Array, books: Floats, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[i, c] += sum_t word(i, t) . x[c, :, t] for rows i in first..stop."""
    for c, columns in columns_of(x.shape[0]):
        _dots(codes.itemsize, columns, books.shape[3])(codes, bounds, books, x, c, first, stop, out)


def axpys(codes: Array, bounds: Array, books: Floats, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[c, :, t] += sum_i x[i, c] word(i, t) for places t in first..stop."""
    for c, columns in columns_of(x.shape[1]):
        _axpys(codes.itemsize, columns, books.shape[3])(codes, bounds, books, x, c, first, stop, out)


def gathers(
    codes: Array, bounds: Array, books: Floats, dim: int, x: Floats, tables: Floats, first: int, stop: int, out: Floats
) -> None:
    """out[i] += sum_t table_t[code(i, t)] with table_t = book x[t dim : (t + 1) dim], for rows i in first..stop."""
    _gathers(codes.itemsize, x.shape[1])(codes, bounds, books, dim, x, tables, first, stop, out)


def scatters(
    codes: Array, bounds: Array, books: Floats, dim: int, x: Floats, tables: Floats, first: int, stop: int, out: Floats
) -> None:
    """out[t dim : (t + 1) dim] += book^T table_t, table_t[k] = sum of x[i] over code(i, t) = k, t in first..stop."""
    _scatters(codes.itemsize, books.shape[3], x.shape[1])(codes, bounds, books, dim, x, tables, first, stop, out)


def _codes(itemsize: int) -> Any:
    return types.Array(types.uint8 if itemsize == 1 else types.uint16, 2, "A", readonly=True)


@cache
def _dots(itemsize: int, columns: int, lanes: int) -> Callable[..., None]:
    """Build the kernel for codes of so many bytes, columns at a time and entries of a vector."""
    rows = 4 if columns < 4 else 2

    def multiply(
        codes: Array, bounds: Array, books: Floats, x: Floats, column: int, first: int, stop: int, out: Floats
    ) -> None:
        groups, parts, words, _ = books.shape
        pitch, per_row, width = codes.strides[0] // itemsize, x.shape[2], out.shape[1]
        whole = first + (stop - first) // rows * rows
        for g in range(groups):
            t = bounds[g]
            count = bounds[g + 1] - t
            for s in range(parts):
                base, at, gap = (g * parts + s) * words * lanes, (column * parts + s) * per_row + t, parts * per_row
                for i in range(first, whole, rows):
                    dot_rows(
                        codes, i * pitch + t, pitch, count, books, base, x, at * lanes, gap * lanes,
                        out, i * width + column, width, rows, columns, lanes,
                    )  # fmt: skip
                for i in range(whole, stop):
                    dot_rows(
                        codes, i * pitch + t, pitch, count, books, base, x, at * lanes, gap * lanes,
                        out, i * width + column, width, 1, columns, lanes,
                    )  # fmt: skip

    return kernel(types.void(_codes(itemsize), _BOUNDS, _IN[4], _IN[4], _INT, _INT, _INT, _OUT[2]))(multiply)


@cache
def _axpys(itemsize: int, columns: int, lanes: int) -> Callable[..., None]:
    """Build the kernel as :func:`_dots`."""
    places = 8 // max(columns, itemsize)

    def multiply(
        codes: Array, bounds: Array, books: Floats, x: Floats, column: int, first: int, stop: int, out: Floats
    ) -> None:
        groups, parts, words, _ = books.shape
        pitch, per_row, width = codes.strides[0] // itemsize, out.shape[2], x.shape[1]
        gap = parts * per_row * lanes
        for row in range(0, codes.shape[0], _BLOCK):
            count, source = min(_BLOCK, codes.shape[0] - row), row * width + column
            for g in range(groups):
                start, end = max(first, bounds[g]), min(stop, bounds[g + 1])
                whole = start + max(end - start, 0) // places * places
                for s in range(parts):
                    base, to = (g * parts + s) * words * lanes, (column * parts + s) * per_row
                    for t in range(start, whole, places):
                        axpy_rows(
                            codes, row * pitch + t, pitch, count, books, base, x, source, width,
                            out, (to + t) * lanes, gap, places, columns, lanes,
                        )  # fmt: skip
                    for t in range(whole, end):
                        axpy_rows(
                            codes, row * pitch + t, pitch, count, books, base, x, source, width,
                            out, (to + t) * lanes, gap, 1, columns, lanes,
                        )  # fmt: skip

    return kernel(types.void(_codes(itemsize), _BOUNDS, _IN[4], _IN[2], _INT, _INT, _INT, _OUT[4]))(multiply)


@cache
def _gathers(itemsize: int, lanes: int) -> Callable[..., None]:
    """Build the kernel for codes of so many bytes and columns at a time."""
    at_once = 4 if lanes > 8 else 8

    def multiply(
        codes: Array, bounds: Array, books: Floats, dim: int, x: Floats, tables: Floats, first: int, stop: int,
        out: Floats,
    ) -> None:  # fmt: skip
        _, parts, words, short = books.shape
        pitch, per_row, size = codes.strides[0] // itemsize, codes.shape[1], words * lanes
        run, whole = tables.size // size, first + (stop - first) // _ROWS * _ROWS
        g = 0
        for t in range(0, per_row, run):
            count = min(run, per_row - t)
            for q in range(count):
                while t + q >= bounds[g + 1]:
                    g += 1
                for s in range(parts):
                    base, at, dims = (g * parts + s) * words * short, (t + q) * dim + s * short, dim - s * short
                    if s == 0:
                        fill_table(
                            books, base, short, words, min(short, dims), x, at * lanes, lanes,
                            tables, q * size, 0, at_once, lanes,
                        )  # fmt: skip
                    else:
                        fill_table(
                            books, base, short, words, min(short, dims), x, at * lanes, lanes,
                            tables, q * size, 1, at_once, lanes,
                        )  # fmt: skip
            for i in range(first, whole, _ROWS):
                gather_rows(codes, i * pitch + t, pitch, count, tables, size, out, i * lanes, lanes, _ROWS, lanes)
            for i in range(whole, stop):
                gather_rows(codes, i * pitch + t, pitch, count, tables, size, out, i * lanes, lanes, 1, lanes)

    arguments = _codes(itemsize), _BOUNDS, _IN[4], _INT, _IN[2], _OUT[1], _INT, _INT, _OUT[2]
    return kernel(types.void(*arguments))(multiply)


@cache
def _scatters(itemsize: int, short: int, lanes: int) -> Callable[..., None]:
    """Build the kernel as :func:`_gathers`, for books of ``short`` entries per vector."""
    at_once = 4 if lanes > 8 else short

    def multiply(
        codes: Array, bounds: Array, books: Floats, dim: int, x: Floats, tables: Floats, first: int, stop: int,
        out: Floats,
    ) -> None:  # fmt: skip
        _, parts, words, _ = books.shape
        pitch, rows, size = codes.strides[0] // itemsize, codes.shape[0], words * lanes
        run = tables.size // size
        part = np.empty(at_once * lanes, np.float32)
        g = 0
        for t in range(first, stop, run):
            count = min(run, stop - t)
            tables[: count * size] = 0
            scatter_rows(codes, t, pitch, rows, count, x, 0, lanes, tables, size, lanes)
            for q in range(count):
                while t + q >= bounds[g + 1]:
                    g += 1
                for j in range(0, dim, at_once):
                    base = (g * parts + j // short) * words * short + j % short
                    collect(tables, q * size, words, books, base, short, part, at_once, lanes)
                    for k in range(min(at_once, dim - j)):
                        for lane in range(lanes):
                            out[(t + q) * dim + j + k, lane] += part[k * lanes + lane]

    arguments = _codes(itemsize), _BOUNDS, _IN[4], _INT, _IN[2], _OUT[1], _INT, _INT, _OUT[2]
    return kernel(types.void(*arguments))(multiply)

"""The compiled twin: which blocks the loops of ``vectors`` run over.

Numbers of 16 bits are made into float32 a block at a time, which stays in the nearest cache; float32 are read in place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from ...lanes.numba_twin import columns_of
from ...words.numba_twin import kernel
from .vectors import axpy_rows, dot_rows, lane_rows, widen

Array = NDArray[Any]
Floats = NDArray[np.float32]

_WIDE = 1024
"""Entries of some rows at a time, where vectors go along the rows."""
_HIGH, _DEEP = 16, 512
"""Rows and columns of a block, where vectors go along the columns of x: it lies in the nearest cache, whatever the
distance of the rows of A, and is read a few numbers at a time."""

LANES = 16

_INT, _FLOAT = types.int64, types.float32
_IN, _OUT = types.Array(types.float32, 2, "C", readonly=True), types.Array(types.float32, 2, "C")


def dots(A: Array, kind: int, scale: float, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[i] += scale A[i] . x[c] for rows i in first..stop, x (b, n), out (r, b)."""
    for c, columns in columns_of(len(x)):
        _dots(kind, columns)(A, scale, x, c, first, stop, out)


def axpys(A: Array, kind: int, scale: float, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[c, j] += sum_i x[i, c] scale A[i, j] for columns j in first..stop, x (r, b), out (b, n)."""
    for c, columns in columns_of(x.shape[1]):
        _axpys(kind, columns)(A, scale, x, c, first, stop, out)


def lanes(A: Array, kind: int, scale: float, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[i] += scale A[i] @ x for rows i in first..stop, x (n, 16), out (r, 16)."""
    _lanes(kind)(A, scale, x, first, stop, out)


def turned_lanes(A: Array, kind: int, scale: float, x: Floats, first: int, stop: int, out: Floats) -> None:
    """out[j] += scale A[:, j] @ x for columns j in first..stop, x (r, 16), out (n, 16)."""
    _turned(kind)(A, scale, x, first, stop, out)


def widened(A: Array, kind: int, scale: float, out: Floats) -> None:
    """out = scale A, (r, n)."""
    _widener(kind)(A, scale, out)


def _matrix(kind: int) -> Any:
    return types.Array(types.uint16 if kind else types.float32, 2, "A", readonly=True)


@cache
def _dots(kind: int, columns: int) -> Callable[..., None]:
    rows, itemsize = (4 if columns < 4 else 2), 2 if kind else 4

    def multiply(A: Array, scale: float, x: Floats, column: int, first: int, stop: int, out: Floats) -> None:
        pitch, n, to = A.strides[0] // itemsize, A.shape[1], out.shape[1]
        whole = first + (stop - first) // rows * rows
        if kind == 0:
            for i in range(first, whole, rows):
                dot_rows(A, i * pitch, pitch, n, x, column * n, n, out, i * to + column, to, rows, columns)
            for i in range(whole, stop):
                dot_rows(A, i * pitch, pitch, n, x, column * n, n, out, i * to + column, to, 1, columns)
        else:
            block = np.empty((rows, _WIDE), np.float32)
            for i in range(first, stop, rows):
                for j in range(0, n, _WIDE):
                    wide, at = min(_WIDE, n - j), column * n + j
                    for r in range(min(rows, stop - i)):
                        widen(A, (i + r) * pitch + j, scale, block, r * _WIDE, wide, kind)
                    if i < whole:
                        dot_rows(block, 0, _WIDE, wide, x, at, n, out, i * to + column, to, rows, columns)
                    else:
                        for r in range(stop - i):
                            dot_rows(
                                block, r * _WIDE, _WIDE, wide, x, at, n, out, (i + r) * to + column, to, 1, columns
                            )

    return kernel(types.void(_matrix(kind), _FLOAT, _IN, _INT, _INT, _INT, _OUT))(multiply)


@cache
def _axpys(kind: int, columns: int) -> Callable[..., None]:
    rows, itemsize = 8 // max(columns, 2), 2 if kind else 4

    def multiply(A: Array, scale: float, x: Floats, column: int, first: int, stop: int, out: Floats) -> None:
        pitch, n, width = A.strides[0] // itemsize, A.shape[1], x.shape[1]
        whole = A.shape[0] // rows * rows
        block = np.empty((rows, _WIDE), np.float32)
        for j in range(first, stop, _WIDE):
            wide, to = min(_WIDE, stop - j), column * n + j
            for i in range(0, A.shape[0], rows):
                high, at = min(rows, A.shape[0] - i), i * width + column
                if kind == 0:
                    if i < whole:
                        axpy_rows(A, i * pitch + j, pitch, wide, x, at, width, out, to, n, rows, columns)
                    else:
                        for r in range(i, A.shape[0]):
                            axpy_rows(
                                A, r * pitch + j, pitch, wide, x, r * width + column, width, out, to, n, 1, columns
                            )
                else:
                    for r in range(high):
                        widen(A, (i + r) * pitch + j, scale, block, r * _WIDE, wide, kind)
                    if i < whole:
                        axpy_rows(block, 0, _WIDE, wide, x, at, width, out, to, n, rows, columns)
                    else:
                        for r in range(high):
                            axpy_rows(block, r * _WIDE, _WIDE, wide, x, at + r * width, width, out, to, n, 1, columns)

    return kernel(types.void(_matrix(kind), _FLOAT, _IN, _INT, _INT, _INT, _OUT))(multiply)


@cache
def _lanes(kind: int) -> Callable[..., None]:
    rows, itemsize = 4, 2 if kind else 4

    def multiply(A: Array, scale: float, x: Floats, first: int, stop: int, out: Floats) -> None:
        pitch, n = A.strides[0] // itemsize, A.shape[1]
        block = np.empty((_HIGH, _DEEP), np.float32)
        for j in range(0, n, _DEEP):
            deep = min(_DEEP, n - j)
            for i in range(first, stop, _HIGH):
                high = min(_HIGH, stop - i)
                whole = high // rows * rows
                for r in range(high):
                    widen(A, (i + r) * pitch + j, scale, block, r * _DEEP, deep, kind)
                for r in range(0, whole, rows):
                    lane_rows(block, r * _DEEP, _DEEP, 1, deep, x, j * LANES, out, (i + r) * LANES, rows, LANES)
                for r in range(whole, high):
                    lane_rows(block, r * _DEEP, _DEEP, 1, deep, x, j * LANES, out, (i + r) * LANES, 1, LANES)

    return kernel(types.void(_matrix(kind), _FLOAT, _IN, _INT, _INT, _OUT))(multiply)


@cache
def _turned(kind: int) -> Callable[..., None]:
    many, itemsize = 4, 2 if kind else 4

    def multiply(A: Array, scale: float, x: Floats, first: int, stop: int, out: Floats) -> None:
        pitch, rows = A.strides[0] // itemsize, A.shape[0]
        block = np.empty((_HIGH, _DEEP), np.float32)
        for j in range(first, stop, _DEEP):
            deep = min(_DEEP, stop - j)
            whole = deep // many * many
            for i in range(0, rows, _HIGH):
                high = min(_HIGH, rows - i)
                for r in range(high):
                    widen(A, (i + r) * pitch + j, scale, block, r * _DEEP, deep, kind)
                for k in range(0, whole, many):
                    lane_rows(block, k, 1, _DEEP, high, x, i * LANES, out, (j + k) * LANES, many, LANES)
                for k in range(whole, deep):
                    lane_rows(block, k, 1, _DEEP, high, x, i * LANES, out, (j + k) * LANES, 1, LANES)

    return kernel(types.void(_matrix(kind), _FLOAT, _IN, _INT, _INT, _OUT))(multiply)


@cache
def _widener(kind: int) -> Callable[..., None]:
    itemsize = 2 if kind else 4

    def write(A: Array, scale: float, out: Floats) -> None:
        for i in range(A.shape[0]):
            widen(A, i * (A.strides[0] // itemsize), scale, out, i * A.shape[1], A.shape[1], kind)

    return kernel(types.void(_matrix(kind), _FLOAT, _OUT))(write)

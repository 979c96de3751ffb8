"""Products with vector codes on a GPU: tables in shared memory where codewords are few, else codewords where they lie.

:func:`matmul` and :func:`rmatmul` have the contract of the doors of that name, layouts included: what the other twins
share out over threads of the CPU is one launch here. Up to four columns at a time, which suits batches of a few; sums
have one order, the same on every run. Not yet measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import MOST_BLOCKS, THREADS, launch

_SOURCE = Path(__file__).with_name("lookup.cu")
_COLUMNS = 4
_TABLES = 4096
"""Numbers in the tables of a block, one place may take twice as many: so that several blocks share a multiprocessor."""
_ROWS = 1024
"""Of a block: four for each thread, to pay for the tables."""
_PLACES, _DIMS = 64, 8
_BLOCKS = 512
"""Blocks that a launch should have; it gets fewer where their sums would take 3 % of the matrix."""


def matmul(codes: Any, book: Any, x: Any, out: Any) -> None:
    """out[i] += sum_t book[g(t), codes[i, t]] . x[t d : (t+1) d], g(t) = t G // v: (r, v d) times (v d, b)."""
    import cupy

    (rows, places), (_, count, dim), (n, columns) = codes.shape, book.shape, x.shape
    with codes.device:
        for column in range(0, columns if out.size else 0, _COLUMNS):
            width = min(_COLUMNS, columns - column)
            wide = width if width < 3 else _COLUMNS
            place = (count + dim) * wide  # numbers for a place: its table and its part of x
            tables = place <= 2 * _TABLES and 2 * count <= rows
            stretch = max(_TABLES // place, 1)
            blocks = -(-rows // _ROWS)
            splits = min(-(-places // stretch), max(_BLOCKS // blocks, 1), max(n // 128, 1)) if tables else 1
            partial = cupy.empty((splits, rows, width), np.float32)
            given = *_arguments(codes, book, x), np.uint64(n), np.uint32(column), np.uint32(width)
            if tables:
                launch(
                    _SOURCE,
                    "lookup_tables",
                    (blocks, splits, 1),
                    *given,
                    np.uint32(stretch),
                    partial,
                    shared=4 * stretch * place,
                    CODE=_kind(codes),
                )
            else:
                launch(_SOURCE, "lookup_dots", (-(-rows // 8), 1, 1), *given, partial, CODE=_kind(codes))
            _add(partial, out, column, 0)


def rmatmul(codes: Any, book: Any, x: Any, out: Any) -> None:
    """out[:, t d : (t+1) d] += sum_i x[:, i] book[g(t), codes[i, t]], g(t) = t G // v: (b, r) times (r, v d)."""
    import cupy

    (rows, places), dim, (columns, n) = codes.shape, book.shape[2], out.shape
    with codes.device:
        for column in range(0, columns if out.size else 0, _COLUMNS):
            width = min(_COLUMNS, columns - column)
            across, deep = -(-places // _PLACES), -(-dim // _DIMS)
            chunks = max(min(-(-_BLOCKS // (across * deep)), rows // 128, MOST_BLOCKS), 1)
            chunk = max(-(-rows // chunks), 1)
            chunks = max(-(-rows // chunk), 1)  # none begins past the end
            partial = cupy.empty((chunks, n, width), np.float32)
            launch(
                _SOURCE,
                "lookup_axpys",
                (across, chunks, deep),
                *_arguments(codes, book, x),
                np.uint64(n),
                np.uint32(column),
                np.uint32(width),
                np.uint64(chunk),
                partial,
                shared=4 * _DIMS * _PLACES * (1 if width == 1 else _COLUMNS),
                CODE=_kind(codes),
            )
            _add(partial, out, column, 1)


def _arguments(codes: Any, book: Any, x: Any) -> tuple[Any, ...]:
    """The matrix of codewords and x with its strides, in the order of the kernels."""
    import cupy

    (rows, places), (groups, count, dim) = codes.shape, book.shape
    if codes.strides[1] != codes.itemsize:
        codes = cupy.ascontiguousarray(codes)
    pitch = np.uint64(codes.strides[0] // codes.itemsize)
    shape = np.uint32(groups), np.uint32(count), np.uint32(dim)
    return codes, pitch, np.uint64(rows), np.uint32(places), cupy.ascontiguousarray(book), *shape, x, *_strides(x)


def _strides(x: Any) -> tuple[np.int64, np.int64]:
    return np.int64(x.strides[0] // 4), np.int64(x.strides[1] // 4)


def _add(partial: Any, out: Any, column: int, axis: int) -> None:
    """Add the sum of ``partial`` (splits, size, columns) to columns, or with ``axis`` 1 to rows, of ``out``."""
    splits, size, width = partial.shape
    target = out[:, column : column + width] if axis == 0 else out[column : column + width]
    down, across = _strides(target)[:: -1 if axis else 1]
    grid = -(-size * width // THREADS), 1, 1
    total = np.uint32(splits), np.uint64(size), np.uint32(width)
    launch(_SOURCE, "lookup_add", grid, partial, *total, target, down, across)


def _kind(codes: Any) -> str:
    return "u8" if codes.itemsize == 1 else "u16"

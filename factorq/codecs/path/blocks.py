"""How an array of planes is cut into blocks that are coded, and decoded, on their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import namespace

Layout = tuple[int, int, int]
Block = tuple[slice, slice]


def blocks(layout: Layout, weights: int) -> list[Block]:
    """Ranges of rows and columns of the planes (P, R, C), of about ``weights`` entries over all planes."""
    planes, rows, columns = layout
    width = columns if planes * columns <= 2 * weights else max(1, weights // planes)
    height = max(1, weights // max(planes * width, 1))
    return [
        (slice(top, min(top + height, rows)), slice(left, min(left + width, columns)))
        for top in range(0, rows, height)
        for left in range(0, columns, width)
    ]


def cut(array: NDArray[Any], block: Block) -> NDArray[Any]:
    """The entries (n,) of a block of ``array`` (P, R, C) in the order in which they are coded."""
    return array[:, block[0], block[1]].reshape(-1)


def stacked(array: NDArray[Any], batch: list[Block]) -> NDArray[Any]:
    """The entries (L, n) of blocks of one extent; a view where they follow each other in memory."""
    (first, columns), (last, _) = batch[0], batch[-1]
    whole = array.shape[0] == 1 and columns == slice(0, array.shape[2])
    if whole and array.flags.c_contiguous and last.stop - first.start == len(batch) * (first.stop - first.start):
        return array[0, first.start : last.stop].reshape(len(batch), -1)
    return np.stack([cut(array, block) for block in batch])


def extent(layout: Layout, block: Block) -> Layout:
    """Planes, rows and columns of a block."""
    rows, columns = block
    return layout[0], rows.stop - rows.start, columns.stop - columns.start


def joined(flat: Any, layout: Layout, grid: list[Block]) -> Any:
    """The array (P, R, C) whose blocks stand one after the other in ``flat``, a NumPy or CuPy array: in four pieces."""
    planes, rows, columns = layout
    _, height, width = extent(layout, grid[0])
    if planes == 1 and width == columns:
        return flat.reshape(layout)
    low, right = rows // height * height, columns // width * width  # beyond, blocks are smaller
    out = namespace(flat).empty(layout, dtype=flat.dtype)
    for top, stop, h in ((0, low, height), (low, rows, rows - low)):
        if h == 0:
            continue
        bands = flat[planes * columns * top : planes * columns * stop].reshape((stop - top) // h, -1)
        for left, end, w in ((0, right, width), (right, columns, columns - right)):
            if w:
                part = bands[:, planes * h * left : planes * h * end].reshape(len(bands), -1, planes, h, w)
                out[:, top:stop, left:end] = part.transpose(2, 0, 3, 1, 4).reshape(planes, stop - top, end - left)
    return out


def alike(layout: Layout, grid: list[Block], most: int) -> Iterator[list[Block]]:
    """The blocks in batches of at most ``most`` of one extent."""
    by_extent: dict[Layout, list[Block]] = {}
    for block in grid:
        by_extent.setdefault(extent(layout, block), []).append(block)
    for same in by_extent.values():
        yield from (same[i : i + most] for i in range(0, len(same), most))


def strips(array: NDArray[Any], weights: int) -> NDArray[Any]:
    """Eight evenly spaced strips of rows, or of columns, of ``array`` (P, R, C) of about ``weights`` entries in all."""
    if array.size <= 2 * weights:
        return array
    planes, rows, columns = array.shape
    axis = 1 if rows >= 64 and planes * columns <= weights // 8 else 2
    count = array.shape[axis]
    height = max(1, weights * count // array.size // 8)
    tops = np.linspace(0, count - height, 8).astype(np.int64)
    return np.ascontiguousarray(np.take(array, np.unique(tops[:, None] + np.arange(height)), axis=axis))

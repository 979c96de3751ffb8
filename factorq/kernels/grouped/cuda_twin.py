"""Products with a grouped matrix on a GPU, straight from its packed codes; and the matrix itself.

Up to eight vectors are multiplied as the codes stream by. For more, for float64, for levels of more than eight bits,
and for rows or groups that are not made of whole runs of eight codes (sixteen for one or two vectors), blocks of rows
are decoded and left to cuBLAS. Not yet measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cuda_twin import SHARED, THREADS, launch, over_rows

if TYPE_CHECKING:
    from .layout import Matrix

_SOURCE = Path(__file__).with_name("grouped.cu")
_DECODE = Path(__file__).with_name("decode.cu")
_MOST = 8
"""Most vectors that are multiplied straight from codes."""
_BLOCKS = 512
"""Blocks that share the rows, where there are enough of them."""
_ROOM, _PART = 1 << 22, 32
"""Most values that are decoded at a time, and how small a part of a large matrix they are."""
_TYPES = {"float16": "__half", "float32": "float", "float64": "double", "bfloat16": "bfloat"}


def matmul(m: Matrix, x: Any) -> Any:
    """y = M x: (rows, n) times (n, b) -> (rows, b), float64 for such x, else float32."""
    import cupy

    with m.codes.device:
        rows, batch = m.shape[0], x.shape[1]
        if not _streams(m, x, batch):
            return _by_blocks(m, x, False)
        width, together = _variant(batch)
        room = (SHARED - (4 << m.bits if m.levels is not None else 0)) // (8 * 4 * width * together)
        share = together * max(1, min(max(2, -(-rows // (together * _BLOCKS))), room))
        out = cupy.empty((rows, batch), np.float32)
        grid = -(-rows // share) if batch else 0, 1, 1
        _product("grouped_matmul", grid, m, x, batch, share, out, 8 * share * width)
        return out


def rmatmul(x: Any, m: Matrix) -> Any:
    """y = x M: (b, rows) times (rows, n) -> (b, n), float64 for such x, else float32."""
    import cupy

    with m.codes.device:
        (rows, n), batch = m.shape, x.shape[0]
        if not rows or not _streams(m, x, batch):
            return _by_blocks(m, x, True)
        width, together = _variant(batch)
        tile, step = 32 * _chunk(width), 8 * together
        across = -(-n // tile)
        wanted = _BLOCKS // max(across * max(width // 2, 1), 1)  # fewer for more vectors: their sums take room
        share = step * -(-rows // (step * max(1, wanted)))
        count = -(-rows // share)
        parts = cupy.empty((count, batch, n), np.float32)
        grid = across if batch else 0, count, 1
        _product("grouped_rmatmul", grid, m, x, batch, share, parts, tile * width)
        if count == 1:
            return parts[0]
        out = cupy.empty((batch, n), np.float32)
        size = np.uint64(out.size)
        launch(_SOURCE, "grouped_fold", (-(-out.size // THREADS), 1, 1), parts, np.uint32(count), size, out)
        return out


def decode(m: Matrix, dtype: Any, exponent: int = 0) -> Any:
    """M * 2**exponent (rows, n) as float16, float32 or float64; the exponent from -126 to 96: no float32 overflows.

    float16 is rounded from float32; what would pass its range becomes its largest number.
    """
    import cupy

    with m.codes.device:
        kind = np.dtype(dtype)
        codes, out = cupy.ascontiguousarray(m.codes), cupy.empty(m.shape, kind)
        blocks, wide = over_rows(*m.shape)
        launch(
            _DECODE,
            "grouped_decode",
            blocks,
            codes,
            np.uint64(codes.size),
            np.uint32(m.bits),
            *_per_group(m),
            np.float64(m.zero),
            _given(m.levels),
            np.float64(2.0**exponent),
            np.uint64(m.shape[0]),
            *_widths(m),
            wide,
            out,
            REAL=_TYPES[kind.name],
        )
        return out


def _streams(m: Matrix, x: Any, batch: int) -> bool:
    """Whether the codes of the lanes are whole bytes of one group, at addresses that they can be read from."""
    if batch > _MOST or x.dtype == np.float64 or (m.levels is not None and m.bits > 8):
        return False
    chunk, n, group = _chunk(_variant(batch)[0]), m.shape[1], m.group or m.shape[1]
    nbytes = chunk * m.bits // 8
    whole = n % chunk == 0 and (group >= n or group % chunk == 0)
    return bool(whole and m.codes.flags.c_contiguous and m.codes.data.ptr % min(nbytes & -nbytes, 16) == 0)


def _variant(batch: int) -> tuple[int, int]:
    """The width that a kernel is compiled for, and the rows it takes together."""
    width = 1 << max(batch - 1, 0).bit_length()
    return width, 4 if width <= 2 else 2


def _chunk(width: int) -> int:
    """Codes of a lane."""
    return 16 if width <= 2 else 8


def _product(
    name: str, grid: tuple[int, int, int], m: Matrix, x: Any, batch: int, share: int, out: Any, floats: int
) -> None:
    import cupy

    levels = m.levels is not None
    launch(
        _SOURCE,
        name,
        grid,
        m.codes,
        *_per_group(m),
        np.float32(m.zero),
        _given(m.levels),
        np.uint32(m.shape[0]),
        *_widths(m),
        cupy.ascontiguousarray(x),
        np.uint32(batch),
        np.uint32(share),
        out,
        shared=4 * (floats + (levels << m.bits)),
        BITS=m.bits,
        BATCH=_variant(batch)[0],
        X=_TYPES[x.dtype.name],
        LEVELS=int(levels),
    )


def _per_group(m: Matrix) -> tuple[Any, Any, np.uint32]:
    """Scales, minima and the step from those of a row to the next."""
    given = m.scales if m.scales is not None else m.minima
    step = given.shape[1] if given is not None and given.shape[0] == m.shape[0] else 0
    return _given(m.scales), _given(m.minima), np.uint32(step)


def _given(x: Any) -> Any:
    """A device array, or the null pointer."""
    import cupy

    return np.uint64(0) if x is None else cupy.ascontiguousarray(cupy.asarray(x))


def _widths(m: Matrix) -> tuple[np.uint32, np.uint32]:
    """Values of a row and of a group."""
    n = m.shape[1]
    return np.uint32(n), np.uint32(min(m.group or n, n) or 1)


def _by_blocks(m: Matrix, x: Any, left: bool) -> Any:
    """The product with rows decoded block by block: those of a block begin with a whole byte."""
    import cupy

    rows, n = m.shape
    x = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
    out = cupy.zeros((x.shape[0], n) if left else (rows, x.shape[1]), x.dtype)
    room = min(_ROOM, max(rows * n // _PART, _ROOM // 64))
    step = 8 * max(1, room // (8 * max(n, 1)))
    for first in range(0, rows, step):
        stop = min(first + step, rows)
        kept = {
            name: y[first:stop]
            for name in ("scales", "minima")
            if (y := getattr(m, name)) is not None and y.shape[0] == rows
        }
        codes = m.codes[first * n * m.bits // 8 : -(-stop * n * m.bits // 8)]
        block = decode(m._replace(codes=codes, shape=(stop - first, n), **kept), x.dtype)
        if left:
            out += x[:, first:stop] @ block
        else:
            out[first:stop] = block @ x
    return out

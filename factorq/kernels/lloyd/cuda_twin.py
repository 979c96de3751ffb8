"""The codebook kernels on a GPU: points in registers, tiles of codewords in shared memory, sums in order of the points.

:func:`nearest` adds fused products in the order of the dimensions, :func:`accumulate` adds a codeword's points in their
order: results do not depend on how blocks are scheduled, and sums equal those of the reference bit for bit. Not yet
measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import SHARED, THREADS, launch

_SOURCE = Path(__file__).with_name("lloyd.cu")
_LANES = 16
_UNROLLED = (*range(1, 9), 12, 16)
"""Dimensions with a search of their own, whose points stay in registers."""
_CHUNK = 16 << 10
"""Bytes of codewords in shared memory at a time: three blocks share a multiprocessor of 64 KiB."""
_WIDE = 4 * 8 * (516 + _LANES)
_STAGED = 4 * 2048


def nearest(y: Any, tiles: Any, bias: Any, codes: Any) -> None:
    """codes[i] = argmin_k bias[k] + y[i] . table[:, k], ties to the lower k; tiles (K/16, D, 16), bias (K/16, 16)."""
    n, dims = y.shape
    groups = np.uint32(len(tiles))
    with y.device:
        given = y, np.uint64(n), np.uint32(dims), tiles, bias, groups
        if dims in _UNROLLED:
            points, tile = THREADS * (4 if dims <= 8 else 2), 4 * _LANES * (dims + 1)
            chunk = min(_CHUNK // tile, len(tiles))
            grid = -(-n // points), 1, 1
            launch(_SOURCE, "lloyd_nearest", grid, *given, np.uint32(chunk), codes, shared=chunk * tile)
        else:
            grid = -(-n // (2 * THREADS)), 1, 1
            launch(_SOURCE, "lloyd_nearest_wide", grid, *given, codes, shared=_WIDE)


def accumulate(y: Any, codes: Any, sums: Any, counts: Any) -> None:
    """sums[codes[i]] += y[i], in order of i, counts[codes[i]] += 1."""
    import cupy

    n, dims = y.shape
    with y.device:
        keys = cupy.empty((n,), np.uint64)
        launch(_SOURCE, "lloyd_keys", (-(-n // THREADS), 1, 1), codes, np.uint64(n), keys)
        keys.sort()
        grid = len(sums), max(1, -(-dims // 32)), 1
        launch(_SOURCE, "lloyd_sums", grid, y, np.uint64(n), np.uint32(dims), keys, sums, counts, shared=_STAGED)


def seed(columns: Any, uniform: Any, chosen: Any) -> None:
    """chosen[t] = the first i at which the running sum of squared distances passes uniform[t] of their total.

    A launch per seed. Distances are those of the reference; of their sums, rounded in another order, the last bit may
    differ, and with it a choice that falls between two points by as little.
    """
    import cupy

    dims, n = columns.shape
    blocks = -(-n // THREADS)
    with columns.device:
        columns = cupy.ascontiguousarray(columns)
        distances, sums = cupy.zeros((2, n), np.float64), cupy.zeros((2, blocks), np.float64)
        for turn in range(len(uniform)):
            old, new = turn % 2, 1 - turn % 2
            launch(
                _SOURCE,
                "lloyd_seed",
                (blocks, 1, 1),
                columns,
                np.uint64(n),
                np.uint32(dims),
                uniform,
                np.uint32(turn),
                distances[old],
                sums[old],
                distances[new],
                sums[new],
                chosen,
                shared=8 * THREADS + 8,
            )


def joint(x: Any, table: Any, bias: Any, cross: Any, sweeps: int, codes: Any) -> None:
    """Search over the codes (n, M) of two books at a time, the others fixed: all pairs.

    A launch per pair of books. At most 11,000 codewords, whose table of products is 2 GB for two books.
    """
    (n, dims), (books, wide) = x.shape, bias.shape
    points = 4 if _room(4, wide) <= SHARED else 1
    with x.device:
        for _ in range(1 if books == 2 else sweeps):
            for a in range(books - 1):
                launch(
                    _SOURCE,
                    "lloyd_pair",
                    (-(-n // points), 1, 1),
                    x,
                    np.uint64(n),
                    np.uint32(dims),
                    table,
                    bias,
                    cross,
                    np.uint32(books),
                    np.uint32(wide),
                    np.uint32(a),
                    np.uint32(points),
                    codes,
                    shared=_room(points, wide),
                )


def _room(points: int, wide: int) -> int:
    """Bytes: scores of a book, the least pair of each thread and its place, what the present codes cost."""
    return 4 * points * (wide + 2 * THREADS + 1)

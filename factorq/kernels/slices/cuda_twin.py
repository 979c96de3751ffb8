"""The slices on a GPU: bit-sliced, a thread per word of 64 slices, tables in shared memory.

Whole tiles are words at every place and are decoded four at a time; the last tile, whose rows are bytes, by itself.
Not yet measured on a GPU.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import THREADS, launch, placed
from .network import WIDTH, network, tile_width

_SOURCE = Path(__file__).with_name("slices.cu")
_ROW = WIDTH // 8
_TILES, _OUTPUTS = 4, 128
"""Tiles and outputs of a block."""


def outputs(stream: Any, size: int, n_in: int, n_out: int, seed: int, first: int, stop: int) -> Any:
    """Bitmaps (planes, bytes) of the outputs of the tiles first..stop as a CuPy array; ``stream`` is one."""
    import cupy

    with stream.device:
        stream = cupy.ascontiguousarray(stream)
        start, end = first * WIDTH * n_out, min(stop * WIDTH * n_out, size)
        nbytes = max(end - start + 7, 0) // 8
        whole = max(end - start, 0) // (WIDTH * n_out)  # tiles of 512 slices without missing outputs
        out = cupy.empty((len(stream), -(-nbytes // 8)), np.uint64)
        if not out.size:
            return out.view(np.uint8)
        matrix = _matrix(n_in, n_out, seed, stream.device.id)
        columns, stride = np.uint32(matrix.shape[1]), np.uint64(stream.shape[1])
        launch(
            _SOURCE,
            "slices_whole",
            (-(-whole // _TILES), -(-n_out // _OUTPUTS), len(stream)),
            stream[:, first * n_in * _ROW :],
            stride,
            np.uint64(whole),
            matrix,
            columns,
            np.uint32(n_in),
            np.uint32(n_out),
            out,
            np.uint64(out.shape[1]),
            shared=min(-(-n_in // 4), 8) * 4096,
        )
        bits = out.view(np.uint8)
        at = whole * n_out * _ROW
        launch(
            _SOURCE,
            "slices_rest",
            (-(-(nbytes - at) // THREADS), 1, len(stream)),
            stream[:, (first + whole) * n_in * _ROW :],
            stride,
            matrix,
            columns,
            np.uint32(n_in),
            np.uint32(tile_width(size, n_out, max(stop - 1, 0)) // 8),
            np.uint64(end - start - whole * WIDTH * n_out),
            bits[:, at:],
            np.uint64(bits.shape[1]),
        )
        return bits[:, :nbytes]


@lru_cache(maxsize=8)
def _matrix(n_in: int, n_out: int, seed: int, device: int) -> Any:
    """M on a device, a column for every 32 inputs."""
    return placed(network(n_in, n_out, seed).astype("<u8").view(np.uint32))

"""The bit-shift trellis on a GPU: a thread decodes four weights, a block of threads searches for a block of weights.

A search keeps the least costs of the overlaps in shared memory up to 4096 of them, and the table up to 4096 states;
what the paths chose is in device memory. Not yet measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import SHARED, THREADS, launch, over_rows, real

_SOURCE = Path(__file__).with_name("bitshift.cu")
_BLOCKS = 1024
"""Most blocks at a time: each copies the table once."""
_ROOM = 1 << 28
"""Most bytes for what the paths of all searches chose."""


def encode(x: Any, table: Any, bits: int, length: int, window: int, codes: Any) -> None:
    """codes[b] = the circular stream of least cost for x[b], from the overlap that a search around the seam finds."""
    import cupy

    with x.device:
        x, table = cupy.ascontiguousarray(x), cupy.asarray(table)
        count, period = x.shape
        width = table.size >> bits
        blocks = min(count, _BLOCKS, max(_ROOM // (period * width), 1))
        shared, near = 4 * (2 * THREADS + 1), 0
        for part in (8 * width, 4 * table.size):
            if shared + part <= SHARED:
                shared, near = shared + part, near + 1
            else:
                break
        launch(
            _SOURCE,
            "bitshift_encode",
            (blocks, 1, 1),
            x,
            np.uint64(count),
            np.uint32(period),
            table,
            np.uint32(table.size),
            np.uint32(bits),
            np.uint32(length),
            np.uint32(min(window, period // 2)),
            np.uint32(near),
            cupy.empty((1 if near else blocks, 2, width), np.float32),
            cupy.empty((blocks, period, width), np.uint8),
            codes,
            shared=shared,
        )


def decode(codes: Any, table: Any, bits: int, scales: Any, out: Any) -> None:
    """out[b, t] = scales[b] * table[bits [t * bits, t * bits + L) of the circular stream codes[b]]."""
    import cupy

    with codes.device:
        codes, table = cupy.ascontiguousarray(codes), cupy.asarray(table)
        (across, down, _), wide = over_rows(*out.shape)
        near = table.nbytes <= SHARED
        launch(
            _SOURCE,
            "bitshift_decode",
            (across, min(down, _BLOCKS), 1),
            codes,
            np.uint32(codes.shape[1]),
            table,
            np.uint32(table.size),
            np.uint32(table.size.bit_length() - 1),
            np.uint32(near),
            np.uint32(bits),
            cupy.ascontiguousarray(scales),
            np.uint64(len(out)),
            np.uint32(out.shape[1]),
            wide,
            out,
            shared=table.nbytes if near else 0,
            REAL=real(out.dtype),
        )

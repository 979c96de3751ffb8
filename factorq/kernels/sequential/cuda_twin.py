"""The shift-register decoder on a GPU: a thread per word of 64 outputs, tables in shared memory.

A step takes one look-up per input where the tables of whole inputs fit into the shared memory of a block (8 bits and 2
registers: up to 512 outputs), else two, of four bits each. Not yet measured on a GPU.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import SHARED, THREADS, launch, placed
from .network import matrices, tables

_SOURCE = Path(__file__).with_name("sequential.cu")
_BLOCKS = 2048
"""Blocks that share the words: each copies the tables once."""


def outputs(stream: Any, size: int, n_in: int, n_out: int, registers: int, seed: int, first: int, stop: int) -> Any:
    """Bitmaps (planes, bytes) of the steps first..stop as a CuPy array; ``stream`` is one."""
    import cupy

    with stream.device:
        stream = cupy.ascontiguousarray(stream)
        positions = max(min(stop * n_out, size) - first * n_out, 0)
        out = cupy.empty((len(stream), -(-positions // 64)), np.uint64)
        width = _width(n_in, n_out, registers)
        table = _tables(n_in, n_out, registers, seed, width, stream.device.id)
        launch(
            _SOURCE,
            "sequential_outputs",
            (min(-(-out.shape[1] // THREADS), _BLOCKS), 1, len(stream)),
            stream,
            np.uint64(stream.shape[1]),
            np.uint64(first),
            np.uint64(positions),
            np.uint32(n_in),
            np.uint32(n_out),
            np.uint32(registers + 1),
            np.uint32(table.shape[1]),
            np.uint32(width),
            table,
            out,
            np.uint64(out.shape[1]),
            shared=table.nbytes,
        )
        return out.view(np.uint8)[:, : -(-positions // 8)]


def _width(n_in: int, n_out: int, registers: int) -> int:
    """Bits of a look-up: a whole input where its tables fit, else 4 (at most 12 KiB for 1024 outputs)."""
    return n_in if ((registers + 1) << n_in) * -(-n_out // 64) * 8 <= SHARED else 4


@lru_cache(maxsize=8)
def _tables(n_in: int, n_out: int, registers: int, seed: int, width: int, device: int) -> Any:
    """On a device: [r, p, v] is M_r x, were bits p * width .. of x v and all others 0."""
    whole = tables(matrices(n_in, n_out, registers, seed), n_in)
    pieces = np.arange(0, n_in, width)
    x = (np.arange(1 << width) << pieces[:, None]) & ((1 << n_in) - 1)
    return placed(np.ascontiguousarray(whole[:, x]))

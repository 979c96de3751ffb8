"""The banded network on a GPU: a thread per word of 64 outputs, tables in shared memory.

Tables are those of the Numba twin: 16 rows for every four bits of a window, here at most four words wide, so that a
block needs at most 32 KiB. The streams are copied once to whole words with room after the end, a tenth of the outputs.
Not yet measured on a GPU.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..cuda_twin import THREADS, launch, placed

if TYPE_CHECKING:
    from . import Network

_SOURCE = Path(__file__).with_name("banded.cu")
_BLOCKS = 2048
"""Blocks that share the steps: each copies the tables once."""


def outputs(network: Network, stream: Any, size: int, starts: Any, slots: int) -> Any:
    """Bitmaps (planes, ceil(size / 8)) as a CuPy array; ``stream`` is one, ``starts`` may be on the host.

    Starts outside 0 .. ``slots`` are taken for ``slots``: to look for them would be to wait for the device.
    """
    import cupy

    with stream.device:
        planes, steps, wide = len(stream), len(starts), min(network.step // 64, 4)
        groups = _groups(network)
        padded = cupy.zeros((planes, slots // 32 + groups // 8 + 1), np.uint32)  # windows look past the end
        padded.view(np.uint8)[:, : stream.shape[1]] = stream
        if slots % 32:
            padded[:, slots // 32] &= np.uint32((1 << slots % 32) - 1)
        out = cupy.empty((planes, steps * network.step // 64), np.uint64)
        blocks = min(-(-steps * wide // THREADS), _BLOCKS)
        launch(
            _SOURCE,
            "banded_outputs",
            (blocks, network.step // (64 * wide), planes),
            padded,
            np.uint64(padded.shape[1]),
            np.uint64(slots),
            cupy.asarray(starts),
            np.uint64(steps),
            _tables(network, wide, stream.device.id),
            np.uint32(groups),
            np.uint32(wide),
            np.uint64(size),
            out,
            shared=groups * 16 * wide * 8,
        )
        return cupy.ascontiguousarray(out.view(np.uint8)[:, : -(-size // 8)])


def _groups(network: Network) -> int:
    """Groups of four bits that the windows of a step reach over: a multiple of 8, at most 64."""
    return 8 * -(-(network.window + network.advance) // 32)


@lru_cache(maxsize=8)
def _tables(network: Network, wide: int, device: int) -> Any:
    """On a device: [c, g, v] is words c * wide .. of the outputs, were bits 4 g .. v and all others 0."""
    groups, step = _groups(network), network.step
    rows: NDArray[np.uint8] = network.rows.astype("<u8").view(np.uint8)
    matrix = np.zeros((4 * groups, step), np.uint8)
    columns = network.offsets[:, None] + np.arange(network.window)
    matrix[columns, np.arange(step)[:, None]] = np.unpackbits(rows, axis=1, bitorder="little")[:, : network.window]
    basis = np.packbits(matrix, axis=1, bitorder="little").view("<u8").astype(np.uint64)
    tables = _sums(basis.reshape(groups, 4, step // 64)).reshape(groups, 16, -1, wide)
    return placed(np.ascontiguousarray(tables.transpose(2, 0, 1, 3)))


def _sums(basis: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[g, v] is the XOR of ``basis[g, b]`` over the ones b of v: (groups, bits, words) to (groups, 2**bits, words)."""
    tables = np.zeros((basis.shape[0], 1, basis.shape[2]), np.uint64)
    for b in range(basis.shape[1]):
        tables = np.concatenate([tables, tables ^ basis[:, b : b + 1]], axis=1)
    return tables

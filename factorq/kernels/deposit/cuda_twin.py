"""Bits to the ones of a mask and back on a GPU: ranks by counts of stretches, a thread per 64 positions.

Not yet measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import THREADS, launch

_SOURCE = Path(__file__).with_name("deposit.cu")
_STRETCH = 64 * THREADS
"""Positions of a block."""
_WARPS = 8
_ROOM = 64
"""Bytes of shared memory: a sum for each warp."""


def count(mask: Any) -> int:
    """Count the ones."""
    return int(_stretches(mask)[-1])


def deposit(packed: Any, mask: Any, out: Any) -> int:
    """Write (planes, bytes) to the ones of the mask: (planes, ceil(size / 8)); return the number of ones."""
    with mask.device:
        directory = _stretches(mask)
        launch(
            _SOURCE,
            "deposit_spread",
            (len(directory) - 1, 1, 1),
            packed,
            np.uint64(packed.shape[1]),
            mask,
            np.uint64(mask.size),
            directory,
            np.uint64(len(packed)),
            out,
            shared=_ROOM,
        )
        return int(directory[-1])


def extract(bits: Any, mask: Any, out: Any) -> None:
    """Write the bits (planes, ceil(size / 8)) at the ones of the mask: (planes, ceil(count / 8))."""
    import cupy

    with mask.device:
        directory = _stretches(mask)
        words = cupy.zeros((len(bits), out.shape[1] // 4 + 3), np.uint32)
        launch(
            _SOURCE,
            "deposit_gather",
            (len(directory) - 1, 1, 1),
            bits,
            mask,
            np.uint64(mask.size),
            directory,
            np.uint64(len(bits)),
            np.uint64(words.shape[1]),
            words,
            shared=_ROOM,
        )
        out[...] = words.view(np.uint8)[:, : out.shape[1]]


def ranks(mask: Any, every: int, directory: Any) -> None:
    """Count the ones before each multiple of ``every``."""
    entries = len(directory) - 1
    with mask.device:
        size = np.uint64(mask.size)
        grid = -(-entries // _WARPS), 1, 1
        launch(_SOURCE, "deposit_counts", grid, mask, size, np.uint64(every // 8), np.uint64(entries), directory)
        launch(_SOURCE, "deposit_sums", (1, 1, 1), np.uint64(entries), directory, shared=_ROOM)


def rank(mask: Any, directory: Any, i: Any, every: int, out: Any) -> None:
    """Count the ones before each position."""
    given = mask, np.uint64(mask.size), directory, np.uint64(every // 8), i, np.uint64(len(i)), out
    with mask.device:
        launch(_SOURCE, "deposit_rank", (-(-len(i) // THREADS), 1, 1), *given)


def select(mask: Any, directory: Any, k: Any, every: int, out: Any) -> None:
    """Position of the k-th one, counting from 0."""
    given = directory, np.uint64(len(directory) - 1), np.uint64(every // 8), k, np.uint64(len(k)), out
    with mask.device:
        launch(_SOURCE, "deposit_select", (-(-len(k) // THREADS), 1, 1), mask, np.uint64(mask.size), *given)


def _stretches(mask: Any) -> Any:
    """Ones before each stretch that a block takes, and of all."""
    import cupy

    with mask.device:
        directory = cupy.empty((-(-8 * mask.size // _STRETCH) + 1,), np.int64)
        ranks(mask, _STRETCH, directory)
        return directory

"""The rANS decoder on a GPU: a thread per block, equal to the reference bit for bit.

Encoders and the choice of tables are those of the host. Not yet measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...arrays import to_host
from ..cuda_twin import THREADS, launch
from .reference import corrupted

_SOURCE = Path(__file__).with_name("rans.cu")
_WARPS = 512
"""Blocks are spread over so many warps before two of them share one."""


def decode(words: Any, sizes: Any, contexts: Any, freqs: Any, precision: int, lanes: int, block: int, out: Any) -> None:
    """Write symbols (n,) to ``out``; any words are safe, those that the encoder would not write raise.

    ``sizes`` and ``freqs`` may be on the host.
    """
    import cupy

    blocks = len(sizes)
    threads = min(max(blocks // _WARPS, 1), 32)
    with words.device:
        offsets = cupy.zeros((blocks + 1,), np.int64)
        offsets[1:] = cupy.cumsum(cupy.asarray(sizes))
        freqs = cupy.asarray(freqs)
        starts = cupy.cumsum(freqs, axis=1) - freqs
        entries, sound = cupy.empty((len(freqs), 1 << precision), np.uint64), cupy.empty((blocks,), np.uint8)
        grid = (1 << precision) // THREADS, 1, len(freqs)
        launch(_SOURCE, "rans_entries", grid, starts, np.uint32(freqs.shape[1]), np.uint32(precision), entries)
        launch(
            _SOURCE,
            "rans_decode_bytes" if out.dtype == np.uint8 else "rans_decode_shorts",
            (-(-blocks // threads), 1, 1),
            words,
            offsets,
            np.uint64(blocks),
            contexts if contexts.size else np.uint64(0),
            entries,
            np.uint32(precision),
            np.uint32(lanes),
            np.uint64(block),
            np.uint64(out.size),
            out,
            sound,
            threads=threads,
        )
        bad = np.flatnonzero(to_host(sound) == 0)
    if bad.size:
        raise corrupted(int(bad[0]))

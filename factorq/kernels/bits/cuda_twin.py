"""The bit stream on a GPU: a thread per word that is packed, and per sixteen bytes of codes.

Not yet measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import THREADS, launch

_SOURCE = Path(__file__).with_name("bits.cu")


def pack(codes: Any, bits: int) -> Any:
    """Pack codes (n,) -> (ceil(n * bits / 8),) uint8."""
    import cupy

    with codes.device:
        codes, per = cupy.ascontiguousarray(codes), _per(bits)
        nbytes = (codes.size * bits + 7) // 8
        out = cupy.empty((-(-nbytes // 4),), np.uint32)
        blocks = -(-out.size // (THREADS * per * bits))
        size, count = np.uint64(codes.nbytes), np.uint64(out.size)
        launch(_SOURCE, "bits_pack", (blocks, 1, 1), codes, size, np.uint32(bits), np.uint32(per), out, count)
        return out.view(np.uint8)[:nbytes]


def unpack(packed: Any, bits: int, size: int) -> Any:
    """Unpack (ceil(size * bits / 8),) uint8 -> codes (size,)."""
    import cupy

    with packed.device:
        packed, per = cupy.ascontiguousarray(packed), _per(bits)
        out = cupy.empty((-(-size // (4 * per)) * 4,), np.uint32)
        count = out.size // 4
        launch(
            _SOURCE,
            "bits_unpack",
            (-(-count // THREADS), 1, 1),
            packed,
            np.uint64(packed.nbytes),
            np.uint32(bits),
            np.uint32(per),
            out,
            np.uint64(count),
        )
        return out.view(np.uint8 if bits <= 8 else np.uint16)[:size]


def _per(bits: int) -> int:
    """Codes of 32 bits before packing."""
    return 4 if bits <= 8 else 2

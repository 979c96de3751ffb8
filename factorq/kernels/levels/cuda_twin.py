"""Scalar codebooks on a GPU: a thread per four values, codes by bisection of the thresholds; bits as the reference's.

Not yet measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import launch, over_rows, real

_SOURCE = Path(__file__).with_name("levels.cu")
_NEAR = 16 << 10
"""Most bytes of levels that every block copies to its shared memory."""


def encode(x: Any, levels: Any, scales: Any, group: int, codes: Any) -> None:
    """codes[i, j] = argmin_k |x[i, j] - scales[i, j // group] * levels[k]|, ties to the lower k."""
    _run("levels_encode", x, levels, scales, group, codes, codes.dtype)


def decode(codes: Any, levels: Any, scales: Any, group: int, out: Any) -> None:
    """out[i, j] = scales[i, j // group] * levels[codes[i, j]]."""
    _run("levels_decode", codes, levels, scales, group, out, codes.dtype)


def _run(name: str, given: Any, levels: Any, scales: Any, group: int, out: Any, code: Any) -> None:
    import cupy

    with given.device:
        rows, n = given.shape
        levels, near = cupy.ascontiguousarray(cupy.asarray(levels)), levels.nbytes <= _NEAR
        blocks, wide = over_rows(rows, n)
        launch(
            _SOURCE,
            name,
            blocks,
            cupy.ascontiguousarray(given),
            levels,
            np.uint32(levels.size),
            np.uint32(near),
            cupy.ascontiguousarray(cupy.asarray(scales)),
            np.uint64(rows),
            np.uint32(n),
            np.uint32(min(group, max(n, 1))),
            np.uint32(-(-n // group)),
            wide,
            out,
            shared=levels.nbytes if near else 0,
            REAL=real(levels.dtype),
            CODE="u8" if code == np.uint8 else "u16",
        )

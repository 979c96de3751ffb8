"""The rotation on a GPU: a block per row, in shared memory up to 12288 float32 entries (6144 with an odd part).

Not yet measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import SHARED, launch, real

_SOURCE = Path(__file__).with_name("hadamard.cu")
_BLOCKS, _FAR_BLOCKS = 4096, 512
"""Most blocks that share the rows, and those that need room in device memory."""


def rotate(x: Any, order: Any, signs: Any, span: int, starts: Any, odd: Any, inverse: bool, out: Any) -> None:
    """out[i] = T x[i], or T^T x[i]: every step is symmetric and orthonormal, so they are undone in reverse order."""
    import cupy

    with x.device:
        rows, n = x.shape
        kind = x.dtype.type
        nbytes = n * x.dtype.itemsize * (2 if len(odd) > 1 else 1)
        near = nbytes <= SHARED
        blocks = min(rows, _BLOCKS if near else _FAR_BLOCKS)
        launch(
            _SOURCE,
            "hadamard_rotate",
            (blocks, 1, 1),
            cupy.ascontiguousarray(x),
            np.uint64(rows),
            np.uint32(n),
            cupy.asarray(order),
            cupy.asarray(signs),
            cupy.asarray(starts),
            np.uint32(len(starts)),
            np.uint32(span),
            kind(span**-0.5),
            cupy.asarray(odd),
            np.uint32(len(odd)),
            np.uint32(inverse),
            np.uint32(near),
            cupy.empty((0 if near else blocks, 2, n), x.dtype),
            out,
            shared=nbytes if near else 0,
            REAL=real(x.dtype),
        )

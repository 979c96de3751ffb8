"""Pursuit on a GPU: a warp per row, the same moves in the same order as in the reference, bit for bit.

Codes and gradients of up to 768 coordinates (1,536 without a restart) are in shared memory. Not yet measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import SHARED, THREADS, launch

_SOURCE = Path(__file__).with_name("pursuit.cu")
_WARP = 32
_BLOCKS = 256
"""Blocks that share the rows where the scratch vectors are in global memory."""


def pursue(
    G: Any,
    B: Any,
    price: Any,
    cost: Any,
    count: Any,
    least: Any,
    most: float,
    shift: float,
    zero: bool,
    restart: bool,
    steps: int,
    Z: Any,
) -> None:
    """Lower the objective of every row of Z; the contract stands at the door."""
    import cupy

    n, r = Z.shape
    if not Z.size:
        return
    row = 8 * r * (4 if restart else 2)
    shared = row <= SHARED
    warps = min(SHARED // row, THREADS // _WARP) if shared else THREADS // _WARP
    with Z.device:
        diagonal = cupy.empty((2, r), np.float64)
        launch(_SOURCE, "pursuit_diagonal", (-(-r // THREADS), 1, 1), G, np.uint32(r), diagonal)
        blocks = -(-n // warps)
        scratch: Any = np.uint64(0)
        if not shared:
            blocks = min(blocks, _BLOCKS)
            scratch = cupy.empty((blocks * warps, row // 8), np.float64)
        launch(
            _SOURCE,
            "pursuit_float" if Z.dtype.type is np.float32 else "pursuit_double",
            (blocks, 1, 1),
            G,
            diagonal,
            B,
            price,
            cost,
            count,
            least,
            np.float64(most),
            np.float64(shift),
            np.uint32(zero),
            np.uint32(restart),
            np.uint32(steps),
            np.uint64(n),
            np.uint32(r),
            scratch,
            Z,
            shared=warps * row if shared else 0,
            threads=_WARP * warps,
        )

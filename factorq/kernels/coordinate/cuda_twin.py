"""Coordinate descent on a GPU: a warp per row, every operation rounded as in the reference.

Not yet measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import launch

_SOURCE = Path(__file__).with_name("coordinate.cu")
_ROWS = 8
"""Of a block: a warp each."""


def sweep(G: Any, noise: Any | None, most: float, shift: float, g: Any, Z: Any) -> None:
    """Move each coordinate to the level nearest to its minimum, plus noise; the contract stands at the door."""
    n, r = Z.shape
    kind = Z.dtype.type
    with Z.device:
        launch(
            _SOURCE,
            "coordinate_float" if kind is np.float32 else "coordinate_double",
            (-(-n // _ROWS), 1, 1),
            G,
            np.uint64(0) if noise is None else noise,
            np.uint64(n),
            np.uint32(r),
            kind(most),
            kind(shift),
            g,
            Z,
        )

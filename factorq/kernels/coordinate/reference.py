"""The plain twin: all rows at once, coordinate after coordinate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


def sweep(G: Floats, noise: NDArray[Any] | None, most: float, shift: float, g: Floats, Z: Floats) -> None:
    """Move each coordinate to the level nearest to its minimum, plus noise; the contract stands at the door."""
    for j in range(Z.shape[1]):
        if G[j, j] <= 0:
            continue
        target = Z[:, j] + g[:, j] * (1.0 / G[j, j])
        if noise is not None:
            target = target + noise[:, j] * (1.0 / np.sqrt(G[j, j]))
        step = np.minimum(np.maximum(np.rint(target - shift) + shift, -most), most) - Z[:, j]
        g -= step[:, None] * G[j]
        Z[:, j] += step

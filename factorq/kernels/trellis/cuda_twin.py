"""The trellis search on a GPU: a thread per state, many paths side by side, equal to the reference bit for bit.

Rows are independent: a GPU wants thousands of them, so all blocks of an array belong into one call. Not yet measured on
a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import THREADS, launch

_SOURCE = Path(__file__).with_name("trellis.cu")
_GROUPS, _CHUNK = 16, 16
"""Words of decisions of a window, samples whose costs are kept."""


def search(x: Any, classes: Any, rate: Any, predecessor: Any, subset: Any, state: Any, k: Any) -> None:
    """The path of least ``(x - k)**2 + rate[class, k]`` through the trellis for each row of x, decided by windows.

    ``rate``, ``predecessor`` and ``subset`` may be on the host.
    """
    import cupy

    states, (lanes, length) = len(predecessor), x.shape
    paths = THREADS // states
    moves = predecessor[:, 0] | predecessor[:, 1] << 8 | subset[:, 0] << 16 | subset[:, 1] << 24
    with x.device:
        launch(
            _SOURCE,
            "trellis_search",
            (-(-lanes // paths), 1, 1),
            cupy.ascontiguousarray(x),
            cupy.ascontiguousarray(classes),
            cupy.asarray(rate),
            np.uint32(rate.shape[1]),
            np.uint64(lanes),
            np.uint64(length),
            np.uint32(states),
            cupy.asarray(moves.astype(np.uint32)),
            state,
            k,
            shared=8 * _GROUPS * paths + 4 * (4 * _CHUNK * paths + (3 + _GROUPS) * THREADS + states),
        )


def deadzone(x: Any, classes: Any, rate: Any, k: Any) -> None:
    """The k of least ``(x - k)**2 + rate[class, k]`` for each entry: the nearest integer or its neighbour toward 0."""
    import cupy

    with x.device:
        launch(
            _SOURCE,
            "trellis_deadzone",
            (-(-x.size // THREADS), 1, 1),
            cupy.ascontiguousarray(x),
            cupy.ascontiguousarray(classes),
            cupy.asarray(rate),
            np.uint32(rate.shape[1]),
            np.uint64(x.size),
            k,
        )

"""Columns of x in the order in which the tiles read them, and results back in theirs.

A panel holds 1, 2 or 4 columns of x (n, b), block of codes after block: for code k of the lanes the 8 numbers of each
column, divided by the powers of two with which those codes are read. ``sums`` are sums of x over the codes of a group,
lane by lane. Columns past b are zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from ...words.numba_twin import kernel
from ..layout import LANES

_MATRIX = types.Array(types.float32, 2, "A", readonly=True)
_POWERS = types.Array(types.float32, 2, "C", readonly=True)
_FLAT = types.Array(types.float32, 1, "C")


@kernel(types.void(_MATRIX, types.int64, _POWERS, types.float32, types.int64, _FLAT, _FLAT))
def fill(x: Any, columns: int, powers: Any, unit: Any, group: int, out: Any, sums: Any) -> None:
    """Out (panels * n * columns,), sums (panels * groups * columns * 8,) = the panels of ``unit * x``, (n, b)."""
    n, b = x.shape
    run = powers.shape[0]
    at, place = 0, 0
    within = np.empty((columns, LANES), np.float64)
    for panel in range(-(-b // columns)):
        for start in range(0, n, group):
            within[:] = 0.0
            for block in range(start, min(start + group, n), LANES * run):
                for k in range(run):
                    for c in range(columns):
                        column = panel * columns + c
                        for lane in range(LANES):
                            v = np.float32(0.0)
                            if column < b:
                                v = x[block + lane * run + k, column] * unit
                            within[c, lane] += v
                            out[at] = v * powers[k, lane]
                            at += 1
            for c in range(columns):
                for lane in range(LANES):
                    sums[place] = within[c, lane]
                    place += 1


@kernel(types.void(_FLAT, _FLAT, types.int64, _POWERS, types.float32, types.int64, types.Array(types.float32, 2, "C")))
def empty(panels: Any, sums: Any, columns: int, powers: Any, offset: Any, group: int, out: Any) -> None:
    """Out (b, n) = the panels, with ``offset * sums`` (panels * groups * columns,) added to all codes of a group."""
    b, n = out.shape
    run = powers.shape[0]
    groups = -(-n // group)
    for column in range(b):
        panel, c = column // columns, column % columns
        for g in range(groups):
            more = offset * sums[(panel * groups + g) * columns + c]
            for block in range(g * group, min((g + 1) * group, n), LANES * run):
                base = panel * n * columns + block * columns + c * LANES
                for k in range(run):
                    for lane in range(LANES):
                        v = panels[base + k * columns * LANES + lane] * powers[k, lane]
                        out[column, block + lane * run + k] = v + more

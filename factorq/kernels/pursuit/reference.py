"""The plain twin: one row at a time, whole vectors of gains, in the order of arithmetic that the other one has."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def pursue(
    G: Floats,
    B: NDArray[Any],
    price: Floats,
    cost: Floats,
    count: NDArray[np.int64],
    least: Floats,
    most: float,
    shift: float,
    zero: bool,
    restart: bool,
    steps: int,
    Z: NDArray[Any],
) -> None:
    """Lower the objective of every row of Z; the contract stands at the door."""
    for i in range(Z.shape[0]):
        b = B[i].astype(np.float64)
        settings = price[i] * cost, int(count[i]), float(least[i]), most, shift, zero, steps
        z = Z[i].astype(np.float64)
        g = _gradient(G, b, z)
        _descend(G, z, g, *settings)
        if restart:
            other, h = np.zeros_like(z), b.copy()
            _descend(G, other, h, *settings)
            if _objective(b, other, h, settings[0]) < _objective(b, z, g, settings[0]):
                z = other
        Z[i] = z


def _gradient(G: Floats, b: Floats, z: Floats) -> Floats:
    """``b - G z``, atom after atom."""
    g = b.copy()
    for j in np.flatnonzero(z):
        g -= G[j] * z[j]
    return g


def _objective(b: Floats, z: Floats, g: Floats, paid: Floats) -> float:
    total = 0.0
    for j in np.flatnonzero(z):
        total += paid[j] - z[j] * (b[j] + g[j])
    return float(total)


def _best(u: float, d: float, paid: float, most: float, shift: float, zero: bool) -> tuple[float, float]:
    """The best value of a coordinate and what it gains over 0."""
    size = abs(u) * (1.0 / d)
    if most > 0:
        size = min(max(np.floor(size - shift + 0.5), 1.0), most) + shift
    gain = size * (2.0 * abs(u) - d * size) - paid
    if zero and gain <= 0:
        return 0.0, 0.0
    return (-size if u < 0 else size), gain


def _descend(
    G: Floats,
    z: Floats,
    g: Floats,
    paid: Floats,
    count: int,
    least: float,
    most: float,
    shift: float,
    zero: bool,
    steps: int,
) -> None:
    """Best moves until none gains more than ``least``; then exchanges where the row is full."""
    kept = int(np.count_nonzero(z))
    r = len(z)
    while zero and kept > count:
        out = _least_useful(G, z, g, paid)[0]
        if out < 0:
            break
        _set(G, z, g, out, 0.0)
        kept -= 1
    for _ in range(steps):
        move, target, largest = -1, 0.0, least
        for j in range(r):
            d = G[j, j]
            if d <= 0 or (z[j] == 0 and kept >= count):
                continue
            value, _ = _best(g[j] + d * z[j], d, paid[j], most, shift, zero)
            step = value - z[j]
            gain = step * (2.0 * g[j] - d * step) - (paid[j] * (value != 0) - paid[j] * (z[j] != 0))
            if gain > largest:
                move, target, largest = j, value, gain
        if move >= 0:
            kept += int(target != 0) - int(z[move] != 0)
            _set(G, z, g, move, target)
        elif not (zero and kept == count and 0 < kept < r and _exchange(G, z, g, paid, least, most, shift)):
            break


def _least_useful(G: Floats, z: Floats, g: Floats, paid: Floats) -> tuple[int, float]:
    """The nonzero that is missed least (-1 if there is none), and what it gains."""
    out, loss = -1, np.inf
    for j in range(len(z)):
        if z[j] != 0 and G[j, j] > 0:
            gained = z[j] * (2.0 * g[j] + G[j, j] * z[j]) - paid[j]
            if gained < loss:
                out, loss = j, gained
    return out, loss


def _exchange(G: Floats, z: Floats, g: Floats, paid: Floats, least: float, most: float, shift: float) -> bool:
    """Replace the nonzero that is missed least by the best other one, if that gains more than ``least``."""
    out, loss = _least_useful(G, z, g, paid)
    if out < 0:
        return False
    old = z[out]
    _set(G, z, g, out, 0.0)
    move, target, largest = -1, 0.0, loss + least
    for j in range(len(z)):
        if z[j] == 0 and j != out and G[j, j] > 0:
            value, gain = _best(g[j], G[j, j], paid[j], most, shift, True)
            if gain > largest:
                move, target, largest = j, value, gain
    if move < 0:
        _set(G, z, g, out, old)
        return False
    _set(G, z, g, move, target)
    return True


def _set(G: Floats, z: Floats, g: Floats, j: int, value: float) -> None:
    g -= G[j] * (value - z[j])
    z[j] = value

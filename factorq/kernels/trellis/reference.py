"""The trellis search step by step in NumPy: the specification of the compiled twin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW = 512  # samples between decisions; a path that is decided there loses a few samples' freedom


def search(
    x: NDArray[Any],
    classes: NDArray[Any],
    rate: NDArray[Any],
    predecessor: NDArray[Any],
    subset: NDArray[Any],
    state: NDArray[Any],
    k: NDArray[Any],
) -> None:
    """The path of least ``(x - k)**2 + rate[class, k]`` through the trellis for each row of x, decided by windows."""
    for start in range(0, x.shape[1], WINDOW):
        part = slice(start, start + WINDOW)
        k[:, part], state[:] = _window(x[:, part], classes[:, part], rate, predecessor, subset, state)


def deadzone(x: NDArray[Any], classes: NDArray[Any], rate: NDArray[Any], k: NDArray[Any]) -> None:
    """The k of least ``(x - k)**2 + rate[class, k]`` for each entry: the nearest integer or its neighbour toward 0."""
    k[...] = _candidate(x, classes, rate, np.rint(x), np.float32(1))[1]


def _candidate(
    x: NDArray[Any], classes: NDArray[Any], rate: NDArray[Any], q: NDArray[Any], spacing: np.float32
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The cheaper of the point q and its neighbour toward 0: its cost and itself."""
    inner = q - np.where(q > 0, spacing, -spacing)
    cost, other = ((x - p) * (x - p) + _rate(rate, classes, p) for p in (q, inner))
    better = other < cost
    return np.where(better, other, cost), np.where(better, inner, q).astype(np.int32)


def _rate(rate: NDArray[Any], classes: NDArray[Any], point: NDArray[Any]) -> NDArray[Any]:
    most = (rate.shape[1] - 1) // 2
    return np.asarray(rate[classes, np.clip(point.astype(np.int32), -most, most) + most])


def _window(
    x: NDArray[Any],
    classes: NDArray[Any],
    rate: NDArray[Any],
    predecessor: NDArray[Any],
    subset: NDArray[Any],
    state: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any]]:
    lanes, length = x.shape
    states = len(predecessor)
    every = np.arange(lanes)
    metric = np.full((states, lanes), 1e30, np.float32)
    metric[state, every] = 0
    taken = np.empty((length, states, lanes), np.bool_)
    points = np.empty((length, 4, lanes), np.int32)
    for t in range(length):
        branch = np.empty((4, lanes), np.float32)
        for d in range(4):
            offset = np.float32(d)
            q = np.rint((x[:, t] - offset) * np.float32(0.25)) * np.float32(4) + offset
            branch[d], points[t, d] = _candidate(x[:, t], classes[:, t], rate, q, np.float32(4))
        first, second = (metric[predecessor[:, b]] + branch[subset[:, b]] for b in (0, 1))
        taken[t] = second < first
        metric = np.where(taken[t], second, first)
    last = metric.argmin(axis=0)
    k = np.empty((lanes, length), np.int32)
    at = last
    for t in range(length - 1, -1, -1):
        b = taken[t, at, every].astype(np.int64)
        k[:, t] = points[t, subset[at, b], every]
        at = predecessor[at, b]
    return k, last

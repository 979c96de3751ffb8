"""The trellis search compiled: one state at a time over all sequences, which the compiler turns into vector code.

Measured on one core, 64 sequences of Gaussian numbers: see the results of ``benchmarks/rate_distortion.py``.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .reference import WINDOW

_FAR = np.float32(1e30)


@numba.njit(cache=True, nogil=True)
def search(
    x: NDArray[Any],
    classes: NDArray[Any],
    rate: NDArray[Any],
    predecessor: NDArray[Any],
    subset: NDArray[Any],
    state: NDArray[Any],
    k: NDArray[Any],
) -> None:
    lanes, length = x.shape
    states = len(predecessor)
    samples = np.empty((WINDOW, lanes), np.float32)
    offsets = np.empty((WINDOW, lanes), np.int32)
    branch = np.empty((4, lanes), np.float32)
    points = np.empty((WINDOW, lanes), np.int32)
    taken = np.empty((WINDOW, (states + 31) >> 5, lanes), np.int32)
    here = np.empty((states, lanes), np.float32)
    there = np.empty((states, lanes), np.float32)
    flat = rate.reshape(-1)
    for start in range(0, length, WINDOW):
        steps = min(WINDOW, length - start)
        for lane in range(lanes):
            for t in range(steps):
                samples[t, lane] = x[lane, start + t]
                offsets[t, lane] = classes[lane, start + t] * rate.shape[1]
        here[:] = _FAR
        for lane in range(lanes):
            here[state[lane], lane] = 0
        for t in range(steps):
            _branches(samples[t], offsets[t], flat, rate.shape[1], branch)
            if t & 1:
                _select(there, here, branch, predecessor, subset, taken[t])
            else:
                _select(here, there, branch, predecessor, subset, taken[t])
        _trace(there if steps & 1 else here, samples, offsets, flat, rate.shape[1], predecessor, subset, taken, steps,
               state, points)  # fmt: skip
        # By way of ``points``: rows of k lie a power of two apart, and writing across them missed every cache.
        for lane in range(lanes):
            for t in range(steps):
                k[lane, start + t] = points[t, lane]


@numba.njit(cache=True, nogil=True)
def deadzone(x: NDArray[Any], classes: NDArray[Any], rate: NDArray[Any], k: NDArray[Any]) -> None:
    flat = rate.reshape(-1)
    most = np.int32((rate.shape[1] - 1) >> 1)
    for lane in range(x.shape[0]):
        for t in range(x.shape[1]):
            v = x[lane, t]
            q = np.rint(v)
            inner = q - (np.float32(1) if q > 0 else np.float32(-1))
            offset = np.int32(classes[lane, t]) * np.int32(rate.shape[1])
            cost = (v - q) * (v - q) + flat[_place(q, most, offset)]
            other = (v - inner) * (v - inner) + flat[_place(inner, most, offset)]
            k[lane, t] = np.int32(inner if other < cost else q)


@numba.njit(cache=True, nogil=True)
def _place(q: np.float32, most: np.int32, offset: np.int32) -> Any:
    """Where the rate of point q stands; unsigned, or the compiler would keep a branch for negative indices."""
    return np.uint32(min(max(np.int32(q), -most), most) + most + offset)


@numba.njit(cache=True, nogil=True)
def _branches(
    samples: NDArray[Any], offsets: NDArray[Any], rate: NDArray[Any], width: int, branch: NDArray[Any]
) -> None:
    """The cost of the best point of each subset for every sequence."""
    most = np.int32((width - 1) >> 1)
    for d in range(4):
        first = np.float32(d)
        for lane in range(np.uint32(len(samples))):
            v = samples[lane]
            q = np.rint((v - first) * np.float32(0.25)) * np.float32(4) + first
            inner = q - (np.float32(4) if q > 0 else np.float32(-4))
            cost = (v - q) * (v - q) + rate[_place(q, most, offsets[lane])]
            other = (v - inner) * (v - inner) + rate[_place(inner, most, offsets[lane])]
            branch[d, lane] = other if other < cost else cost


@numba.njit(cache=True, nogil=True)
def _select(
    before: NDArray[Any],
    after: NDArray[Any],
    branch: NDArray[Any],
    predecessor: NDArray[Any],
    subset: NDArray[Any],
    taken: NDArray[Any],
) -> None:
    """Add, compare, select: the metrics after one sample, and which of two branches each state came by, as bits."""
    lanes = np.uint64(before.shape[1])  # unsigned indices throughout: 63 M samples/s at 64 states, else a third of it
    for s in range(np.uint64(len(predecessor))):
        a, b = np.uint64(predecessor[s, 0]), np.uint64(predecessor[s, 1])
        da, db = np.uint64(subset[s, 0]), np.uint64(subset[s, 1])
        word, bit = s >> np.uint64(5), np.int32(1) << np.int32(s & np.uint64(31))
        kept = np.int32(0) if s & np.uint64(31) == 0 else np.int32(-1)
        for lane in range(lanes):
            first = before[a, lane] + branch[da, lane]
            second = before[b, lane] + branch[db, lane]
            after[s, lane] = second if second < first else first
            taken[word, lane] = (taken[word, lane] & kept) | (bit if second < first else np.int32(0))


@numba.njit(cache=True, nogil=True)
def _trace(
    metric: NDArray[Any],
    samples: NDArray[Any],
    offsets: NDArray[Any],
    rate: NDArray[Any],
    width: int,
    predecessor: NDArray[Any],
    subset: NDArray[Any],
    taken: NDArray[Any],
    steps: int,
    state: NDArray[Any],
    points: NDArray[Any],
) -> None:
    """From the best last state backwards; what each branch stood for is worked out again, cheaper than kept."""
    lanes = len(state)
    most = np.int32((width - 1) >> 1)
    at = np.empty(lanes, np.int64)
    for lane in range(lanes):
        best = 0
        for s in range(1, len(metric)):
            if metric[s, lane] < metric[best, lane]:
                best = s
        at[lane] = best
        state[lane] = best
    for t in range(steps - 1, -1, -1):
        for lane in range(lanes):
            s = at[lane]
            b = (taken[t, s >> 5, lane] >> (s & 31)) & 1
            first = np.float32(subset[s, b])
            at[lane] = predecessor[s, b]
            v = samples[t, lane]
            q = np.rint((v - first) * np.float32(0.25)) * np.float32(4) + first
            inner = q - (np.float32(4) if q > 0 else np.float32(-4))
            cost = (v - q) * (v - q) + rate[_place(q, most, offsets[t, lane])]
            other = (v - inner) * (v - inner) + rate[_place(inner, most, offsets[t, lane])]
            points[t, lane] = np.int32(inner if other < cost else q)

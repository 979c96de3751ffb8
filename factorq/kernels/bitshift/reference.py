"""The specification: the plain Viterbi algorithm over all states, block after block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


def encode(x: Floats, table: Floats, bits: int, length: int, window: int, codes: NDArray[np.uint8]) -> None:
    """codes[b] = the circular stream of least cost for x[b], from the overlap that a search around the seam finds."""
    period = x.shape[1]
    wide = min(window, period // 2)
    seam = np.roll(np.arange(period), wide)[: 2 * wide]
    for b in range(x.shape[0]):
        branch = [_distances(x[b, t], table, t < length) for t in range(period)]
        free = np.zeros(table.size >> bits, np.float32)
        overlap = _path([branch[t] for t in seam], free, bits, None)[wide] >> bits if wide else 0
        start = np.full(free.size, np.inf, np.float32)
        start[overlap] = 0
        states = _path(branch, start, bits, overlap)
        codes[b] = _packed(np.asarray(states) // free.size, bits)


def decode(codes: NDArray[np.uint8], table: Floats, bits: int, scales: Floats, out: Floats) -> None:
    """out[b, t] = scales[b] * table[bits [t * bits, t * bits + L) of the circular stream codes[b]]."""
    stream = np.unpackbits(codes, axis=1)
    depth = table.size.bit_length() - 1
    states = np.zeros(out.shape, np.int64)
    for j in range(depth):
        places = (np.arange(out.shape[1]) * bits + j) % stream.shape[1]
        states = 2 * states + stream[:, places]
    out[...] = scales[:, None] * table.astype(out.dtype)[states]


def _distances(x: np.float32, table: Floats, counted: bool) -> Floats:
    return np.square(x - table) if counted else np.zeros_like(table)


def _path(branch: list[Floats], start: Floats, bits: int, overlap: int | None) -> list[int]:
    """The states of the cheapest path from ``start``, costs by the first L - bits bits; it ends in ``overlap``."""
    width = start.size
    cost = np.repeat(start, 1 << bits) + branch[0]
    choices = []
    for distances in branch[1:]:
        meeting = cost.reshape(1 << bits, width)
        choices.append(meeting.argmin(axis=0))
        cost = np.repeat(meeting.min(axis=0), 1 << bits) + distances
    if overlap is None:
        state = int(cost.argmin())
    else:
        state = int(cost.reshape(1 << bits, width)[:, overlap].argmin()) * width + overlap
    states = [state]
    for choice in reversed(choices):
        state = int(choice[state >> bits]) * width + (state >> bits)
        states.append(state)
    return states[::-1]


def _packed(digits: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    places = np.arange(bits - 1, -1, -1)
    return np.packbits(((digits[:, None] >> places) & 1).astype(np.uint8).reshape(-1))

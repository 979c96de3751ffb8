"""The banded network in plain integers: a row is a Python integer whose bit k stands for bit k of the stream."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from . import DRIFT, LOSS, MARGIN, SPARE, WISHES, Network


def solve(
    network: Network,
    care: NDArray[np.bool_],
    values: NDArray[np.uint64],
    planes: int,
    starts: NDArray[np.int64],
    slots: int,
) -> NDArray[np.uint8]:
    rows, full = _rows(network), (1 << slots) - 1
    pivots: dict[int, tuple[int, int]] = {}
    for i, value in zip(np.flatnonzero(care).tolist(), values.tolist(), strict=True):
        row, right = (rows[i % network.step] << int(starts[i // network.step])) & full, value
        while row:
            lowest = (row & -row).bit_length() - 1
            if lowest not in pivots:
                pivots[lowest] = row, right
                break
            row, right = row ^ pivots[lowest][0], right ^ pivots[lowest][1]
    stream = np.zeros((planes, -(-slots // 8)), np.uint8)
    for plane in range(planes):
        x = 0
        for lowest in sorted(pivots, reverse=True):  # of a row, only bits after the pivot are known, and needed
            row, right = pivots[lowest]
            x |= (((right >> plane) ^ (row & x).bit_count()) & 1) << lowest
        stream[plane] = np.frombuffer(x.to_bytes(stream.shape[1], "little"), np.uint8)
    return stream


def outputs(
    network: Network, stream: NDArray[np.uint8], size: int, starts: NDArray[np.int64], slots: int
) -> NDArray[np.uint8]:
    rows = _rows(network)
    bits = np.zeros((len(stream), size), np.uint8)
    for plane, packed in enumerate(stream):
        x = int.from_bytes(packed.tobytes(), "little") & ((1 << slots) - 1)
        for i in range(size):
            bits[plane, i] = (rows[i % network.step] & (x >> int(starts[i // network.step]))).bit_count() & 1
    return np.packbits(bits, axis=1, bitorder="little")


def waiting(counts: NDArray[np.int64], starts: NDArray[np.int64], window: int) -> tuple[int, int]:
    lost = queue = begin = 0
    for count, start in zip(counts.tolist(), starts.tolist(), strict=True):
        queue = max(queue - (start - begin), 0) + count
        lost, queue, begin = lost + max(queue - window, 0), min(queue, window), start
    return lost, queue


def follow(
    counts: NDArray[np.int64], runs: int, segment: int, window: int, lead: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    blocks = -(-counts.size // runs)
    moves, slots, lost = np.zeros(blocks, np.int64), [], 0.0
    queue, reached = float(lead), -float(lead)
    for b in range(blocks):
        arrived = np.cumsum(counts[b * runs : (b + 1) * runs])
        share = np.arange(1, arrived.size + 1) / runs  # the last block may be short
        waits = queue + arrived
        wishes = (max(waits[-1] - lead, 0.0) + np.array(WISHES) * window / 128) / share[-1]
        wishes = np.maximum(np.rint(wishes), 0)
        paths = waits - wishes[:, None] * share
        wasted = np.maximum(-paths.min(axis=1), 0.0)
        over = np.maximum(paths.max(axis=1) + wasted - (window - MARGIN), 0.0)
        ends = paths[:, -1] + wasted - over
        best = int(np.argmin(wasted + LOSS * over + DRIFT / window * (ends - lead) ** 2))
        moves[b], queue, lost = int(wishes[best]), float(ends[best]), lost + float(over[best])
        reached += moves[b] * share[-1]
        if (b + 1) % segment == 0 or b + 1 == blocks:
            slots.append(math.ceil(max(reached, 0.0)) + round(max(queue, 0.0)) + SPARE)
            queue, reached = float(lead), -float(lead)
    return moves, np.array(slots, np.int64), lost


def _rows(network: Network) -> list[int]:
    """The rows of a step, each where its window begins."""
    pairs = zip(network.rows.tolist(), network.offsets.tolist(), strict=True)
    return [(low | high << 64) << offset for (low, high), offset in pairs]

"""Two registers: for each newer input y the distances from all older inputs z at once, by relaxation.

A step turns costs C[z, y] of the states (older input z, newer y) into those of (y, x), ``min over z of C[z, y] +
popcount(T0[x] ^ T1[y] ^ T2[z] ^ v)``, where only the n_u outputs that matter count. Brute force takes 2**(3 n_in)
comparisons. But over the n_u-bit patterns u, ``B[u] = min over z of C[z, y] + popcount(u ^ T2[z])`` is all distances on
a hypercube: set ``B[T2[z]] = C[z, y]``, then for each of the n_u bits ``B[u] = min(B[u], B[u ^ bit] + 1)``; then look
up ``B[T0[x] ^ T1[y] ^ v]``. That is 2**n_u * n_u steps for each y, of which 32 go side by side. Where n_u is large, the
distances are sums of table entries for 8 outputs each.

Only costs are kept. Which z was the best one is asked again for the states of the best path alone. Costs of a step
differ by at most the n_u of the last two steps, so that a byte holds them, less their minimum, as long as n_u is not
extreme.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...words.numba_twin import kernel, popcount
from .step import CHUNK, Bytes, Words, restrict
from .vectors import LANES, add_row, keep_smaller, nearest, pick, relax

Costs = NDArray[Any]

RELAXED = 14
"""Up to this n_u relaxation is faster than brute force.

Microseconds of a step with 8 inputs on the machine of the benchmarks: 36 for n_u = 8, 60 for 10, 170 for 12, 350 for
13, 700 for 14; by brute force 800 up to 16, 900 up to 24.
"""


@kernel()
def _step(
    entries: Bytes,
    chunks: int,
    matter: int,
    size: int,
    stride: int,
    first: int,
    stop: int,
    now: int,
    ceiling: int,
    costs: Costs,
    near: Costs,
    distances: Costs,
    change: Costs,
) -> None:
    """Costs from number ``now + size * stride`` on, from those from ``now`` on with older inputs first..stop."""
    then, relaxed = now + size * stride, matter <= RELAXED
    used = (matter + CHUNK - 1) // CHUNK
    new, newer, older = 0, chunks * size, 2 * chunks * size  # where the entries of x, y and z start
    index = np.zeros(3 * size, np.int64)  # of vectors of ``near``
    for x in range(size):
        if relaxed:
            for r in range(3):
                for c in range(used):
                    index[r * size + x] |= np.int64(entries[(r * chunks + c) * size + x]) << (CHUNK * c)
        else:
            index[x] = x
        index[x] *= LANES
    for y in range(0, size, LANES):
        if relaxed:
            for k in range(LANES << matter):
                near[k] = ceiling
            for z in range(first, stop):
                keep_smaller(near, index[2 * size + z], costs, now + z * stride + y)
            bit = 0
            while bit < matter:
                together = min(3, matter - bit)
                for high in range(0, 1 << matter, 1 << (bit + together)):
                    for u in range(high, high + (1 << bit)):
                        if together == 3:
                            relax(near, u, 1 << bit, 3)
                        elif together == 2:
                            relax(near, u, 1 << bit, 2)
                        else:
                            relax(near, u, 1 << bit, 1)
                bit += together
        else:
            for c in range(used):
                width = min(CHUNK, matter - CHUNK * c)
                for lane in range(min(LANES, size)):
                    pattern = entries[newer + c * size + y + lane]
                    distances[256 * c * LANES + lane] = popcount(np.uint64(pattern))
                    for b in range(width):
                        change[b * LANES + lane] = 1 - 2 * ((pattern >> b) & 1)
                for b in range(width):
                    for u in range(1 << b):
                        add_row(distances, 256 * c + (1 << b) + u, 256 * c + u, change, b)
            for x in range(size):
                at = now + y
                if used == 2:
                    nearest(near, x, costs, at, stride, first, stop, distances, entries, new + x, older, size, 2)
                elif used == 3:
                    nearest(near, x, costs, at, stride, first, stop, distances, entries, new + x, older, size, 3)
                else:
                    nearest(near, x, costs, at, stride, first, stop, distances, entries, new + x, older, size, used)
        for lane in range(min(LANES, size)):
            pick(costs, then + (y + lane) * stride, near, index, 0, index[size + y + lane] * LANES + lane, size)


@kernel()
def _lower(costs: Costs, start: int, size: int, stride: int) -> int:
    """Subtract the least of all costs, return the largest that is left."""
    least, largest = np.int64(costs[start]), np.int64(0)
    for z in range(size):
        for y in range(size):
            cost = np.int64(costs[start + z * stride + y])
            least, largest = min(least, cost), max(largest, cost)
    for k in range(start, start + size * stride):
        costs[k] -= least
    return int(largest - least)


@kernel()
def forward(
    kept: Words,
    wanted: Words,
    begin: int,
    steps: int,
    rows: Bytes,
    n_out: int,
    size: int,
    newer: int,
    older: int,
    ceiling: int,
    costs: Costs,
) -> None:
    """Costs of all states before each of ``steps`` steps and after the last, from the state (older, newer).

    costs (steps + 1, size, stride) for older and newer inputs. The first two steps know what is in the registers, so
    that no state needs to be ruled out: what others get is never looked at.
    """
    stride, words, chunks = max(size, LANES), (n_out + 63) // 64, (n_out + CHUNK - 1) // CHUNK
    entries = np.zeros(3 * chunks * size, np.uint8)
    near = np.zeros(max(1 << RELAXED, size) * LANES, costs.dtype)
    distances, change = np.zeros(256 * chunks * LANES, costs.dtype), np.zeros(CHUNK * LANES, costs.dtype)
    states, largest = size * stride, 0
    for k in range(states):
        costs[k] = 0
    for s in range(steps):
        matter = restrict(kept, wanted, begin + s, words, rows, n_out, 2, size, entries)
        if largest + matter > ceiling:
            largest = _lower(costs, s * states, size, stride)
        first = older if s == 0 else newer if s == 1 else 0
        stop = first + 1 if s < 2 else size
        _step(
            entries, chunks, matter, size, stride, first, stop, s * states, ceiling, costs, near, distances, change
        )  # fmt: skip
        largest += matter


@kernel()
def trace(
    kept: Words, wanted: Words, begin: int, steps: int, table: Words, size: int, newer: int, costs: Costs, path: Bytes
) -> None:
    """Fill path[begin : begin + steps] with the best inputs, backwards from the best state in the end."""
    stride, words = max(size, LANES), table.size // (3 * size)
    last = steps * size * stride
    first, stop = (newer, newer + 1) if steps == 1 else (0, size)
    least = np.int64(1 << 40)
    for z in range(first, stop):
        for y in range(size):
            cost = np.int64(costs[last + z * stride + y])
            if cost < least:
                least = cost
                path[begin + steps - 1] = y
                if steps > 1:
                    path[begin + steps - 2] = z
    for s in range(steps - 1, 1, -1):
        newest, new, at = np.int64(path[begin + s]), np.int64(path[begin + s - 1]), (begin + s) * words
        least = np.int64(1 << 40)
        for z in range(size):
            cost = np.int64(costs[s * size * stride + z * stride + new])
            for w in range(words):
                bits = table[newest * words + w] ^ table[(size + new) * words + w] ^ table[(2 * size + z) * words + w]
                cost += popcount((bits ^ wanted[at + w]) & kept[at + w])
            if cost < least:
                least = cost
                path[begin + s - 2] = z

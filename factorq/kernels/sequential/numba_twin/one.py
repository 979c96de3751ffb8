"""No register or one: the costs of a step fit the nearest cache, and plain loops do.

With one register, ``min over y of C[y] + popcount(T0[x] ^ T1[y] ^ v)`` is found for all x by relaxation over the
patterns of the n_u outputs that matter (see :mod:`.two`), or by comparing all pairs of inputs where n_u is large.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from ...words.numba_twin import kernel, popcount
from .step import BYTE_ARRAY, CHUNK, WORD_ARRAY, Bytes, Words, restrict
from .vectors import LANES, pick, relax, relax_inside

Costs = NDArray[Any]

RELAXED = 16
"""Up to this n_u relaxation is faster than comparing all pairs.

Microseconds of a step with 8 inputs on the machine of the benchmarks: 5 for n_u = 8, 6 for 12, 10 for 14, 43 for 16;
all pairs 220.
"""
NEVER = 1 << 15
"""More than any difference between costs: at most 1,024 outputs of the last step matter."""
_COST_ARRAY = types.Array(types.uint16, 1, "C")


@kernel(
    types.void(
        WORD_ARRAY, WORD_ARRAY, types.int64, types.int64, WORD_ARRAY, types.int64, types.int64, WORD_ARRAY, _COST_ARRAY
    )
)  # fmt: skip
def mismatches(
    kept: Words, wanted: Words, at: int, words: int, table: Words, first: int, size: int, add: Words, out: Costs
) -> None:
    """out[x] = outputs that matter and differ, of the step whose words start at ``at``.

    Output words are those of entry ``first + x`` of the table + ``add``.
    """
    for x in range(size):
        total = 0
        for w in range(words):
            total += popcount((table[(first + x) * words + w] ^ add[w] ^ wanted[at + w]) & kept[at + w])
        out[x] = total


@kernel(types.int64(_COST_ARRAY))
def least(costs: Costs) -> int:
    """The first index of the least cost."""
    best = 0
    for x in range(1, costs.size):
        if costs[x] < costs[best]:
            best = x
    return best


@kernel(types.void(WORD_ARRAY, WORD_ARRAY, types.int64, WORD_ARRAY, types.int64, types.int64, BYTE_ARRAY))
def search(kept: Words, wanted: Words, steps: int, table: Words, size: int, words: int, path: Bytes) -> None:
    """No register: the best input of each step."""
    costs, none = np.zeros(size, np.uint16), np.zeros(words, np.uint64)
    for s in range(steps):
        mismatches(kept, wanted, s * words, words, table, 0, size, none, costs)
        path[s] = least(costs)


@kernel(
    types.void(
        WORD_ARRAY, WORD_ARRAY, types.int64, types.int64, WORD_ARRAY, BYTE_ARRAY, types.int64, types.int64, types.int64,
        _COST_ARRAY,
    )
)  # fmt: skip
def forward(
    kept: Words,
    wanted: Words,
    begin: int,
    steps: int,
    table: Words,
    rows: Bytes,
    n_out: int,
    size: int,
    newer: int,
    costs: Costs,
) -> None:
    """Costs (steps + 1, size) of all states before each of ``steps`` steps and after the last, from ``newer`` on."""
    words, chunks = (n_out + 63) // 64, (n_out + CHUNK - 1) // CHUNK
    entries, near = np.zeros(2 * chunks * size, np.uint8), np.zeros(1 << RELAXED, np.uint16)
    index, row, add = np.zeros(2 * size, np.int64), np.zeros(size, np.uint16), np.zeros(words, np.uint64)
    for x in range(size):
        costs[x] = 0
    for s in range(steps):
        now, then = s * size, (s + 1) * size
        first, stop = (newer, newer + 1) if s == 0 else (0, size)
        matter = restrict(kept, wanted, begin + s, words, rows, n_out, 1, size, entries)
        if matter <= RELAXED:
            for k in range(2 * size):
                index[k] = 0
            for r in range(2):
                for c in range((matter + CHUNK - 1) // CHUNK):
                    for x in range(size):
                        index[r * size + x] |= np.int64(entries[(r * chunks + c) * size + x]) << (CHUNK * c)
            vectors = max(1, (1 << matter) // LANES)
            for k in range(vectors * LANES):
                near[k] = NEVER
            for y in range(first, stop):
                near[index[size + y]] = min(near[index[size + y]], costs[now + y])
            for u in range(vectors):
                relax_inside(near, u)
            half = 1
            while half < vectors:
                for high in range(0, vectors, 2 * half):
                    for u in range(high, high + half):
                        relax(near, u, half, 1)
                half *= 2
            pick(costs, then, near, index, 0, 0, size)
        else:
            for x in range(size):
                costs[then + x] = NEVER
            for y in range(first, stop):
                for w in range(words):
                    add[w] = table[(size + y) * words + w]
                mismatches(kept, wanted, (begin + s) * words, words, table, 0, size, add, row)
                for x in range(size):
                    costs[then + x] = min(costs[then + x], costs[now + y] + row[x])
        lowest = costs[then]
        for x in range(1, size):
            lowest = min(lowest, costs[then + x])
        for x in range(size):
            costs[then + x] -= lowest


@kernel(
    types.void(
        WORD_ARRAY, WORD_ARRAY, types.int64, types.int64, WORD_ARRAY, types.int64, types.int64, _COST_ARRAY, BYTE_ARRAY
    )
)  # fmt: skip
def trace(
    kept: Words, wanted: Words, begin: int, steps: int, table: Words, size: int, words: int, costs: Costs, path: Bytes
) -> None:
    """Fill path[begin : begin + steps] with the best inputs, backwards from the best state in the end."""
    row, add = np.zeros(size, np.uint16), np.zeros(words, np.uint64)
    for y in range(size):
        row[y] = costs[steps * size + y]
    x = least(row)
    path[begin + steps - 1] = x
    for s in range(steps - 1, 0, -1):
        for w in range(words):
            add[w] = table[x * words + w]
        mismatches(kept, wanted, (begin + s) * words, words, table, size, size, add, row)
        for y in range(size):
            row[y] += costs[s * size + y]
        x = least(row)
        path[begin + s - 1] = x

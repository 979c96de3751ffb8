"""The specification of the sequential code: the Viterbi algorithm over all inputs and states, step by step."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..bits import reference as bits
from .network import Words, by_step, matrices, step_count, tables

Bytes = NDArray[np.uint8]

_NEVER = 1 << 40
"""Cost of a state that the start does not lead to."""


def solve(
    care: NDArray[np.bool_],
    values: NDArray[np.uint64],
    planes: int,
    n_in: int,
    n_out: int,
    registers: int,
    seed: int,
    segment: int,
    overlap: int,
) -> Bytes:
    """Streams (planes, bytes) of the inputs with the fewest mismatches."""
    table = tables(matrices(n_in, n_out, registers, seed), n_in)
    kept = by_step(care.view(np.uint8), n_out)
    steps = len(kept)
    streams = np.zeros((planes, (steps * n_in + 7) // 8), np.uint8)
    for j in range(planes):
        bit = np.zeros(care.size, np.uint8)
        bit[care] = (values >> np.uint64(j)) & np.uint64(1)
        wanted = by_step(bit, n_out)
        inputs, done = [0] * registers, 0
        while done < steps:
            stop = min(done + segment, steps)
            start = inputs[len(inputs) - registers :]
            path = _best_path(table, kept[done:stop], wanted[done:stop], start)
            inputs += path if stop == steps else path[:-overlap]
            done = len(inputs) - registers
        streams[j] = bits.pack(np.array(inputs[registers:], np.uint8), n_in)
    return streams


def outputs(stream: Bytes, size: int, n_in: int, n_out: int, registers: int, seed: int, first: int, stop: int) -> Bytes:
    """Bitmaps (planes, bytes) of the steps first..stop: y_t = sum over r of M_r x_(t-r)."""
    table = tables(matrices(n_in, n_out, registers, seed), n_in)
    steps, positions = step_count(size, n_out), min(stop * n_out, size) - first * n_out
    bitmaps = np.zeros((len(stream), max(positions + 7, 0) // 8), np.uint8)
    for j, plane in enumerate(stream):
        inputs = np.concatenate([np.zeros(registers, np.uint8), bits.unpack(plane, n_in, steps)])
        total = np.zeros((stop - first, table.shape[2]), np.uint64)
        for r in range(registers + 1):
            total ^= table[r, inputs[registers - r + first : registers - r + stop]]
        y = np.unpackbits(total.astype("<u8").view(np.uint8), axis=1, bitorder="little")[:, :n_out]
        bitmaps[j] = np.packbits(y.reshape(-1)[: max(positions, 0)], bitorder="little")
    return bitmaps


def _best_path(table: Words, kept: Words, wanted: Words, start: list[int]) -> list[int]:
    """Inputs of the steps of ``kept`` and ``wanted`` (steps, words) with the fewest mismatches, after ``start``.

    A state is the inputs in the registers, an axis each, the oldest first. Of predecessors that are as good as each
    other the one with the smallest oldest input is taken; in the end the state of the smallest index, oldest input
    first.
    """
    registers, size = len(start), table.shape[1]
    cost = np.full((size,) * registers, _NEVER)
    cost[tuple(start)] = 0
    oldest = []
    for care, value in zip(kept, wanted, strict=True):
        total = cost[..., None] + _mismatches(table, care, value)
        if registers:
            oldest.append(np.argmin(total, axis=0))
            cost = np.min(total, axis=0)
        else:
            oldest.append(np.argmin(total))
    if not registers:
        return [int(x) for x in oldest]
    state = [int(i) for i in np.unravel_index(np.argmin(cost), cost.shape)]
    path = []
    for back in reversed(oldest):
        path.append(state[-1])
        state = [int(back[tuple(state)]), *state[:-1]]
    return path[::-1]


def _mismatches(table: Words, care: Words, value: Words) -> NDArray[np.int64]:
    """Outputs that matter and differ, for all inputs: one axis each, the oldest first."""
    y = value
    for entries in table:  # of x_t, x_(t-1), ...; each puts its axis before those there are
        y = entries.reshape(len(entries), *(1,) * (y.ndim - 1), -1) ^ y
    return np.asarray(np.bitwise_count(y & care).sum(axis=-1, dtype=np.int64))

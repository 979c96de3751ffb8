"""The sequential code compiled: Viterbi by relaxation, decoding by table look-up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from ...words.numba_twin import kernel
from ..network import by_step, matrices, tables
from .step import BYTE_ARRAY, WORD_ARRAY, Bytes, Words
from .vectors import LANES

_CEILING = {np.uint8: 200, np.uint16: 60000}
"""Costs above these are taken for never."""


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
    rows = matrices(n_in, n_out, registers, seed)
    table, rows = tables(rows, n_in).reshape(-1), rows.reshape(-1)
    kept = by_step(care.view(np.uint8), n_out)
    steps = len(kept)
    streams = np.zeros((planes, (steps * n_in + 7) // 8), np.uint8)
    number = _number(kept)
    costs = _room(number, min(segment, steps), 1 << n_in, registers)
    bit = np.zeros(care.size, np.uint8)
    if registers < 2:
        from . import one  # each takes seconds to compile where it was never used
    else:
        from . import two
    for j in range(planes):
        bit[care] = (values >> np.uint64(j)) & np.uint64(1)
        arrays = kept.reshape(-1), by_step(bit, n_out).reshape(-1)
        path = np.zeros(steps, np.uint8)
        if registers == 0:
            one.search(*arrays, steps, table, 1 << n_in, kept.shape[1], path)
        done = steps if registers == 0 else 0
        while done < steps:
            count = min(segment, steps - done)
            newer = int(path[done - 1]) if done else 0
            older = int(path[done - 2]) if done > 1 else 0
            if registers == 1:
                one.forward(*arrays, done, count, table, rows, n_out, 1 << n_in, newer, costs)
                one.trace(*arrays, done, count, table, 1 << n_in, kept.shape[1], costs, path)
            else:
                two.forward(*arrays, done, count, rows, n_out, 1 << n_in, newer, older, _CEILING[number], costs)
                two.trace(*arrays, done, count, table, 1 << n_in, newer, costs, path)
            done += count if done + count == steps else count - overlap
        digits = np.unpackbits(path[:, None], axis=1, bitorder="little")[:, :n_in]
        streams[j] = np.packbits(digits, bitorder="little")  # compiling the kernel that packs would take seconds
    return streams


def outputs(stream: Bytes, size: int, n_in: int, n_out: int, registers: int, seed: int, first: int, stop: int) -> Bytes:
    """Bitmaps (planes, bytes) of the steps first..stop: y_t = sum over r of M_r x_(t-r)."""
    table = tables(matrices(n_in, n_out, registers, seed), n_in).reshape(-1)
    positions = max(min(stop * n_out, size) - first * n_out, 0)
    bitmaps = np.zeros((len(stream), (positions + 7) // 8), np.uint8)
    begin = max(first - registers, 0) // 8 * 8  # the inputs from here on start with a byte
    for plane, bitmap in zip(stream, bitmaps, strict=True):
        packed = plane[begin * n_in // 8 : (stop * n_in + 7) // 8]
        digits = np.unpackbits(packed, bitorder="little", count=(stop - begin) * n_in).reshape(-1, n_in)
        inputs = np.zeros(registers + stop - begin, np.uint8)
        inputs[registers:] = np.packbits(digits, axis=1, bitorder="little")[:, 0]
        out = np.zeros(((stop - first) * n_out + 63) // 64 + 1, np.uint64)
        _decode(inputs, first - begin, stop - begin, table, 1 << n_in, n_out, registers, out)
        bitmap[:] = out.view(np.uint8)[: bitmap.size]
        if positions % 8:
            bitmap[-1] &= np.uint8((1 << positions % 8) - 1)
    return bitmaps


def _number(kept: Words) -> type[np.uint8] | type[np.uint16]:
    """Bytes for costs where those of a step, and of the two before it, surely fit."""
    counts = np.bitwise_count(kept).sum(axis=1, dtype=np.int64)
    together = np.convolve(counts, np.ones(3, np.int64)) if counts.size else counts
    return np.uint8 if int(together.max(initial=0)) <= _CEILING[np.uint8] else np.uint16


def _room(number: Any, steps: int, size: int, registers: int) -> NDArray[Any]:
    """Costs of all states before each step and after the last."""
    if registers == 1:
        return np.empty((steps + 1) * size, np.uint16)
    return np.empty((steps + 1) * size * max(size, LANES) if registers else 0, number)


@kernel(
    types.void(
        BYTE_ARRAY, types.int64, types.int64, WORD_ARRAY, types.int64, types.int64, types.int64, WORD_ARRAY
    )
)  # fmt: skip
def _decode(
    inputs: Bytes, first: int, stop: int, table: Words, size: int, n_out: int, registers: int, out: Words
) -> None:
    """Write the outputs of the steps first..stop side by side; ``inputs`` starts with what the registers hold."""
    words, at = (n_out + 63) // 64, 0
    for t in range(first, stop):
        for w in range(words):
            word = np.uint64(0)
            for r in range(registers + 1):
                word ^= table[(r * size + inputs[t + registers - r]) * words + w]
            into, shift = (at + 64 * w) >> 6, np.uint64((at + 64 * w) & 63)
            out[into] |= word << shift
            if shift > 0 and word >> (np.uint64(64) - shift) != 0:
                out[into + 1] |= word >> (np.uint64(64) - shift)
        at += n_out

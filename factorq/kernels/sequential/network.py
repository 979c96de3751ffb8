"""The matrices of the shift-register decoder and its steps: what both twins share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..splitmix64 import splitmix64

Words = NDArray[np.uint64]

SEGMENT = 1 << 26
"""States times steps of a segment: a byte each is kept until its best path is known."""
OVERLAP = 64
"""Steps at the end of a segment that are decided by the next one."""


def segment_steps(n_in: int, registers: int) -> int:
    """Steps of a segment."""
    return SEGMENT >> (n_in * registers)


def step_count(size: int, n_out: int) -> int:
    """ceil(size / n_out)."""
    return -(-size // n_out)


def matrices(n_in: int, n_out: int, registers: int, seed: int) -> NDArray[np.uint8]:
    """Rows of M_0 .. M_registers as integers (registers + 1, n_out): bit b of a row is input bit b.

    Row i of M_r is made of the ``n_in`` lowest bits of output ``r * n_out + i`` of splitmix64 from ``seed``. A row of
    M_0 that comes out zero gets the one bit ``i % n_in``.
    """
    mask = np.uint64((1 << n_in) - 1)
    rows = (splitmix64((registers + 1) * n_out, seed) & mask).astype(np.uint8).reshape(registers + 1, n_out)
    for i in np.flatnonzero(rows[0] == 0).tolist():
        rows[0, i] = 1 << (i % n_in)
    return rows


def tables(rows: NDArray[np.uint8], n_in: int) -> Words:
    """M_r x for each register r and each input x: (registers + 1, 2**n_in, ceil(n_out / 64)), bit i is output i."""
    registers, n_out = rows.shape
    table = np.zeros((registers, 1 << n_in, -(-n_out // 64)), np.uint64)
    for b in range(n_in):
        table[:, 1 << b : 2 << b] = table[:, : 1 << b] ^ by_step((rows >> b) & 1, n_out)[:, None]
    return table


def by_step(bits: NDArray[Any], n_out: int) -> Words:
    """Bits (..., steps * n_out or fewer) with each step in words of its own: (steps, ceil(n_out / 64))."""
    flat = bits.reshape(-1)
    steps, words = step_count(flat.size, n_out), -(-n_out // 64)
    padded = np.zeros((steps, 64 * words), np.uint8)
    whole = flat.size // n_out
    padded[:whole, :n_out] = flat[: whole * n_out].reshape(whole, n_out)
    if whole < steps:
        padded[-1, : flat.size - whole * n_out] = flat[whole * n_out :]
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64)

"""Deposit and extract by look-up tables, 8 positions at a time, for processors without fast PDEP and PEXT."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...words.numba_twin import kernel, popcount
from .words import DEPOSIT, EXTRACT, SOURCE, Bits, load, store, window


def _tables() -> tuple[Bits, Bits]:
    """Deposit and extract of every byte (64 KiB each): entry ``mask << 8 | byte``."""
    masks, octets = (x.reshape(-1) for x in np.indices((256, 256), np.uint64))
    deposited, extracted = np.zeros((2, 1 << 16), np.uint64)
    taken = np.zeros(1 << 16, np.uint64)
    one = np.uint64(1)
    for k in range(8):
        bit = (masks >> np.uint64(k)) & one
        deposited |= ((octets >> taken) & bit) << np.uint64(k)
        extracted |= ((octets >> np.uint64(k)) & bit) << taken
        taken += bit
    return deposited.astype(np.uint8), extracted.astype(np.uint8)


DEPOSITED, EXTRACTED = _tables()


def deposit(packed: Bits, mask: Bits, out: Bits, at: int) -> tuple[int, int]:
    """Write the bits of ``packed`` from bit ``at`` on, while words are whole: (bytes written, bits used)."""
    found: tuple[int, int] = _deposit(packed, mask, out, at, DEPOSITED)
    return found


def extract(bits: Bits, mask: Bits, out: Bits, to: int, fill: int, buffer: Any) -> tuple[int, int, Any]:
    """Write the bits of all whole words to ``out`` from byte ``to`` on, after ``fill`` bits of the buffer."""
    found: tuple[int, int, Any] = _extract(bits, mask, out, to, fill, buffer, EXTRACTED)
    return found


@kernel(DEPOSIT.return_type(*DEPOSIT.args, SOURCE))
def _deposit(packed: Bits, mask: Bits, out: Bits, at: int, table: Bits) -> tuple[int, int]:
    i = 0
    while True:
        steps = min((mask.size - i) >> 3, (packed.size - 1 - (at >> 3)) >> 3)  # sure to find 64 bits each
        if steps <= 0:
            return i, at
        for _ in range(steps):
            word, source, found = load(mask, i), window(packed, at), np.uint64(0)
            for k in range(0, 64, 8):
                octet = (word >> np.uint64(k)) & np.uint64(255)
                found |= np.uint64(table[(octet << np.uint64(8)) | (source & np.uint64(255))]) << np.uint64(k)
                source >>= np.uint64(popcount(octet))
            store(out, i, found)
            at += popcount(word)
            i += 8


@kernel(EXTRACT.return_type(*EXTRACT.args, SOURCE))
def _extract(bits: Bits, mask: Bits, out: Bits, to: int, fill: int, buffer: Any, table: Bits) -> tuple[int, int, Any]:
    for i in range(0, mask.size - 7, 8):
        word, source = load(mask, i), load(bits, i)
        found, filled = np.uint64(0), 0
        for k in range(0, 64, 8):
            octet = (word >> np.uint64(k)) & np.uint64(255)
            value = (source >> np.uint64(k)) & np.uint64(255)
            found |= np.uint64(table[(octet << np.uint64(8)) | value]) << np.uint64(filled)
            filled += popcount(octet)
        buffer |= found << np.uint64(fill)
        store(out, to, buffer)
        filled += fill
        full = filled >= 64
        buffer = (found >> np.uint64(1)) >> np.uint64(63 - fill) if full else buffer
        to += 8 if full else 0
        fill = filled & 63
    return to, fill, buffer

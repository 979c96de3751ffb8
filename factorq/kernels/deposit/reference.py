"""The specification of bit deposits and rank directories: unpacked bits and array operations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]
Indices = NDArray[np.int64]


def count(mask: Bits) -> int:
    """Count the ones."""
    return int(_ones(mask).size)


def deposit(packed: Bits, mask: Bits, out: Bits) -> int:
    """Write (planes, bytes) to the ones of the mask: (planes, ceil(size / 8)); return the number of ones."""
    ones = _ones(mask)
    spread = np.zeros((len(packed), 8 * mask.size), np.uint8)
    spread[:, ones] = np.unpackbits(packed, axis=1, count=ones.size, bitorder="little")  # zeros follow the end
    out[...] = np.packbits(spread, axis=1, bitorder="little")
    return int(ones.size)


def extract(bits: Bits, mask: Bits, out: Bits) -> None:
    """Write the bits (planes, ceil(size / 8)) at the ones of the mask: (planes, ceil(count / 8))."""
    spread = np.unpackbits(bits, axis=1, bitorder="little")
    out[...] = np.packbits(spread[:, _ones(mask)], axis=1, bitorder="little")


def ranks(mask: Bits, every: int, directory: Indices) -> None:
    """Count the ones before each multiple of ``every``."""
    directory[...] = np.searchsorted(_ones(mask), every * np.arange(directory.size))


def rank(mask: Bits, directory: Indices, i: Indices, every: int, out: Indices) -> None:
    """Count the ones before each position."""
    out[...] = np.searchsorted(_ones(mask), i)


def select(mask: Bits, directory: Indices, k: Indices, every: int, out: Indices) -> None:
    """Position of the k-th one, counting from 0."""
    out[...] = _ones(mask)[k]


def _ones(mask: Bits) -> Indices:
    return np.flatnonzero(np.unpackbits(mask, bitorder="little"))

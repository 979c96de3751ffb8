"""Bit deposits 64 positions at a time, in the instructions of the processor where it has them, and rank directories."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding  # type: ignore[import-untyped]
from numba import config as _config
from numba import types
from numpy.typing import NDArray

from ...words.numba_twin import kernel, popcount
from .words import SOURCE, Bits, load

Indices = NDArray[np.int64]

_DIRECTORY = types.Array(types.int64, 1, "C", readonly=True)
_RESULT = types.Array(types.int64, 1, "C")
config: Any = _config
_MICROCODED = ("bdver4", "znver1", "znver2")
"""Processors that have PDEP and PEXT, but as loops over the bits that take longer than look-up tables."""


def native() -> bool:
    """Whether kernels that are compiled here may use PDEP and PEXT, and should."""
    if config.CPU_NAME is not None or config.CPU_FEATURES is not None:
        return "+bmi2" in (config.CPU_FEATURES or "").split(",")
    if binding.get_host_cpu_name() in _MICROCODED:
        return False
    return bool(binding.get_host_cpu_features().get("bmi2", False))


if native():
    from . import bmi2 as version
else:
    from . import portable as version  # type: ignore[no-redef]


def deposit(packed: Bits, mask: Bits, out: Bits) -> int:
    """Write (planes, bytes) to the ones of the mask: (planes, ceil(size / 8)); return the number of ones."""
    at = 0
    for source, target in zip(packed, out, strict=True):
        i, at = version.deposit(source, mask, target, 0)
        if i < mask.size:  # what is left is not read in whole words: it goes through padded copies
            rest = _padded(mask[i:], 0)
            tail = np.empty(rest.size, np.uint8)
            _, used = version.deposit(_padded(source[at >> 3 :], rest.size + 9), rest, tail, at & 7)
            at += used - (at & 7)
            target[i:] = tail[: mask.size - i]
    return at


def extract(bits: Bits, mask: Bits, out: Bits) -> None:
    """Write the bits (planes, ceil(size / 8)) at the ones of the mask: (planes, ceil(count / 8))."""
    scratch = np.empty(out.shape[1] + 16, np.uint8)
    whole = mask.size & ~7
    rest = _padded(mask[whole:], 8)  # its last word has no ones: in its turn the buffer is written
    for source, target in zip(bits, out, strict=True):
        state = version.extract(source, mask, scratch, 0, 0, np.uint64(0))
        version.extract(_padded(source[whole:], 8), rest, scratch, *state)
        target[...] = scratch[: target.size]


def count(mask: Bits) -> int:
    """Count the ones."""
    return int(_count(mask)) + int(_count(_padded(mask[mask.size & ~7 :], 0)))


def ranks(mask: Bits, every: int, directory: Indices) -> None:
    """Count the ones before each multiple of ``every``."""
    _ranks(_padded(mask, 0), every, directory)


def rank(mask: Bits, directory: Indices, i: Indices, every: int, out: Indices) -> None:
    """Count the ones before each position: an entry of the directory, and those since."""
    _rank(mask, directory, i, every, out)


def select(mask: Bits, directory: Indices, k: Indices, every: int, out: Indices) -> None:
    """Position of the k-th one: the block by bisection, the word by counting, the bit by clearing those before it."""
    _select(mask, directory, k, every, out)


def _padded(x: Bits, more: int) -> Bits:
    """``x`` and zeros, whole words of them in all, and ``more`` bytes."""
    out = np.zeros((x.size + 7 & ~7) + more, np.uint8)
    out[: x.size] = x
    return out


@kernel(types.int64(SOURCE))
def _count(mask: Bits) -> int:
    total = 0
    for i in range(mask.size >> 3):
        total += popcount(load(mask, 8 * i))
    return total


@kernel(types.void(SOURCE, types.int64, _RESULT))
def _ranks(mask: Bits, every: int, directory: Indices) -> None:
    total, step = 0, every >> 3
    for i in range(directory.size):
        directory[i] = total
        for k in range(i * step, min((i + 1) * step, mask.size), 8):
            total += popcount(load(mask, k))


@kernel(types.uint64(SOURCE, types.int64))
def _word(mask: Bits, i: int) -> Any:
    """Word i; zeros follow the end."""
    if 8 * i + 8 <= mask.size:
        return load(mask, 8 * i)
    word = np.uint64(0)
    for k in range(8 * i, mask.size):
        word |= np.uint64(mask[k]) << np.uint64(8 * (k & 7))
    return word


@kernel(types.void(SOURCE, _DIRECTORY, _DIRECTORY, types.int64, _RESULT))
def _rank(mask: Bits, directory: Indices, i: Indices, every: int, out: Indices) -> None:
    for j in range(i.size):
        block, word = i[j] // every, i[j] >> 6
        total = directory[block]
        for k in range(block * (every >> 6), word):
            total += popcount(_word(mask, k))
        below = (np.uint64(1) << np.uint64(i[j] & 63)) - np.uint64(1)
        out[j] = total + popcount(_word(mask, word) & below)


@kernel(types.void(SOURCE, _DIRECTORY, _DIRECTORY, types.int64, _RESULT))
def _select(mask: Bits, directory: Indices, k: Indices, every: int, out: Indices) -> None:
    for j in range(k.size):
        low, high = 0, directory.size - 1
        while high - low > 1:
            middle = (low + high) >> 1
            if directory[middle] <= k[j]:
                low = middle
            else:
                high = middle
        left, i = k[j] - directory[low], low * (every >> 6)
        word = _word(mask, i)
        while left >= popcount(word) and 8 * i + 8 < mask.size:
            left -= popcount(word)
            i += 1
            word = _word(mask, i)
        for _ in range(min(max(left, 0), 63)):
            word &= word - np.uint64(1)
        out[j] = 64 * i + popcount(~word & (word - np.uint64(1)))  # the zeros below its lowest one

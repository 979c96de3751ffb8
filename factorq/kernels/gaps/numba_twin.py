"""The gap code, scanning the mask 64 positions at a time and the stream through a 64-bit window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import types
from numpy.typing import NDArray

from ...errors import ArtifactError
from ..bits.numba_twin import pack
from ..words.numba_twin import kernel, trailing_zeros
from .reference import moduli, remainder_width

Words = NDArray[np.uint64]
Function = TypeVar("Function", bound=Callable[..., Any])

COMMON = 4096
"""Gaps below this are counted in a histogram; a mask of n positions has at most n / 4096 longer ones."""

_types: Any = types
_WORDS = types.Array(types.uint64, 1, "C")
_INDICES = types.Array(types.int64, 1, "C")
_TRUNCATED, _OUTSIDE = -1, -2
"""What :func:`_read` returns as a status."""
_PIECE, _MARGIN = 1 << 17, 1 << 14
"""Bytes of a stream that are read at a time, and bits at their end in which no code begins."""


def plan(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Find (parameter, bytes) of the smallest stream; the smallest modulus wins a tie."""
    inverted, words = _rarer(mask)
    return _plan(words, mask.size, inverted)


def encode(mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], int]:
    """Write mask (n,) -> (stream (k,), parameter)."""
    inverted, words = _rarer(mask)
    parameter, nbytes = _plan(words, mask.size, inverted)
    width, short = remainder_width(parameter // 2)
    out = np.zeros(nbytes // 8 + 2, np.uint64)
    _write(words, parameter // 2, width, short, out)
    return out.view(np.uint8)[:nbytes].copy(), parameter


def decode(stream: NDArray[np.uint8], parameter: int, size: int, count: int) -> NDArray[np.bool_]:
    """Read stream (k,) -> mask (size,)."""
    return np.unpackbits(bitmap(stream, parameter, size, count), count=size, bitorder="little").view(np.bool_)


def bitmap(stream: NDArray[np.uint8], parameter: int, size: int, count: int) -> NDArray[np.uint8]:
    """Read stream (k,) -> mask as bits (ceil(size / 8),)."""
    modulus, inverted = parameter // 2, bool(parameter % 2)
    bits = np.zeros(size // 64 + 1, np.uint64)
    symbols = size - count if inverted else count
    at = _through(stream, symbols, modulus, size, bits)
    if at == _OUTSIDE:
        raise ArtifactError(f"gap stream: reaches a position at or after the end of the mask, {size}")
    if at == _TRUNCATED:
        raise ArtifactError(f"gap stream: {stream.size} bytes end in the middle of a code")
    if (at + 7) // 8 != stream.size:
        raise ArtifactError(f"gap stream: found {stream.size} bytes, the code ends after {(at + 7) // 8}")
    if at % 8 and int(stream[-1]) >> (at % 8):
        raise ArtifactError("gap stream: the bits that pad the last byte are not zero")
    if inverted:
        np.invert(bits, out=bits)
        bits[-1] &= np.uint64((1 << size % 64) - 1)
    return bits.view(np.uint8)[: (size + 7) // 8]


def _through(stream: NDArray[np.uint8], symbols: int, modulus: int, size: int, bits: Words) -> int:
    """Set the bits after each of ``symbols`` gaps, the stream copied piece by piece; the bits read, or what is wrong.

    Words of the whole stream would take as much memory as the bits do.
    """
    width, short = remainder_width(modulus)
    at, position, piece = 0, -1, _PIECE
    while True:
        first = at // 64 * 8
        last = first + piece >= stream.size
        part = stream[first : first + piece]
        words = np.zeros(part.size // 8 + 3, np.uint64)  # two words of slack: the window may look past the end
        words.view(np.uint8)[: part.size] = part
        end, most = 8 * part.size, 8 * part.size if last else 8 * part.size - _MARGIN
        before = at
        status, at, position, symbols = _read(
            words, end, most, at - 8 * first, symbols, modulus, width, short, size, position, bits
        )
        at += 8 * first
        if status == _OUTSIDE or (status == _TRUNCATED and last):
            return int(status)
        if not symbols:
            return int(at)
        piece = 2 * piece if at == before else _PIECE  # a gap that takes more than a piece


def _rarer(mask: NDArray[np.bool_]) -> tuple[int, Words]:
    """(inverted, bitmap of the rarer value with zeros after the end)."""
    inverted = int(2 * np.count_nonzero(mask) > mask.size)
    words = np.zeros(mask.size // 64 + 1, np.uint64)
    words.view(np.uint8)[: (mask.size + 7) // 8] = pack(mask.view(np.uint8), 1)
    if inverted:
        np.invert(words, out=words)
        words[-1] &= np.uint64((1 << mask.size % 64) - 1)
    return inverted, words


def _plan(words: Words, size: int, inverted: int) -> tuple[int, int]:
    histogram, longer = np.zeros(COMMON, np.int64), np.empty(size // COMMON + 1, np.int64)
    found = _measure(words, histogram, longer)
    short = np.flatnonzero(histogram)
    gaps = np.concatenate([short, longer[:found]])
    counts = np.concatenate([histogram[short], np.ones(found, np.int64)])
    sizes = [_total(gaps, counts, m, *remainder_width(m)) for m in moduli(size)]
    best = int(np.argmin(sizes))
    return 2 * moduli(size)[best] + inverted, (sizes[best] + 7) // 8


@kernel(types.int64(_WORDS, _INDICES, _INDICES))
def _measure(words: Words, histogram: NDArray[np.int64], longer: NDArray[np.int64]) -> int:
    """Count every gap below COMMON, list the others, return how many were listed."""
    found, last = 0, -1
    for i in range(words.size):
        word = words[i]
        while word != 0:
            position = 64 * i + trailing_zeros(word)
            word &= word - np.uint64(1)
            gap = position - last - 1
            last = position
            if gap < histogram.size:
                histogram[gap] += 1
            else:
                longer[found] = gap
                found += 1
    return found


@kernel(types.int64(_INDICES, _INDICES, types.int64, types.int64, types.int64))
def _total(gaps: NDArray[np.int64], counts: NDArray[np.int64], modulus: int, width: int, short: int) -> int:
    """Bits that ``counts`` of each of the ``gaps`` take."""
    bits = 0
    for i in range(gaps.size):
        quotient = gaps[i] // modulus
        rest = gaps[i] - quotient * modulus
        bits += counts[i] * (quotient + 1 + width - (1 if rest < short else 0))
    return bits


@kernel(types.void(_WORDS, types.int64, types.int64, types.int64, _WORDS))
def _write(words: Words, modulus: int, width: int, short: int, out: Words) -> None:
    """Write the codes of all gaps into ``out``, which holds zeros: the zero bits of a quotient are only skipped."""
    at, last = 0, -1
    for i in range(words.size):
        word = words[i]
        while word != 0:
            position = 64 * i + trailing_zeros(word)
            word &= word - np.uint64(1)
            gap = position - last - 1
            last = position
            quotient = gap // modulus
            rest = gap - quotient * modulus
            length = width
            if rest < short:
                length -= 1
            elif width > 0:
                high = rest + short
                rest = (high >> 1) | ((high & 1) << (width - 1))
            at += quotient
            code, into, shift = np.uint64(2 * rest + 1), at >> 6, np.uint64(at & 63)
            out[into] |= code << shift
            at += 1 + length
            if (at >> 6) > into and shift > 0:
                out[into + 1] |= code >> (np.uint64(64) - shift)


@kernel(types.uint64(_WORDS, types.int64))
def _window(words: Words, at: int) -> Any:
    """Read the 64 bits of stream that start at bit ``at``."""
    shift = np.uint64(at & 63)
    low = words[at >> 6] >> shift
    return low | ((words[(at >> 6) + 1] << np.uint64(1)) << (np.uint64(63) - shift))


@kernel(_types.UniTuple(types.int64, 4)(_WORDS, *[types.int64] * 9, _WORDS))
def _read(
    words: Words,
    end: int,
    most: int,
    at: int,
    symbols: int,
    modulus: int,
    width: int,
    short: int,
    size: int,
    position: int,
    bits: Words,
) -> tuple[int, int, int, int]:
    """Set a bit after each of ``symbols`` gaps whose codes begin up to ``most``; (status, at, position, symbols left).

    No bit at or after ``end`` is used, and every turn of the inner loop moves on by 64 bits, so any stream ends. The
    state is the one before a code that goes wrong.
    """
    longest, place, found, status = size // modulus, 0, np.uint64(0), 0
    while symbols > 0 and at <= most:
        code, quotient = at, 0
        window = _window(words, at)
        while window == 0:
            quotient += 64
            at += 64
            if at >= end or quotient > longest:  # which also keeps quotient * modulus far from overflow
                break
            window = _window(words, at)
        if window == 0:
            status, at = _OUTSIDE if quotient > longest and at < end else _TRUNCATED, code
            break
        zeros = trailing_zeros(window)
        quotient += zeros
        at += zeros + 1
        if at > end or quotient > longest:
            status, at = _TRUNCATED if at > end else _OUTSIDE, code
            break
        rest: Any = 0
        if width > 0:
            window = _window(words, at)
            rest = np.int64(window & ((np.uint64(1) << np.uint64(width - 1)) - np.uint64(1)))
            at += width - 1
            if rest >= short:
                rest = 2 * rest + np.int64((window >> np.uint64(width - 1)) & np.uint64(1)) - short
                at += 1
        following = position + quotient * modulus + rest + 1
        if at > end or following >= size:
            status, at = _TRUNCATED if at > end else _OUTSIDE, code
            break
        position = following
        symbols -= 1
        if position >> 6 != place:  # 64 bits at a time: a byte that is changed again and again must wait for itself
            bits[place] |= found
            place, found = position >> 6, np.uint64(0)
        found |= np.uint64(1) << np.uint64(position & 63)
    bits[place] |= found
    return status, at, position, symbols

"""The specification of the gap code: one array operation or one bit at a time, endian-free."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError

Bits = NDArray[np.uint8]


def moduli(size: int) -> list[int]:
    """List 1, 2, 3 and {4, 5, 6, 7} * 2**k up to ``size`` (at least 1), the moduli that an encoder considers."""
    steps = (m << k for k in range(max(size, 1).bit_length()) for m in (4, 5, 6, 7))
    return [1, *(m for m in (2, 3, *steps) if m <= size)]


def remainder_width(modulus: int) -> tuple[int, int]:
    """(b, u) of truncated binary: remainders below u take b - 1 bits, the others b bits."""
    width = (modulus - 1).bit_length()
    return width, (1 << width) - modulus


def plan(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Find (parameter, bytes) of the smallest stream; the smallest modulus wins a tie."""
    inverted, gaps = _gaps(mask)
    sizes = {m: int(np.sum(_lengths(gaps, m))) for m in moduli(mask.size)}
    modulus = min(sizes, key=lambda m: (sizes[m], m))
    return 2 * modulus + inverted, (sizes[modulus] + 7) // 8


def encode(mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint8], int]:
    """Write mask (n,) -> (stream (k,), parameter)."""
    parameter, _ = plan(mask)
    modulus, (_, gaps) = parameter // 2, _gaps(mask)
    width, short = remainder_width(modulus)
    lengths = _lengths(gaps, modulus)
    quotient, rest = np.divmod(gaps, modulus)
    high = rest + short
    code = np.where(rest < short, rest, (high >> 1) | (high & 1) << max(width - 1, 0))
    ones = np.cumsum(lengths) - lengths + quotient  # where the one bit that ends each quotient stands
    bits = np.zeros(int(np.sum(lengths)), np.uint8)
    bits[ones] = 1
    for k in range(width):
        has = k < lengths - quotient - 1
        bits[ones[has] + 1 + k] = (code[has] >> k) & 1
    return np.packbits(bits, bitorder="little"), parameter


def decode(stream: NDArray[np.uint8], parameter: int, size: int, count: int) -> NDArray[np.bool_]:
    """Read stream (k,) -> mask (size,), one bit at a time."""
    modulus, inverted = parameter // 2, bool(parameter % 2)
    mask = np.full(size, inverted)
    bits = [int(bit) for bit in np.unpackbits(stream, bitorder="little")]
    at, position = 0, -1
    for _ in range(size - count if inverted else count):
        gap, at = _read_gap(bits, at, modulus)
        position += gap + 1
        if position >= size:
            raise ArtifactError(f"gap stream: reaches position {position}, the mask ends at {size}")
        mask[position] = not inverted
    if (at + 7) // 8 != stream.size:
        raise ArtifactError(f"gap stream: found {stream.size} bytes, the code ends after {(at + 7) // 8}")
    if any(bits[at:]):
        raise ArtifactError("gap stream: the bits that pad the last byte are not zero")
    return mask


def bitmap(stream: NDArray[np.uint8], parameter: int, size: int, count: int) -> NDArray[np.uint8]:
    """Read stream (k,) -> mask as bits (ceil(size / 8),)."""
    return np.packbits(decode(stream, parameter, size, count), bitorder="little")


def _gaps(mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.int64]]:
    """(inverted, gaps): the number of positions before each value of the rarer kind, since the one before it."""
    inverted = int(2 * np.count_nonzero(mask) > mask.size)
    positions = np.flatnonzero(mask != bool(inverted))
    return inverted, (np.diff(positions, prepend=-1) - 1).astype(np.int64)


def _lengths(gaps: NDArray[np.int64], modulus: int) -> NDArray[np.int64]:
    """Bits that each gap takes."""
    width, short = remainder_width(modulus)
    quotient, rest = np.divmod(gaps, modulus)
    return np.asarray(quotient + 1 + width - (rest < short), np.int64)


def _read_gap(bits: list[int], at: int, modulus: int) -> tuple[int, int]:
    """Read (gap, where the next code starts) of the code that starts at ``at``."""
    width, short = remainder_width(modulus)
    quotient = 0
    while _bit(bits, at) == 0:
        quotient, at = quotient + 1, at + 1
    at += 1
    if width == 0:
        return quotient, at
    rest = sum(_bit(bits, at + k) << k for k in range(width - 1))
    at += width - 1
    if rest >= short:
        rest, at = 2 * rest + _bit(bits, at) - short, at + 1
    return quotient * modulus + rest, at


def _bit(bits: list[int], at: int) -> int:
    if at >= len(bits):
        raise ArtifactError(f"gap stream: {len(bits) // 8} bytes end in the middle of a code")
    return bits[at]

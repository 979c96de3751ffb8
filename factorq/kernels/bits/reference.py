"""The specification of the bit stream, in array-API code that knows nothing of the host's byte order."""

from __future__ import annotations

from ...arrays import Array, namespace


def pack(codes: Array, bits: int) -> Array:
    """Pack codes (n,) -> (ceil(n * bits / 8),) uint8: bit j of the stream is bit j % bits of code j // bits."""
    xp = namespace(codes)
    places = xp.arange(bits, dtype=xp.int64, device=codes.device)
    stream = xp.reshape((xp.astype(codes, xp.int64)[:, None] >> places) & 1, (-1,))
    padding = xp.zeros(-stream.shape[0] % 8, dtype=xp.int64, device=codes.device)
    octets = xp.reshape(xp.concat([stream, padding]), (-1, 8))
    return xp.astype(xp.sum(octets << xp.arange(8, dtype=xp.int64, device=codes.device), axis=1), xp.uint8)


def unpack(packed: Array, bits: int, size: int) -> Array:
    """Unpack (ceil(size * bits / 8),) uint8 -> codes (size,): code i sums its bits i * bits + k, times 2**k."""
    xp = namespace(packed)
    octet = xp.arange(8, dtype=xp.int64, device=packed.device)
    stream = xp.reshape((xp.astype(packed, xp.int64)[:, None] >> octet) & 1, (-1,))[: size * bits]
    places = xp.arange(bits, dtype=xp.int64, device=packed.device)
    codes = xp.sum(xp.reshape(stream, (size, bits)) << places, axis=1)
    return xp.astype(codes, xp.uint8 if bits <= 8 else xp.uint16)

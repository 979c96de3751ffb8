"""Codes of 1 to 16 bits as a dense little-endian bit stream, and back.

Value ``i`` occupies the bits ``[i * bits, (i + 1) * bits)`` of the stream, lowest bit first; bit ``j`` of the stream is
bit ``j % 8`` of byte ``j // 8``. The bits that pad the last byte are zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import Array, dtype_name, is_array
from ...errors import ArtifactError, refuse, refuse_type
from .. import twin

MOST_BITS = 16


def packed_size(size: int, bits: int) -> int:
    """ceil(size * bits / 8): the bytes that ``size`` codes of ``bits`` bits take.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If ``bits`` is no integer in 1..16 or ``size`` no integer of at least 0.
    """
    _check_integer("bits", bits, 1, MOST_BITS)
    _check_integer("size", size, 0, None)
    return (int(size) * int(bits) + 7) // 8


def pack(codes: Array, bits: int) -> Array:
    """Pack codes (n,) -> stream (ceil(n * bits / 8),): the low ``bits`` bits of every code, side by side.

    Parameters
    ----------
    codes : array (n,), uint8 for bits <= 8, uint16 for bits 9..16
        Bits above ``bits`` are ignored, not checked.
    bits : int
        Bits per code, 1..16.

    Returns
    -------
    array (ceil(n * bits / 8),), uint8, of the namespace of ``codes``

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If ``codes`` is no array of that shape and dtype, or ``bits`` no integer in 1..16.

    Examples
    --------
    >>> import numpy as np
    >>> pack(np.array([1, 2, 3], np.uint8), 4).tolist()
    [33, 3]
    """
    _check_vector("codes", codes)
    _check_integer("bits", bits, 1, MOST_BITS)
    wanted = "uint8" if bits <= 8 else "uint16"
    if dtype_name(codes) != wanted:
        found = f"dtype {codes.dtype} with bits = {bits}"
        raise refuse_type("codes", found=found, allowed=f"native {wanted} for {bits} bits", remedy=f"cast to {wanted}")
    return twin(__name__, codes).pack(codes, int(bits))


def unpack(packed: Array, bits: int, size: int) -> Array:
    """Unpack stream (ceil(size * bits / 8),) -> codes (size,): the inverse of :func:`pack`.

    Parameters
    ----------
    packed : array (ceil(size * bits / 8),), uint8
    bits : int
        Bits per code, 1..16.
    size : int
        Number of codes.

    Returns
    -------
    array (size,), uint8 for bits <= 8, uint16 for bits 9..16

    Raises
    ------
    ArtifactError
        If the length of ``packed`` is not ``packed_size(size, bits)``.
    ArgumentTypeError, ArgumentError
        If ``packed`` is no uint8 vector, or ``bits`` or ``size`` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> unpack(np.array([33, 3], np.uint8), 4, 3).tolist()
    [1, 2, 3]
    """
    length = _check_vector("packed", packed)
    if dtype_name(packed) != "uint8":
        raise refuse_type("packed", found=f"dtype {packed.dtype}", allowed="uint8")
    wanted = packed_size(size, bits)
    if length != wanted:
        raise ArtifactError(f"packed: found {length} bytes, {size} codes of {bits} bits take {wanted} bytes")
    return twin(__name__, packed).unpack(packed, int(bits), int(size))


def _check_vector(name: str, x: Any) -> int:
    if not is_array(x):
        raise refuse_type(name, found=type(x).__name__, allowed="an array", remedy="wrap it with numpy.asarray")
    if len(x.shape) != 1:
        raise refuse(name, found=f"shape {tuple(x.shape)}", allowed="a 1-D array", remedy="reshape it to (-1,)")
    return int(x.shape[0])


def _check_integer(name: str, value: object, low: int, high: int | None) -> None:
    allowed = f"an integer of at least {low}" if high is None else f"an integer in {low}..{high}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise refuse_type(name, found=repr(value), allowed=allowed)
    if value < low or (high is not None and value > high):
        raise refuse(name, found=value, allowed=allowed)

"""A sparse mask as Golomb-coded gaps: about H(p) bits per position, where p is the share of ones.

The rarer of the two values is coded (ones, when there are as many ones as zeros): the number ``g`` of positions between
one such value and the next, starting before the first position. What follows the last one is implied by the size. With
the modulus ``M`` and ``g = q * M + r``, a gap is written, lowest bit first in little-endian order, as

- ``q`` zero bits and a one bit;
- ``r`` in truncated binary: with ``b = ceil(log2(M))`` and ``u = 2**b - M``, ``r`` in ``b - 1`` bits if ``r < u``, else
  ``t = r + u`` in ``b`` bits, of which the top ``b - 1`` bits (``t >> 1``) come first and the lowest bit comes last.

The bits that pad the last byte are zero. ``parameter = 2 * M + inverted``, with ``inverted = 1`` if zeros are coded.

Golomb, "Run-length encodings", IEEE Trans. Inform. Theory 12 (1966); truncated binary: Gallager and Van Voorhis (1975).
``M`` is 1, 2, 3 or {4, 5, 6, 7} * 2**k, whichever gives the smallest stream: on i.i.d. masks at most 1.3 % above H(p)
for p <= 0.3, where powers of two alone lose up to 2.3 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...arrays import Array
from ...errors import ArtifactError, refuse_type
from .. import checks, twin

MOST_POSITIONS = 2**48
"""Sizes above this are refused: no memory holds them, and 64-bit arithmetic on gaps stays exact below it."""


def plan(mask: Array) -> tuple[int, int]:
    """Find ``parameter`` and the exact size in bytes of what :func:`encode` would write for ``mask`` (n,).

    Parameters
    ----------
    mask : array (n,), bool

    Returns
    -------
    parameter : int
    nbytes : int

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If ``mask`` is no 1-D boolean array.
    """
    host = checks.host_array("mask", mask, "bool", 1)
    parameter, nbytes = twin(__name__, host).plan(host)
    return int(parameter), int(nbytes)


def encode(mask: Array) -> tuple[NDArray[np.uint8], int]:
    """Write mask (n,) -> stream (k,), with the modulus that makes k smallest.

    Parameters
    ----------
    mask : array (n,), bool

    Returns
    -------
    stream : array (k,), uint8, on the host
    parameter : int
        To be kept beside the stream, together with ``n`` and the number of ones.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If ``mask`` is no 1-D boolean array.

    Examples
    --------
    >>> import numpy as np
    >>> stream, parameter = encode(np.arange(1000) % 100 == 3)
    >>> stream.size, parameter, decode(stream, parameter, 1000, 10).nonzero()[0][:3].tolist()
    (10, 80, [3, 103, 203])
    """
    host = checks.host_array("mask", mask, "bool", 1)
    stream, parameter = twin(__name__, host).encode(host)
    return stream, int(parameter)


def decode(stream: Array, parameter: int, size: int, count: int) -> NDArray[np.bool_]:
    """Read stream (k,) -> mask (size,) with ``count`` ones: the inverse of :func:`encode`, safe on any stream.

    Parameters
    ----------
    stream : array (k,), uint8
    parameter : int
        As :func:`encode` gave it.
    size, count : int
        Positions and ones of the mask. Memory of ``size`` bytes is allocated, whatever the length of the stream.

    Returns
    -------
    array (size,), bool, on the host

    Raises
    ------
    ArtifactError
        If the numbers contradict each other, or the stream is truncated, leaves the mask, or goes on after its end.
    ArgumentTypeError, ArgumentError
        If ``stream`` is no uint8 vector, or a number is no integer.
    """
    host, parameter, size, count = _checked(stream, parameter, size, count)
    mask: NDArray[np.bool_] = twin(__name__, host).decode(host, parameter, size, count)
    return mask


def bitmap(stream: Array, parameter: int, size: int, count: int) -> NDArray[np.uint8]:
    """The same as :func:`decode` with one bit per position, lowest bit of a byte first: (ceil(size / 8),).

    Examples
    --------
    >>> import numpy as np
    >>> bitmap(*encode(np.arange(16) % 8 == 3), 16, 2).tolist()
    [8, 8]
    """
    host, parameter, size, count = _checked(stream, parameter, size, count)
    bits: NDArray[np.uint8] = twin(__name__, host).bitmap(host, parameter, size, count)
    return bits


def _checked(stream: Array, parameter: int, size: int, count: int) -> tuple[NDArray[np.uint8], int, int, int]:
    """The stream on the host, and the numbers, if they fit each other."""
    host = checks.host_array("stream", stream, "uint8", 1)
    for name, value in (("parameter", parameter), ("size", size), ("count", count)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise refuse_type(name, found=repr(value), allowed="an integer")
    parameter, size, count = int(parameter), int(size), int(count)
    if not 0 <= size <= MOST_POSITIONS:
        raise ArtifactError(f"size: found {size}, allowed is 0..{MOST_POSITIONS}")
    if not 0 <= count <= size:
        raise ArtifactError(f"count: found {count} ones in a mask of {size} positions")
    if not 1 <= parameter // 2 <= max(size, 1):
        raise ArtifactError(f"parameter: found {parameter}, allowed is 2..{2 * max(size, 1) + 1} for {size} positions")
    return host, parameter, size, count

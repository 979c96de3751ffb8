"""Bits to the set positions of a mask and back, and the rank directory that makes single positions quick to find.

Bitmaps are uint8, lowest bit first: bit i is bit ``i % 8`` of byte ``i // 8``, and the bits that pad the last byte are
zero. ``deposit`` is the decoder of values that are stored densely beside their mask: 1 bit per kept weight and plane
and nothing else, at any sparsity.

Directories: Jacobson, "Space-efficient static trees and graphs", FOCS 1989.

Bits of a plane of 2**24 weights that one core writes or reads, at any share of ones from 0.05 to 0.5 (process CPU time,
medians of 15; in parentheses while other programs kept the machine busy): by PDEP and PEXT deposit 35 (20) and extract
28 (15) Gbit/s, by look-up tables 7.5 (4.3) and 6.5 (3.8), a copy of the bitmap 145.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Array
from ...errors import ArtifactError, refuse, refuse_type
from .. import checks, twin

__all__ = ["count", "deposit", "extract", "rank", "ranks", "select"]

Bits = NDArray[np.uint8]


def count(mask: Array, size: int) -> int:
    """Count the ones of mask (ceil(size / 8),).

    Parameters
    ----------
    mask : array (ceil(size / 8),), uint8
    size : int
        Number of positions.

    Returns
    -------
    int

    Raises
    ------
    ArtifactError
        If the length of ``mask`` does not fit ``size``, or a bit after its end is set.
    ArgumentTypeError, ArgumentError
        If ``mask`` is no uint8 vector, or ``size`` no integer of at least 0.
    """
    return _count(_bitmap(mask, size))


def deposit(packed: Array, mask: Array, size: int) -> Bits:
    """out (ceil(size / 8),): bit k of ``packed`` at the k-th one of ``mask``, zero where the mask is zero.

    Parameters
    ----------
    packed : array (ceil(count / 8),) or (planes, ceil(count / 8)), uint8
        ``count`` is the number of ones in the mask. The bits that pad a last byte are ignored.
    mask : array (ceil(size / 8),), uint8
    size : int
        Number of positions.

    Returns
    -------
    array (ceil(size / 8),) or (planes, ceil(size / 8)), uint8, on the host

    Raises
    ------
    ArtifactError
        If the length of ``packed`` or ``mask`` does not fit, or a bit after the end of ``mask`` is set.
    ArgumentTypeError, ArgumentError
        If an array is not uint8 of that number of dimensions, or ``size`` no integer of at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.array([0b10011010], np.uint8)
    >>> f"{deposit(np.array([0b0110], np.uint8), mask, 8)[0]:08b}"
    '00011000'
    """
    positions = _bitmap(mask, size)
    planes = _planes("packed", packed)
    out: Bits = np.empty((len(planes), positions.size), np.uint8)
    used = twin(__name__, positions).deposit(planes, positions, out) if len(planes) else _count(positions)
    _check_length("packed", planes, used)  # afterwards: to count the ones first would read the mask twice
    return out[0] if len(packed.shape) == 1 else out


def extract(bits: Array, mask: Array, size: int) -> Bits:
    """packed (ceil(count / 8),): the bits at the ones of ``mask``, side by side; the inverse of :func:`deposit`.

    Parameters
    ----------
    bits : array (ceil(size / 8),) or (planes, ceil(size / 8)), uint8
        What stands where the mask is zero is ignored.
    mask : array (ceil(size / 8),), uint8
        With ``count`` ones.
    size : int
        Number of positions.

    Returns
    -------
    array (ceil(count / 8),) or (planes, ceil(count / 8)), uint8, on the host

    Raises
    ------
    ArtifactError
        If the length of ``bits`` or ``mask`` does not fit, or a bit after the end of ``mask`` is set.
    ArgumentTypeError, ArgumentError
        If an array is not uint8 of that number of dimensions, or ``size`` no integer of at least 0.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.array([0b10011010], np.uint8)
    >>> f"{extract(np.array([0b11011101], np.uint8), mask, 8)[0]:04b}"
    '1110'
    """
    positions = _bitmap(mask, size)
    planes = _planes("bits", bits)
    _check_length("bits", planes, int(size))
    out: Bits = np.empty((len(planes), (_count(positions) + 7) // 8), np.uint8)
    twin(__name__, positions).extract(planes, positions, out)
    return out[0] if len(bits.shape) == 1 else out


def ranks(mask: Array, size: int, every: int = 512) -> NDArray[np.int64]:
    """directory (ceil(size / every) + 1,): entry i is the number of ones before position ``i * every``.

    Parameters
    ----------
    mask : array (ceil(size / 8),), uint8
    size : int
        Number of positions.
    every : int
        Positions per entry, a multiple of 64. With 512 the directory takes an eighth of a bit per position in memory;
        it is never stored.

    Returns
    -------
    array (ceil(size / every) + 1,), int64
        The last entry counts all ones.

    Raises
    ------
    ArtifactError
        If the length of ``mask`` does not fit ``size``, or a bit after its end is set.
    ArgumentTypeError, ArgumentError
        If ``mask`` is no uint8 vector, or a number is outside the above.
    """
    positions = _bitmap(mask, size)
    _check_every(every)
    directory: NDArray[np.int64] = np.empty(-(-int(size) // int(every)) + 1, np.int64)
    twin(__name__, positions).ranks(positions, int(every), directory)
    return directory


def rank(mask: Array, directory: NDArray[np.int64], i: Any, every: int = 512) -> Any:
    """Count the ones before position ``i``, in time proportional to ``every``.

    Parameters
    ----------
    mask : array (ceil(size / 8),), uint8
    directory : NDArray (ceil(size / every) + 1,), int64
        What :func:`ranks` gave for this mask and ``every``.
    i : int, or NDArray of integers (k,)
        Positions, 0 to 8 times the length of the mask.
    every : int
        Positions per entry.

    Returns
    -------
    int, or NDArray (k,), int64

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If an argument is outside the above.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.packbits(np.arange(1000) % 3 == 0, bitorder="little")
    >>> directory = ranks(mask, 1000)
    >>> rank(mask, directory, 600), select(mask, directory, 200)
    (200, 600)
    """
    positions = checks.host_array("mask", mask, "uint8", 1)
    _check_directory(directory, positions, every)
    wanted = _indices("i", i, 8 * positions.size + 1)
    out: NDArray[np.int64] = np.empty(wanted.size, np.int64)
    twin(__name__, positions).rank(positions, directory, wanted, int(every), out)
    return out if np.ndim(i) else int(out[0])


def select(mask: Array, directory: NDArray[np.int64], k: Any, every: int = 512) -> Any:
    """Find the position of the k-th one, counting from 0: ``rank(select(k)) = k``.

    Parameters
    ----------
    mask : array (ceil(size / 8),), uint8
    directory : NDArray (ceil(size / every) + 1,), int64
        What :func:`ranks` gave for this mask and ``every``.
    k : int, or NDArray of integers (j,)
        0 to the number of ones less 1.
    every : int
        Positions per entry.

    Returns
    -------
    int, or NDArray (j,), int64

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If an argument is outside the above.
    """
    positions = checks.host_array("mask", mask, "uint8", 1)
    _check_directory(directory, positions, every)
    wanted = _indices("k", k, int(directory[-1]))
    out: NDArray[np.int64] = np.empty(wanted.size, np.int64)
    twin(__name__, positions).select(positions, directory, wanted, int(every), out)
    return out if np.ndim(k) else int(out[0])


def _count(positions: Bits) -> int:
    return int(twin(__name__, positions).count(positions))


def _bitmap(mask: Array, size: int) -> Bits:
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise refuse_type("size", found=repr(size), allowed="an integer")
    if size < 0:
        raise refuse("size", found=size, allowed="an integer of at least 0")
    positions = checks.host_array("mask", mask, "uint8", 1)
    if positions.size != (int(size) + 7) // 8:
        raise ArtifactError(f"mask: found {positions.size} bytes, {size} positions take {(int(size) + 7) // 8}")
    if size % 8 and int(positions[-1]) >> (size % 8):
        raise ArtifactError("mask: the bits that pad the last byte are not zero")
    return positions


def _planes(name: str, x: Array) -> Bits:
    planes = checks.host_array(name, x, "uint8", 1, 2)
    return planes if planes.ndim == 2 else planes[None]


def _check_length(name: str, planes: Bits, bits: int) -> None:
    if planes.shape[1] != (bits + 7) // 8:
        raise ArtifactError(f"{name}: found {planes.shape[1]} bytes per plane, {bits} bits take {(bits + 7) // 8}")


def _check_every(every: int) -> None:
    if isinstance(every, bool) or not isinstance(every, int | np.integer):
        raise refuse_type("every", found=repr(every), allowed="an integer")
    if every < 64 or every % 64:
        raise refuse("every", found=every, allowed="a multiple of 64, at least 64")


def _check_directory(directory: NDArray[np.int64], positions: Bits, every: int) -> None:
    _check_every(every)
    if not isinstance(directory, np.ndarray) or directory.dtype != np.int64 or not directory.flags.c_contiguous:
        raise refuse_type("directory", found=type(directory).__name__, allowed="a contiguous array of int64")
    entries = -(-8 * positions.size // int(every)) + 1
    if directory.shape != (entries,):
        raise refuse("directory", found=f"shape {directory.shape}", allowed=f"({entries},)", remedy="call ranks")


def _indices(name: str, wanted: Any, stop: int) -> NDArray[np.int64]:
    found = np.asarray(wanted)
    if found.dtype.kind not in "iu" or found.ndim > 1:
        raise refuse_type(name, found=repr(wanted), allowed="an integer or a 1-D array of integers")
    if found.size and (int(found.min()) < 0 or int(found.max()) >= stop):
        raise refuse(name, found=f"{int(found.min())} to {int(found.max())}", allowed=f"0 to {stop - 1}")
    return np.ascontiguousarray(found, np.int64).reshape(-1)

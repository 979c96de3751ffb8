"""The bit-shift trellis: weights as overlapping windows of a circular bit stream, decoded by table look-up.

With ``states = 2**L``, weight t of a block reads the L bits from bit ``t * bits`` on, most significant first, and
stands for ``table[window]``: each weight shifts in ``bits`` new bits. The stream is a circle (tail-biting), so a block
of T weights takes exactly ``T * bits`` bits and no start state. The encoder finds the best stream by the Viterbi
algorithm; the overlap of the stream's end with its start comes from a first search over ``window`` weights on either
side of the seam with free ends. Other blocks are not needed to decode one.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import constant, contiguous, is_cupy, is_host, namespace
from ...errors import ArtifactError, refuse, refuse_type
from .. import twin
from .tables import table

__all__ = ["MOST_BITS", "MOST_STATES", "check_trellis", "decode", "encode", "period", "table"]

MOST_BITS, MOST_STATES = 8, 1 << 16
WINDOW = 64
"""Most weights on either side of the seam. D at 2 bits, 2**12 states, windows of 16 / 32 / 64 / 128: .0713 / .0706 /
.0701 / .0698 (free ends: .0667) at 1.7 / 1.55 / 1.3 / 0.97 million weights/s."""


def check_trellis(bits: object, states: object) -> tuple[int, int]:
    """Both as integers: ``bits`` in 1..8 and ``states`` a power of two, 4 to 65536 and at least ``2**bits``.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        Naming the one that is not.
    """
    k, n = _integer("bits", bits), _integer("states", states)
    if not 1 <= k <= MOST_BITS:
        raise refuse("bits", found=k, allowed=f"an integer in 1..{MOST_BITS}")
    if n & (n - 1) or not max(4, 1 << k) <= n <= MOST_STATES:
        allowed = f"a power of two from {max(4, 1 << k)} to {MOST_STATES} for {k} bits"
        raise refuse("states", found=n, allowed=allowed, remedy="4096 is a good choice")
    return k, n


def period(length: int, bits: int, states: int) -> int:
    """Weights in the circle that holds a block of ``length``: the next whole number of bytes, and one whole window."""
    depth = states.bit_length() - 1
    unit = 8 // gcd(bits, 8)
    return -(-max(length, -(-depth // bits)) // unit) * unit


def encode(x: NDArray[Any], bits: int, states: int, length: int | None = None) -> NDArray[np.uint8]:
    """codes[b] = argmin over circular streams of ``sum_t (x[b, t] - table[window_t])**2``, as the Viterbi search finds.

    Parameters
    ----------
    x : NDArray (blocks, T), float32, finite
        Weights of unit scale, T a multiple of ``8 / gcd(bits, 8)`` with ``T * bits >= log2(states)``: see ``period``.
    bits, states : int
        Bits per weight, 1 to 8; a power of two, 4 to 65536, at least ``2**bits``.
    length : int, optional
        Weights that count in each block, all T if None; the rest may decode to anything.

    Returns
    -------
    NDArray (blocks, T * bits / 8), uint8

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If an argument is outside what it allows.

    Examples
    --------
    >>> x = np.array([[0.7, -1.2, 0.1, 0.4, -0.5, 1.9, 0.0, -0.3]], np.float32)
    >>> codes = encode(x, 2, 64)
    >>> codes.nbytes, float(np.square(decode(codes, 2, 64, np.ones(1, np.float32), 8) - x).mean()) < 0.2
    (2, True)
    """
    bits, states = check_trellis(bits, states)
    if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim != 2:
        found = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise refuse_type("x", found=found, allowed="a float32 matrix (blocks, T)")
    blocks, count = x.shape
    if count < 1 or period(count, bits, states) != count:
        raise refuse("x", found=f"blocks of {count} weights", allowed="the period of a block", remedy="pad it")
    if length is not None and not 0 <= length <= count:
        raise refuse("length", found=length, allowed=f"an integer in 0..{count}")
    codes = np.empty((blocks, count * bits // 8), np.uint8)
    wanted = count if length is None else length
    window = min(WINDOW, 11 * (states.bit_length() - 1) // bits)  # a path forgets in digits, not in weights
    twin(__name__, x).encode(np.ascontiguousarray(x), table(bits, states), bits, wanted, window, codes)
    return codes


def decode(codes: NDArray[np.uint8], bits: int, states: int, scales: NDArray[Any], length: int) -> NDArray[Any]:
    """out[b, t] = scales[b] * table[window t of codes[b]]: (blocks, length), in the dtype of ``scales``.

    Parameters
    ----------
    codes : NDArray (blocks, T * bits / 8), uint8
        What :func:`encode` wrote.
    bits, states : int
        As for :func:`encode`.
    scales : NDArray (blocks,), float32 or float64
    length : int
        Weights to decode in each block, at most T.

    Raises
    ------
    ArtifactError
        If ``codes`` is no uint8 matrix with a row per scale and ``length`` weights in each row.

    Examples
    --------
    >>> decode(np.zeros((1, 1), np.uint8), 2, 16, np.array([2.0]), 3).shape
    (1, 3)
    """
    bits, states = check_trellis(bits, states)
    known = is_host(codes) or is_cupy(codes)
    fits = known and codes.dtype == np.uint8 and codes.ndim == 2 and len(codes) == len(scales)
    if not fits or 8 * codes.shape[1] < bits * period(length, bits, states):
        raise ArtifactError(f"bitshift: codes do not hold {length} weights of {bits} bits for each of {len(scales)}")
    out: NDArray[Any] = namespace(codes).empty((len(codes), length), dtype=scales.dtype)
    points = constant(codes, table, bits, states)
    twin(__name__, codes, scales).decode(contiguous(codes), points, bits, contiguous(scales), out)
    return out


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise refuse_type(name, found=repr(value), allowed="an integer")
    return int(value)

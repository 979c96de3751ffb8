"""Orthonormal matrices as angles of plane rotations: A = G_1 G_2 ... G_q with angles on a uniform grid.

The rotation of axes (i, j), i < j, is applied for the ``leading`` first axes i in turn, each with all j > i: that makes
``leading * (2 m - leading - 1) / 2`` angles, and ``m (m - 1) / 2``, all there are, at ``leading = m - 1``. Any angles
give an orthonormal matrix. Code k stands for the angle ``(k - 2**(bits - 1)) * pi / 2**bits``: half a turn is enough,
as the sign of a basis vector is free.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import refuse, refuse_type
from .. import twin

__all__ = ["angle_count", "apply", "decode", "encode"]

MAX_BITS = 16
MAX_ORDER = 2048


def angle_count(m: int, leading: int) -> int:
    """``leading * (2 m - leading - 1) / 2``: rotations whose first axis is one of the ``leading`` first of m."""
    return leading * (2 * m - leading - 1) // 2


def encode(A: NDArray[np.float64], bits: int) -> NDArray[np.uint16]:
    """Codes of the rotations that bring the orthonormal columns of A (m, leading) to the first axes, up to signs.

    QR with quantized rotations: each one is chosen to move as much as it can of what the rotations before it left on
    axis j to axis i, so that it also makes up for their rounding: the squared error is 0.70 / 0.81 of that of the
    rounded exact angles at 6 / 8 bits and m = 9, and 0.11 / 0.52 at m = 64 (random bases).

    Parameters
    ----------
    A : (m, leading) array of float64, 2 <= m <= 2048, leading < m
        Orthonormal columns.
    bits : int, 1..16
        Bits per angle.

    Returns
    -------
    (angle_count(m, leading),) array of uint16

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.
    """
    if A.dtype != np.float64 or A.ndim != 2:
        raise refuse_type("A", found=f"{A.dtype} of {A.ndim} dimensions", allowed="a 2-D float64 array")
    m, leading = A.shape
    _check(m, leading, bits)
    if not np.abs(A.T @ A - np.eye(leading)).max(initial=0.0) < 1e-6:
        raise refuse("A", found="columns that are not orthonormal", allowed="orthonormal columns")
    cosines, sines = _table(bits)
    codes = np.empty(angle_count(m, leading), np.uint16)
    twin(__name__, A).encode(A.copy(), cosines, sines, codes)
    return codes


def decode(codes: NDArray[np.uint16], m: int, leading: int, bits: int) -> NDArray[np.float64]:
    """A (m, m), orthonormal to rounding, whose first ``leading`` columns are those that :func:`encode` was given.

    Parameters
    ----------
    codes : (angle_count(m, leading),) array of uint16, all below 2**bits
    m, leading, bits : int
        As in :func:`encode`.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.
    """
    return apply(codes, np.eye(m), leading, bits)


def apply(
    codes: NDArray[np.uint16], x: NDArray[np.float64], leading: int, bits: int, transposed: bool = False
) -> NDArray[np.float64]:
    """A @ x, or A.T @ x, for the A (m, m) of :func:`decode` and x (m, b): one pass over two rows of x for each angle.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside what it allows.

    Examples
    --------
    >>> codes = encode(np.array([[0.6], [0.8]]), 8)
    >>> np.round(apply(codes, np.array([[1.0], [0.0]]), 1, 8), 2)[:, 0].tolist()
    [0.6, 0.8]
    """
    if x.dtype != np.float64 or x.ndim != 2:
        raise refuse_type("x", found=f"{x.dtype} of {x.ndim} dimensions", allowed="a 2-D float64 array")
    m = len(x)
    _check(m, leading, bits)
    if codes.dtype != np.uint16 or codes.shape != (angle_count(m, leading),):
        raise refuse_type("codes", found=f"{codes.dtype} {codes.shape}", allowed=f"{angle_count(m, leading)} uint16")
    if codes.size and int(codes.max()) >> bits:
        raise refuse("codes", found=f"code {int(codes.max())}", allowed=f"codes below {2**bits}")
    cosines, sines = _table(bits)
    out = np.array(x, order="C")
    kernel = twin(__name__, codes)
    (kernel.undo if transposed else kernel.decode)(codes, leading, cosines, sines, out)
    return out


def _table(bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and sines of all codes: the twins use these alone, and so agree bit for bit."""
    angles = (np.arange(2**bits) - 2 ** (bits - 1)) * (np.pi / 2**bits)
    return np.cos(angles), np.sin(angles)


def _check(m: int, leading: int, bits: int) -> None:
    if not 2 <= m <= MAX_ORDER:
        raise refuse("m", found=m, allowed=f"2 to {MAX_ORDER}")
    if not 1 <= leading < m:
        raise refuse("leading", found=leading, allowed=f"1 to {m - 1}")
    if not 1 <= bits <= MAX_BITS:
        raise refuse("bits", found=bits, allowed=f"1 to {MAX_BITS}")

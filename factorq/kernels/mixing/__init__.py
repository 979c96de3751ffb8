"""stream = arithmetic code of k (P, R, C), each decision predicted by models that learn while they code.

**What is coded.** With one state, the magnitude ``a = |k|``, then the sign. With a trellis of S > 1 states the state
says whether k is even (parity 0) or odd (parity 1), so ``a = (|k| - parity) / 2`` is coded and the state moves to
``successor[state, (k >> 1) & 1]``. ``a`` is written in unary ("more than 0? more than 1? ..."), from 14 on by an
exponential Golomb escape; where the expected magnitude is 4 or more, its
low bits but the first go uncoded.

**The scale model** carries the compression. The expected magnitude is a product of four factors,

    log2 E[p, r, c] = level + u * row[r] + v * column[c] + w * place[r, c],

each learnt online by damped Newton steps on the likelihood of a geometric distribution: with M the mean magnitude that
the class of E predicts, every factor moves by its score over the information so far,
``(a - M) / (1 + M) / (A + sum M / (1 + M))``, where A is what its start counts for. The sum is capped, so that factors
follow slow changes; gradient steps on u, v and w fade out factors that mislead. Planes share the factors of rows,
columns and places, so the later planes of a transformed conv kernel find them learnt. The sign has a logistic model of
the same kind: a bias per row and per column, times ``|k| / E``.

**Mixing.** Each decision has a Gaussian and a Laplacian prediction from the class of E (eighths of an octave) and four
adaptive counters: class; row factor x column factor; plane x magnitudes at the same place in the two planes before;
scale x neighbours at the left and above. A counter starts at what the parametric models say. Logits are combined by a
single neuron, ``p = squash(w . stretch(p_i))``, whose weights descend the coding cost
(Mahoney, Adaptive weighing of context models, 2005).

Measured at 2 to 2.9 bits, gap in bits to the Gaussian bound, bases, steps and a spread byte per tensor counted (KLT
over kernel positions on conv tensors; "static": ideal entropy per plane and parity, tables free):

=================================  ========  ========  =====  ===========  =====  =====
quantizer and coder                resnet20  resnet56  vgg16  stories260K  LSTM    g2p
=================================  ========  ========  =====  ===========  =====  =====
uniform, static                       -0.07     -0.13  -0.65         0.21   0.17   0.26
uniform, this                         -0.14     -0.25  -0.81         0.04   0.02   0.23
trellis of 8 states, static           -0.23     -0.28  -0.78         0.04  -0.01   0.07
trellis of 8 states, this             -0.28     -0.37  -0.89        -0.10  -0.15   0.04
=================================  ========  ========  =====  ===========  =====  =====

On independent Gaussian numbers learning costs 0.005 bits at 3 bits, 0.02 at 6: there a static table does as well.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError, refuse, refuse_type
from .. import twin
from .tables import LABELS, LIMIT, tables

__all__ = ["LABELS", "LIMIT", "classes", "cost", "decode", "encode", "spread_of"]

Indices = NDArray[np.int32]
Machine = NDArray[np.uint8]


def encode(k: Indices, parity: Machine, successor: Machine, spread: int, restart: int = 0) -> NDArray[np.uint8]:
    """stream (n bytes) from which :func:`decode` with the same settings gives k (P, R, C) back.

    Parameters
    ----------
    k : NDArray, (P, R, C) int32
        P planes of R rows and C columns, ``|k| <= LIMIT`` (2**24); coded plane by plane, row by row. With S > 1 each k
        must have the parity of its state.
    parity : NDArray, (S,) uint8
        Parity of k by state, S <= 256; with S = 1 any k may occur.
    successor : NDArray, (S, 2) uint8
        Next state, by ``(k >> 1) & 1``.
    spread : int
        Where learning starts: the mean magnitude in plane 0 is about ``2**((spread - 128) / 8)``; see
        :func:`spread_of`. 0 to 255.
    restart : int
        The state goes back to 0 after this many indices in C order; 0 for never.

    Returns
    -------
    NDArray, (n,) uint8

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.
    """
    check_settings(parity, successor, spread, restart)
    _check_indices(k)
    settings = (_plain(parity), _plain(successor), int(spread), int(restart), tables())
    stream, status = twin(__name__, k).encode(_plain(k), *settings)
    _check_path(status)
    return np.array(stream)


def decode(
    stream: NDArray[np.uint8],
    shape: tuple[int, int, int],
    parity: Machine,
    successor: Machine,
    spread: int,
    restart: int = 0,
) -> Indices:
    """k (P, R, C) from what :func:`encode` wrote with the same settings.

    Parameters
    ----------
    stream : NDArray, (n,) uint8
    shape : tuple of int
        (P, R, C).
    parity, successor, spread, restart
        As in :func:`encode`.

    Returns
    -------
    NDArray, (P, R, C) int32

    Raises
    ------
    ArtifactError
        If the stream is longer than the indices that it holds, or holds one beyond the limit. Other corruption gives
        other indices: whether they are the right ones is for a checksum to say.
    ArgumentError, ArgumentTypeError
        If another argument is outside what :func:`encode` takes.
    """
    check_settings(parity, successor, spread, restart)
    if not isinstance(stream, np.ndarray) or stream.dtype != np.uint8 or stream.ndim != 1:
        raise refuse_type("stream", found=_described(stream), allowed="a 1-D array of uint8")
    if len(shape) != 3 or min(shape) < 0:
        raise refuse("shape", found=shape, allowed="three sizes (P, R, C)")
    k = np.empty(shape, np.int32)
    settings = (_plain(parity), _plain(successor), int(spread), int(restart), tables())
    used = int(twin(__name__, stream).decode(_plain(stream), *settings, k))
    if used < 0:
        raise ArtifactError(f"mixing: an index beyond {LIMIT}: the stream is corrupted")
    if stream.size > used:
        raise ArtifactError(f"mixing: {stream.size} bytes, the {k.size} indices end after {used}")
    return k


def cost(k: Indices, parity: Machine, successor: Machine, spread: int, restart: int = 0) -> float:
    """Bits that :func:`encode` would spend on k (P, R, C): 8 times its bytes, but for 0.1 % and the last byte.

    Parameters
    ----------
    k, parity, successor, spread, restart
        As in :func:`encode`.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        As in :func:`encode`.
    """
    check_settings(parity, successor, spread, restart)
    _check_indices(k)
    settings = (_plain(parity), _plain(successor), int(spread), int(restart), tables())
    bits, status = twin(__name__, k).cost(_plain(k), *settings)
    _check_path(status)
    return float(bits)


def classes(k: Indices, parity: Machine, successor: Machine, spread: int, restart: int = 0) -> NDArray[np.uint8]:
    """Class of the expected magnitude E (P, R, C) that the model has before it sees k (P, R, C), for rate tables.

    ``min(max(floor(2 * log2 E) + 16, 0), LABELS - 1)`` with LABELS = 32: halves of an octave.

    Parameters
    ----------
    k, parity, successor, spread, restart
        As in :func:`encode`.

    Returns
    -------
    NDArray, (P, R, C) uint8

    Raises
    ------
    ArgumentError, ArgumentTypeError
        As in :func:`encode`.
    """
    check_settings(parity, successor, spread, restart)
    _check_indices(k)
    labels = np.empty(k.shape, np.uint8)
    settings = (_plain(parity), _plain(successor), int(spread), int(restart), tables())
    _check_path(twin(__name__, k).classes(_plain(k), *settings, labels))
    return labels


def spread_of(k: Indices, states: int) -> int:
    """``round(8 * log2(mean magnitude of plane 0)) + 128`` in 0..255: the start to give for k (P, R, C).

    Parameters
    ----------
    k : NDArray, (P, R, C) of integers
    states : int
        S: with more than one state a magnitude is about ``|k| / 2``.
    """
    if not k.size:
        return 128
    mean = float(np.abs(k[0]).mean(dtype=np.float64)) / (2 if states > 1 else 1)
    return min(max(round(8 * math.log2(max(mean, 2.0**-16))) + 128, 0), 255)


def check_settings(parity: Machine, successor: Machine, spread: int, restart: int) -> None:
    """Raise unless the state machine has consistent tables and the numbers are in range."""
    for name, array in (("parity", parity), ("successor", successor)):
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or not array.flags.c_contiguous:
            raise refuse_type(name, found=_described(array), allowed="a C-contiguous array of uint8")
    states = parity.size
    if parity.ndim != 1 or not 1 <= states <= 256 or int(parity.max()) > 1:
        raise refuse("parity", found=f"shape {parity.shape}", allowed="0 or 1 for each of 1 to 256 states")
    if successor.shape != (states, 2) or int(successor.max()) >= states:
        raise refuse("successor", found=f"shape {successor.shape}", allowed=f"({states}, 2) states below {states}")
    if not isinstance(spread, int | np.integer) or not 0 <= spread <= 255:
        raise refuse("spread", found=repr(spread), allowed="an integer from 0 to 255")
    if not isinstance(restart, int | np.integer) or not 0 <= restart < 1 << 62:
        raise refuse("restart", found=repr(restart), allowed="an integer of at least 0")


def _check_indices(k: Any) -> None:
    if not isinstance(k, np.ndarray) or k.dtype != np.int32 or k.ndim != 3:
        raise refuse_type("k", found=_described(k), allowed="a 3-D array of int32")
    if k.size and (int(k.max()) > LIMIT or int(k.min()) < -LIMIT):
        raise refuse("k", found=f"an index beyond {LIMIT}", allowed=f"|k| <= {LIMIT}", remedy="use a larger step")


def _check_path(status: int) -> None:
    if status < 0:
        raise refuse(
            "k", found=f"the wrong parity at position {-1 - status}", allowed="a path through the state machine"
        )


def _plain(x: NDArray[Any]) -> NDArray[Any]:
    """C-contiguous and writeable: other flags are other types to Numba, and seconds of compilation."""
    return np.require(x, requirements=("C", "W"))


def _described(x: Any) -> str:
    return f"{x.dtype} of {x.ndim} dimensions" if isinstance(x, np.ndarray) else type(x).__name__

"""Bits at chosen positions as outputs of a shift-register XOR network: y_t = M_0 x_t + M_1 x_(t-1) + .. over GF(2).

Step t decodes the positions ``t * n_out .. t * n_out + n_out - 1`` from the ``n_in`` bits x_t and from those of the
steps before, which are still in the registers; these start at zero. The decoder is a convolutional code, and solving it
the Viterbi algorithm with erasures: Park et al., "Encoding weights of irregular sparsity for fixed-to-fixed model
compression", ICLR 2022, arXiv 2105.01869. It needs about 2**(n_in * (registers + 1)) comparisons a step by brute force,
so this is the reference for small arrays; eliminating over wide windows (:mod:`..banded`) is better and far quicker.

Layout. The stream is the inputs of ``ceil(n / n_out)`` steps, ``n_in`` bits each, side by side, lowest bit first. In
the last step, outputs at or past n do not exist. The bits that pad the last byte are zero; on reading they are ignored.

M. Row i of M_r consists of the ``n_in`` lowest bits of output ``r * n_out + i`` of splitmix64, bit b for input b. A row
of M_0 that is zero gets the one bit ``i % n_in``.

Solving. Plane by plane the fewest mismatches at the positions that matter. Of equally good predecessors of a state the
one with the smallest oldest input is taken, and of equally good states in the end the one whose oldest input, and then
whose next one, is smallest. Inputs of more than 2**26 / 2**(n_in * registers) steps (1,024 for the largest network) are
decided in segments of so many: the last 64 steps of a segment are left to the next one, which starts from the state
before them. That is exact up to one segment; beyond, no difference to one long segment was ever measured in the number
of mismatches (with 16 steps in place of 64: 0 to 2 % more).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import checks, twin
from .network import OVERLAP, segment_steps, step_count

__all__ = ["MOST_INPUTS", "MOST_OUTPUTS", "MOST_REGISTERS", "outputs", "solve", "stream_size"]

MOST_INPUTS = 8
MOST_OUTPUTS = 1024
MOST_REGISTERS = 2

Bytes = NDArray[np.uint8]


def stream_size(size: int, n_in: int, n_out: int) -> int:
    """ceil(ceil(size / n_out) * n_in / 8): bytes of the stream of one plane of ``size`` positions.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If a number is out of range (see :func:`solve`).

    Examples
    --------
    >>> stream_size(800, 8, 80), stream_size(801, 4, 80)
    (10, 6)
    """
    _check_network(n_in, n_out, 0, 0)
    checks.integer("size", size, 0, checks.MOST_POSITIONS)
    return _bytes(int(size), int(n_in), int(n_out))


def solve(
    care: NDArray[np.bool_],
    values: NDArray[np.uint64],
    planes: int,
    n_in: int,
    n_out: int,
    registers: int,
    seed: int,
) -> Bytes:
    """Streams (planes, k) whose outputs differ from ``values`` at as few positions of ``care`` as possible.

    Parameters
    ----------
    care : NDArray, (n,) bool
        Which positions matter.
    values : NDArray, (count,) uint64
        Codes of these positions, in their order: bit j belongs to plane j; bits from ``planes`` on are ignored.
    planes : int
        1 to 64.
    n_in, n_out : int
        Input and output bits of a step, 1 to 8 and 1 to 1,024.
    registers : int
        How many past inputs the network sees, 0 to 2.
    seed : int
        Of the matrices, 0 to 2**64 - 1.

    Returns
    -------
    NDArray, (planes, stream_size(n, n_in, n_out)) uint8

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If an argument is none of the above.

    Notes
    -----
    Memory: one byte for every state and step of a segment, 64 MiB at most (two bytes where some hundred positions of
    three steps in a row matter).

    Examples
    --------
    >>> care = np.arange(1000) % 10 == 3
    >>> stream = solve(care, np.ones(100, np.uint64), 1, 8, 80, 1, 0)
    >>> bits = np.unpackbits(outputs(stream, 1000, 8, 80, 1, 0), bitorder="little")
    >>> stream.shape, int(bits[:1000][care].sum())
    ((1, 13), 100)
    """
    _check_network(n_in, n_out, registers, seed)
    care, values = checks.equations(care, values, planes)
    network = int(n_in), int(n_out), int(registers), int(seed)
    segment = segment_steps(int(n_in), int(registers))
    stream: Bytes = twin(__name__, care).solve(care, values, int(planes), *network, segment, OVERLAP)
    return stream


def outputs(
    stream: Bytes,
    size: int,
    n_in: int,
    n_out: int,
    registers: int,
    seed: int,
    steps: tuple[int, int] | None = None,
) -> Bytes:
    """Bitmaps (planes, bytes) of the outputs of all positions, or of those of some steps: safe on any stream.

    Parameters
    ----------
    stream : NDArray, (planes, k) uint8
    size : int
        Positions n of a plane.
    n_in, n_out, registers, seed : int
        As for :func:`solve`.
    steps : (first, stop), optional
        Only the positions from ``first * n_out`` to ``min(stop * n_out, n)``, of which the first is bit 0. What the
        registers hold is read from the stream.

    Returns
    -------
    NDArray, (planes, ceil(positions / 8)) uint8
        The bits that pad the last byte are zero.

    Raises
    ------
    ArtifactError
        If ``k`` is not ``stream_size(size, n_in, n_out)``.
    ArgumentTypeError, ArgumentError
        If an argument is out of range.
    """
    _check_network(n_in, n_out, registers, seed)
    checks.integer("size", size, 0, checks.MOST_POSITIONS)
    stream = checks.streams("sequential", stream, size, _bytes(int(size), int(n_in), int(n_out)))
    first, stop = checks.interval("steps", steps, step_count(int(size), int(n_out)))
    network = int(n_in), int(n_out), int(registers), int(seed)
    kernel = twin(__name__, stream)
    bits: Bytes = kernel.outputs(stream, int(size), *network, first, stop)
    return bits


def _bytes(size: int, n_in: int, n_out: int) -> int:
    return (step_count(size, n_out) * n_in + 7) // 8


def _check_network(n_in: int, n_out: int, registers: int, seed: int) -> None:
    checks.integer("n_in", n_in, 1, MOST_INPUTS)
    checks.integer("n_out", n_out, 1, MOST_OUTPUTS)
    checks.integer("registers", registers, 0, MOST_REGISTERS)
    checks.integer("seed", seed, 0, (1 << 64) - 1)

"""Bits at chosen positions as outputs of an XOR network, slice by slice: y = M x over GF(2).

A slice is ``n_out`` positions that are decoded from ``n_in`` bits x by one fixed matrix M (n_out, n_in), the same for
all slices and planes. Where a position matters (``care``), its row of M is an equation for x; elsewhere the output is
whatever comes out. Kwon et al., "Structured compression by weight encryption for unstructured pruning and
quantization", CVPR 2020, arXiv 1905.10138.

Layout. The n positions are cut into tiles of ``512 * n_out``; the last one takes what is left. A tile of ``width``
slices (512; in the last one ``ceil(rest / n_out)`` rounded up to a multiple of 8) holds at ``start + i * width + s``
output i of slice s, so that row i of a tile is ``width`` contiguous bits; in the last tile, outputs at or past n do not
exist. A stream holds for each tile ``n_in`` rows of ``width / 8`` bytes: bit s of row q is input q of slice s. All bits
are lowest first.

M. Row i consists of the ``n_in`` lowest bits of the outputs ``i * w .. i * w + w - 1`` of splitmix64, ``w = ceil(n_in /
64)``, low word first, bit q for input q. A row that is zero gets the one bit ``i % n_in``.

Solving. For ``n_in <= 12`` the input of a slice with the fewest mismatches, plane by plane; the smallest x wins a tie.
Beyond, equations are taken in the order of positions and reduced by those before; the pivot is the lowest input left,
and an equation of which nothing is left is dropped, whether it holds or not. Inputs that are no pivots are zero. With
fair bits half of the dropped ones fail: (n_u - rank) / 2 mismatches for n_u equations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .. import checks, twin
from .network import stream_bytes, tile_count

__all__ = ["MOST_INPUTS", "MOST_OUTPUTS", "outputs", "solve", "stream_size"]

MOST_INPUTS = 512
MOST_OUTPUTS = 1 << 16

Bytes = NDArray[np.uint8]


def stream_size(size: int, n_in: int, n_out: int) -> int:
    """Bytes of the stream of one plane of ``size`` positions, about ``size * n_in / n_out / 8``.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If a number is out of range (see :func:`solve`).

    Examples
    --------
    >>> stream_size(512 * 180, 20, 180), stream_size(1, 20, 180)
    (1280, 20)
    """
    _check_network(n_in, n_out, 0)
    checks.integer("size", size, 0, checks.MOST_POSITIONS)
    return stream_bytes(int(size), int(n_in), int(n_out))


def solve(care: NDArray[np.bool_], values: NDArray[np.uint64], planes: int, n_in: int, n_out: int, seed: int) -> Bytes:
    """Streams (planes, k) whose outputs are ``values`` at the positions of ``care``, or nearly.

    Parameters
    ----------
    care : NDArray, (n,) bool
        Which positions matter.
    values : NDArray, (count,) uint64
        Codes of these positions, in their order: bit j belongs to plane j; bits from ``planes`` on are ignored.
    planes : int
        1 to 64. One elimination serves all of them.
    n_in, n_out : int
        Inputs and outputs of a slice, 1 to 512 and 1 to 65,536.
    seed : int
        Of M, 0 to 2**64 - 1.

    Returns
    -------
    NDArray, (planes, stream_size(n, n_in, n_out)) uint8

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If an argument is none of the above.

    Examples
    --------
    >>> care = np.arange(1000) % 11 == 3
    >>> stream = solve(care, np.ones(91, np.uint64), 1, 20, 180, 0)
    >>> bits = np.unpackbits(outputs(stream, 1000, 20, 180, 0), bitorder="little")
    >>> stream.shape, int(bits[:1000][care].sum())
    ((1, 20), 91)
    """
    _check_network(n_in, n_out, seed)
    care, values = checks.equations(care, values, planes)
    stream: Bytes = twin(__name__, care).solve(care, values, int(planes), int(n_in), int(n_out), int(seed))
    return stream


def outputs(stream: Bytes, size: int, n_in: int, n_out: int, seed: int, tiles: tuple[int, int] | None = None) -> Bytes:
    """Bitmaps (planes, bytes) of the outputs of all positions, or of those of some tiles: safe on any stream.

    Parameters
    ----------
    stream : NDArray, (planes, k) uint8
    size : int
        Positions n of a plane.
    n_in, n_out, seed : int
        As for :func:`solve`.
    tiles : (first, stop), optional
        Only the positions from ``512 * n_out * first`` to ``min(512 * n_out * stop, n)``, of which the first is bit 0;
        the time is that of these tiles.

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
    _check_network(n_in, n_out, seed)
    checks.integer("size", size, 0, checks.MOST_POSITIONS)
    stream = checks.streams("slices", stream, size, stream_bytes(int(size), int(n_in), int(n_out)))
    first, stop = checks.interval("tiles", tiles, tile_count(int(size), int(n_out)))
    kernel = twin(__name__, stream)
    bits: Bytes = kernel.outputs(stream, int(size), int(n_in), int(n_out), int(seed), first, stop)
    return bits


def _check_network(n_in: int, n_out: int, seed: int) -> None:
    checks.integer("n_in", n_in, 1, MOST_INPUTS)
    checks.integer("n_out", n_out, 1, MOST_OUTPUTS)
    checks.integer("seed", seed, 0, (1 << 64) - 1)

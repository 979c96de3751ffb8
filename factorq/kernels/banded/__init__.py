"""Bits at chosen positions as the output of a banded XOR network: elimination within a sliding window.

Output i of the network is the parity of ``window`` bits of the stream, chosen by a pseudo-random row. Positions come in
steps of ``step``: step t looks at the bits from ``starts[t]`` on, its j-th position at ``window`` of them from
``starts[t] + j * advance // step`` on, through row j. A decoder is therefore a table look-up for every four bits of
``window + advance`` and a whole step, and every address is known without counting the positions before.

:func:`solve` finds the stream for which the outputs at the positions that matter are given bits. Each of them is one
equation over GF(2) with ones only in its window. Going through them in order, an equation is reduced by those before it
until its lowest bit, the pivot, is one of its own; the last unknown is then solved first. An equation that is
reduced to nothing is already decided: if it does not hold, which happens half the time, the output differs.

This is the linear algebra of ribbon retrieval: Dietzfelbinger and Walzer, "Efficient Gauss elimination for
near-quadratic matrices with one short random block per row" (ESA 2019); Dillinger and Walzer, arXiv 2103.02515. Keys
are positions here, and sorted. How many equations are lost is a matter of queues: equations arrive at the rate of the
positions that matter, the windows move on at the rate of ``starts``, and at most ``window`` can wait
(:func:`waiting`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError, refuse, refuse_type
from .. import checks, twin
from ..splitmix64 import splitmix64

SPARE = 6
"""Bits beyond the last equation: a random system of so many more unknowns is of full rank in 63 of 64 cases."""
MARGIN = 9
"""Bits of a window that should stay free: the last ones of a random system are rarely independent."""
WISHES = tuple(range(-64, 65, 8))
"""Bits beyond what leaves the right number of equations waiting that :func:`follow` tries, of a window of 128."""
LOSS, DRIFT = 7.0, 0.5
"""In wasted bits: what an equation that is lost costs, and how a queue that ends a whole window off is disliked."""

Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Network:
    """The XOR network.

    Parameters
    ----------
    window : int
        Bits that an output may depend on, 1 to 128.
    step : int
        Positions that share their rows' table, a power of two, 64 to 2**14.
    advance : int
        How far the window moves within a step, 0 to 128 bits.
    seed : int
        0 to 2**64 - 1.

    Raises
    ------
    ArgumentError
        If a number is outside the above.
    """

    window: int
    step: int
    advance: int
    seed: int

    def __post_init__(self) -> None:
        _check_integer("window", self.window, 1, 128)
        _check_integer("step", self.step, 64, 1 << 14)
        if self.step & (self.step - 1):
            raise refuse("step", found=self.step, allowed="a power of two")
        _check_integer("advance", self.advance, 0, 128)
        _check_integer("seed", self.seed, 0, (1 << 64) - 1)

    @property
    def rows(self) -> NDArray[np.uint64]:
        """Row j as its low and its high 64 bits: (step, 2) uint64.

        Words 2 j and 2 j + 1 of splitmix64 from the seed, of which the lowest ``window`` bits count; a row without a
        one gets bit ``j % window``.

        Examples
        --------
        >>> [hex(word) for word in Network(64, 64, 0, 0).rows[0].tolist()]
        ['0xe220a8397b1dcdaf', '0x0']
        """
        words = splitmix64(2 * self.step, self.seed).reshape(self.step, 2)
        kept = ((1 << self.window) - 1) & np.iinfo(np.uint64).max, ((1 << self.window) - 1) >> 64
        words &= np.array(kept, np.uint64)
        for j in np.flatnonzero(~words.any(axis=1)).tolist():
            words[j, j % self.window // 64] = np.uint64(1 << (j % self.window % 64))
        return words

    @property
    def offsets(self) -> Indices:
        """Where the window of each position begins, within its step: (step,) int64."""
        return np.arange(self.step) * self.advance // self.step


def solve(
    network: Network,
    care: NDArray[np.bool_],
    values: NDArray[np.uint64],
    planes: int,
    starts: Indices,
    slots: int,
) -> Bytes:
    """The streams (planes, ceil(slots / 8)) whose outputs at the positions of ``care`` are ``values``, nearly all.

    Parameters
    ----------
    network : Network
    care : NDArray of bool, (n,)
        The positions that matter.
    values : NDArray of uint64, (count,)
        Their bits, in order of position: bit j of a number belongs to plane j. One elimination serves all planes.
    planes : int
        1 to 64.
    starts : NDArray of int64, (ceil(n / step),)
        Where the window of each step begins: 0 to ``slots``.
    slots : int
        Bits of a stream. Windows that reach beyond read zeros there.

    Returns
    -------
    NDArray of uint8, (planes, ceil(slots / 8))
        Lowest bit first; bits that nothing depends on are 0. 24 bytes per slot are taken on the way.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.

    Examples
    --------
    >>> network, starts = Network(16, 64, 8, 3), np.array([0])
    >>> care = np.arange(64) % 8 == 1
    >>> stream = solve(network, care, np.array([1, 0, 1, 1, 0, 1, 0, 0], np.uint64), 1, starts, 10)
    >>> bits = np.unpackbits(outputs(network, stream, 64, starts, 10)[0], bitorder="little")
    >>> stream.shape, bits[care].tolist()
    ((1, 2), [1, 0, 1, 1, 0, 1, 0, 0])
    """
    _check_integer("planes", planes, 1, checks.MOST_PLANES)
    care, values = checks.equations(care, values, planes)
    _check_integer("slots", slots, 0, 1 << 48)
    fault = _fault(starts, slots, care.size, network.step)
    if fault:
        raise refuse("starts", found=fault, allowed="where the window of each step begins")
    begins = np.ascontiguousarray(starts)
    stream: Bytes = twin(__name__, care).solve(network, care, values, planes, begins, slots)
    return stream


def outputs(
    network: Network,
    stream: Bytes,
    size: int,
    starts: Indices,
    slots: int,
    steps: tuple[int, int] | None = None,
) -> Bytes:
    """What the network makes of streams (planes, ceil(slots / 8)): bitmaps (planes, ceil(size / 8)).

    Parameters
    ----------
    network, starts, slots
        As for :func:`solve`.
    size : int
        Number of positions n.
    steps : (first, stop), optional
        Only the positions ``first * step`` to ``min(stop * step, n)``, in time proportional to their number; the first
        of them is bit 0.

    Returns
    -------
    NDArray of uint8, (planes, bytes)
        Lowest bit first, zero beyond the end.

    Raises
    ------
    ArtifactError
        If the numbers contradict each other.
    ArgumentError, ArgumentTypeError
        If ``steps`` is no range of the steps, or ``stream`` no array of that kind.
    """
    if not isinstance(stream, np.ndarray):
        raise refuse_type("stream", found=checks.kind(stream), allowed="a 2-D array of uint8")
    fault = _fault(starts, slots, size, network.step)
    if fault:
        raise ArtifactError(f"banded stream: {fault}")
    if stream.dtype != np.uint8 or stream.ndim != 2 or stream.shape[1] != -(-slots // 8):
        raise ArtifactError(
            f"banded stream: found {checks.kind(stream)}, expected uint8 of shape (planes, {-(-slots // 8)})"
        )
    first, stop = steps or (0, starts.size)
    if not 0 <= first <= stop <= starts.size:
        raise refuse("steps", found=steps, allowed=f"a range of the {starts.size} steps")
    part = max(min(stop * network.step, size) - first * network.step, 0)
    begins = np.ascontiguousarray(starts[first:stop])
    bits: Bytes = twin(__name__, stream).outputs(network, np.ascontiguousarray(stream), part, begins, slots)
    return bits


def waiting(counts: Indices, starts: Indices, window: int) -> tuple[int, int]:
    """Equations lost, and those that wait at the end, were they all independent as long as a window is not full.

    Parameters
    ----------
    counts : NDArray of int64, (k,)
        Positions that matter in each of k short runs.
    starts : NDArray of int64, (k,)
        Where the windows of each run begin.
    window : int
        At most this many equations can wait for bits at or after the start.

    Returns
    -------
    lost, left : int
        A few more are lost in truth: a random system without spare bits is not always of full rank.

    Raises
    ------
    ArgumentError
        If counts and starts differ in shape, or the window is none.

    Examples
    --------
    >>> waiting(np.array([5, 5, 0]), np.array([0, 2, 4]), 6)  # 5 wait, 3 and 5 more do not fit into 6, 4 are left
    (2, 4)
    """
    if counts.shape != starts.shape or counts.ndim != 1:
        raise refuse("counts", found=f"shape {counts.shape}", allowed=f"that of starts, {starts.shape}")
    _check_integer("window", window, 1, 1 << 48)
    plain = (np.ascontiguousarray(x, np.int64) for x in (counts, starts))
    lost, left = twin(__name__, counts).waiting(*plain, window)
    return int(lost), int(left)


def follow(counts: Indices, runs: int, segment: int, window: int, lead: int) -> tuple[Indices, Indices, float]:
    """How far the windows should move in each block of positions so that neither bits nor equations are lost.

    In a block the windows move evenly, and the queue of equations that wait depends on how many have come by then.
    Where it is empty, bits are wasted; what does not fit into a window is lost. Block by block, the move is taken that
    costs least and leaves about ``lead`` equations waiting.

    Parameters
    ----------
    counts : NDArray of int64, (k,)
        Positions that matter in each of k short runs.
    runs : int
        Runs in a block; the last one may have fewer.
    segment : int
        Blocks of a segment, before and after which nothing waits.
    window : int
        At most so many equations, less a margin, should wait.
    lead : int
        How many should.

    Returns
    -------
    moves : NDArray of int64, (ceil(k / runs),)
        By how many bits the windows move in each block, from ``-lead`` on.
    slots : NDArray of int64
        Bits of each segment.
    lost : float
        An estimate of the equations lost.

    Raises
    ------
    ArgumentError
        If a number is below 1, or ``lead`` negative.

    Examples
    --------
    >>> moves, slots, lost = follow(np.array([6, 7, 6, 1, 2, 1]), 3, 2, 64, 8)
    >>> moves.tolist(), slots.tolist(), lost
    ([19, 4], [29], 0.0)
    """
    for name, value in (("runs", runs), ("segment", segment), ("window", window)):
        _check_integer(name, value, 1, 1 << 48)
    _check_integer("lead", lead, 0, window)
    plain = np.ascontiguousarray(counts, np.int64)
    moves, slots, lost = twin(__name__, plain).follow(plain, runs, segment, window, lead)
    return moves, slots, float(lost)


def _fault(starts: Any, slots: int, size: int, step: int) -> str:
    """What is wrong with the windows of ``size`` positions; empty if nothing."""
    if not isinstance(starts, np.ndarray) or starts.dtype != np.int64 or starts.shape != (-(-size // step),):
        return f"starts are {checks.kind(starts)}, {size} positions have {-(-size // step)} steps of {step}"
    if starts.size and not 0 <= int(starts.min()) <= int(starts.max()) <= slots:
        return f"starts from {starts.min()} to {starts.max()}, within a stream of {slots} bits"
    return ""


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise refuse(name, found=repr(value), allowed=f"an integer from {low} to {high}")

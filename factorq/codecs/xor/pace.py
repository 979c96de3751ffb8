"""Where the windows of a banded network stand: how fast they move over the positions, and what that costs to store.

The positions that matter come at an uneven rate, and at most a window of them can wait. Windows that move at one rate
for all positions (:func:`steady`) need spare bits for the crowds: a random walk. Windows whose rate follows the count
of each block (:func:`followed`) need none, but a number per block: some 8 bits for thousands of weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError
from ...kernels import banded, rans
from ...kernels import bits as bits_kernel
from .parts import Reader, Writer

Indices = NDArray[np.int64]

RUN = 64  # positions that are counted together
_POINTS = 128  # of a block, at which its queue is looked at
_SEGMENT = 1 << 22  # positions solved together if paced: 24 bytes of memory for each bit of theirs
_SAMPLE = 1 << 21  # positions on which sizes of blocks are tried
_FRACTION = 20  # binary digits of a steady rate
_SLACKS = (0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.012, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2)
_CROWDS = (600, 1200, 2400, 4800, 9600)  # bits per block that are tried


@dataclass(frozen=True, eq=False)
class Pace:
    """The windows of all steps, in segments that are solved one by one.

    Parameters
    ----------
    starts : NDArray of int64, (steps,)
        Where the window of each step begins, in the stream of its segment.
    steps : int
        Steps per segment.
    slots : tuple of int
        Bits of each segment.
    """

    starts: Indices
    steps: int
    slots: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of a plane: each segment begins at a byte."""
        return sum(-(-slots // 8) for slots in self.slots)


def counts_of(care: NDArray[np.bool_]) -> Indices:
    """Positions that matter in each run of 64."""
    packed = np.zeros(-(-care.size // RUN) * RUN // 8, np.uint8)
    packed[: -(-care.size // 8)] = np.packbits(care)
    return np.bitwise_count(packed.view(np.uint64)).astype(np.int64)


# --- one rate ---------------------------------------------------------------------------------------------------------


def steady(counts: Indices, size: int, network: banded.Network, slack: float | None, writer: Writer) -> Pace:
    """One rate for all: ``1 + slack`` bits per position that matters, or the slack of the smallest total."""
    count, shift = int(counts.sum()), _FRACTION
    tried = []
    for share in _SLACKS if slack is None else (slack,):
        rate = round(count / max(size, 1) * (1 + share) * network.step * (1 << shift))
        lost, left = banded.waiting(counts, _of_runs(_at_rate(rate, size, network.step), network, size), network.window)
        tried.append((rate, left, count * share + _price(lost, count)))
    rate, left, _ = min(tried, key=lambda trial: trial[2])
    steps = -(-size // network.step)
    slots = (((steps * rate) >> shift) + left + banded.SPARE,) if size else ()
    writer.numbers(rate, *slots)
    return Pace(_at_rate(rate, size, network.step), max(steps, 1), slots)


def read_steady(reader: Reader, size: int, network: banded.Network) -> Pace:
    rate = reader.number(1 << 40)
    end = reader.number(1 << 48) if size else 0
    steps = -(-size // network.step)
    if (steps * rate) >> _FRACTION > end:
        raise ArtifactError("xor: windows that move beyond the end of the stream")
    return Pace(_at_rate(rate, size, network.step), max(steps, 1), (end,) if size else ())


def _at_rate(rate: int, size: int, step: int) -> Indices:
    return (np.arange(-(-size // step)) * rate) >> _FRACTION


def _of_runs(starts: Indices, network: banded.Network, size: int) -> Indices:
    """Where the windows of each run of 64 positions begin."""
    within = network.offsets[::RUN]
    return (starts[:, None] + within).reshape(-1)[: -(-size // RUN)]


def _price(lost: int, count: int) -> float:
    """Bits of the patches: half of the equations that are lost hold by chance."""
    return 0.0 if not lost else lost / 2 * (_log2(2 * count / lost) + 1.44)


# --- a rate per block -------------------------------------------------------------------------------------------------


def followed(counts: Indices, size: int, network: banded.Network, slack: float, writer: Writer) -> Pace:
    """A rate for each block of a size that makes the whole smallest, and ``slack`` more."""
    if not size:
        return Pace(np.zeros(0, np.int64), 1, ())
    density = max(int(counts.sum()) / size, 1e-9)
    blocks = {_block(crowd / density, network.step) for crowd in _CROWDS}
    part = _sample(counts, max(blocks))
    block = min(sorted(blocks), key=lambda b: _planned(part, b, network.window)[2])
    moves, slots, _ = _planned(counts, block, network.window)
    moves = np.rint(moves * (1 + slack)).astype(np.int64)
    least = int(moves.min())
    moves = np.minimum(moves, least + 65535)
    found = _paced(moves, block, size, network, slots)
    ends = np.maximum.reduceat(found.starts, np.arange(0, found.starts.size, found.steps)).tolist()
    slots = tuple(max(math.ceil(s * (1 + slack)), end) for s, end in zip(slots, ends, strict=True))
    width = max(int(moves.max() - least).bit_length(), 1)
    codes = (moves - least).astype(np.uint8 if width <= 8 else np.uint16)
    writer.numbers((block // network.step).bit_length() - 1, least, width, *slots)
    packed, coded = bits_kernel.pack(codes, width), rans.pack(codes, width)
    writer.numbers(int(coded.nbytes < packed.nbytes))
    writer.section(min(packed, coded, key=lambda stream: stream.nbytes))
    return replace(found, slots=slots)


def read_followed(reader: Reader, size: int, network: banded.Network) -> Pace:
    if not size:
        return Pace(np.zeros(0, np.int64), 1, ())
    block = network.step << reader.number(40)
    least, width = reader.number(1 << 40), reader.number(16)
    if width < 1 or block > max(_SEGMENT, network.step):
        raise ArtifactError("xor: malformed pace")
    slots = tuple(reader.number(1 << 48) for _ in range(-(-size // _segment(block))))
    unpack = rans.unpack if reader.number(1) else bits_kernel.unpack
    moves = np.asarray(unpack(reader.section(), width, -(-size // block))).astype(np.int64) + least
    pace = _paced(moves, block, size, network, slots)
    ends = np.array(slots, np.int64)[np.arange(pace.starts.size) // pace.steps]
    if (pace.starts > ends).any():
        raise ArtifactError("xor: windows that move beyond the end of the stream")
    return pace


def _sample(counts: Indices, block: int) -> Indices:
    """Sixteen stretches from all over the array, of whole blocks."""
    stretch = -(-_SAMPLE // 16 // block) * block // RUN
    if counts.size <= 16 * stretch:
        return counts
    firsts = np.arange(16) * (counts.size - stretch) // 15
    return np.concatenate([counts[first : first + stretch] for first in firsts])


def _block(positions: float, step: int) -> int:
    """A power of two times the step, near ``positions``, that divides a segment."""
    power = max(int(2 * (positions / step) ** 2).bit_length() - 1, 0) // 2  # the rounded logarithm
    return min(step << power, max(_SEGMENT, step))


def _log2(x: float) -> float:
    """The logarithm in steps of 1/32, the same on every machine: it decides what is written."""
    return (int(max(x, 1.0)) ** 32).bit_length() / 32


def _segment(block: int) -> int:
    return max(_SEGMENT // block, 1) * block


def _lead(window: int) -> int:
    """Equations that should wait, so that neither a crowd overflows the window nor a gap wastes bits."""
    return int(0.36 * window)


def _paced(moves: Indices, block: int, size: int, network: banded.Network, slots: tuple[int, ...]) -> Pace:
    """Within a block the windows move evenly; a segment begins ``_lead`` bits before its first."""
    per_block, per_segment = block // network.step, _segment(block) // block
    before = np.zeros(moves.size, np.int64)
    for first in range(0, moves.size, per_segment):
        part = moves[first : first + per_segment]
        before[first : first + per_segment] = np.cumsum(part) - part - _lead(network.window)
    steps = np.arange(-(-size // network.step))
    b = steps // per_block
    starts = before[b] + ((steps % per_block) * moves[b]) // per_block
    return Pace(np.maximum(starts, 0), per_block * per_segment, slots)


def _planned(counts: Indices, block: int, window: int) -> tuple[Indices, tuple[int, ...], float]:
    """How far the windows move in each block, the bits of each segment, and an estimate of all stored bits."""
    fine = max(block // RUN // _POINTS, 1)
    sums = np.add.reduceat(counts, np.arange(0, counts.size, fine))
    moves, slots, lost = banded.follow(sums, block // RUN // fine, _segment(block) // block, window, _lead(window))
    total, squares = int(moves.sum()), int((moves * moves).sum())
    variance = (moves.size * squares - total * total) // moves.size**2
    numbers = moves.size * _log2(1 + 17 * variance) / 2  # the entropy of a Gaussian, lg sqrt(2 pi e variance)
    return moves, tuple(slots.tolist()), float(slots.sum() + numbers + _price(int(lost), int(counts.sum())))

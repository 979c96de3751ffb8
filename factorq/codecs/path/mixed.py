"""Paths with probabilities that adapt to the neighbourhood of each weight: for arrays too small to pay for tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError
from ...kernels import mixing as kernel
from ...kernels.threads import each
from ...kernels.trellis import machine
from .blocks import Block, Layout, blocks, extent
from .search import MOST, Classes, Rates, find, first_rates, too_fine

WEIGHTS = 1 << 18  # per block: each learns anew, which takes some hundred bytes
_PASSES = 2  # of search at the rates that the model showed before; more move the gap by less than .002 bit
_PRIOR = 8.0  # weights that the geometric prior of a class counts for


@dataclass(frozen=True, eq=False)
class Mixed:
    """A stream of adaptive code that was parsed: where learning starts, and the bytes of each block."""

    spread: int
    pieces: list[NDArray[np.uint8]]

    def block(self, index: int, place: Block, layout: Layout, states: int) -> NDArray[np.int32]:
        """The integers (n,) of one block."""
        trellis = machine(states)
        size = extent(layout, place)
        piece = self.pieces[index].copy()  # writable: a read-only array would be compiled for again
        return kernel.decode(piece, size, trellis.parity, trellis.successor, self.spread).reshape(-1)


def encode(core: NDArray[np.float32], states: int) -> bytes:
    """The stream of ``core`` (P, R, C) in steps, searched with the rates that the model showed in the pass before."""
    grid = blocks(core.shape, WEIGHTS)
    labels = np.zeros(core.shape, np.uint8)
    rates = first_rates(core, labels, states)
    for _ in range(0 if too_fine(core) else _PASSES):
        k = find(core, labels, rates, states, grid)
        spread = kernel.spread_of(k, states)
        labels = _labels(k, states, spread, grid)
        rates = _rates(k, labels, states)
    return write(find(core, labels, rates, states, grid), states, grid)


def write_path(k: NDArray[np.int32], states: int) -> bytes:
    """The stream of the integers ``k`` (P, R, C) as they are."""
    return write(k, states, blocks(k.shape, WEIGHTS))


def write(k: NDArray[np.int32], states: int, grid: list[Block]) -> bytes:
    """The stream of the integers ``k`` (P, R, C)."""
    trellis = machine(states)
    spread = kernel.spread_of(k, states)

    def encode(place: Block) -> bytes:
        return kernel.encode(_block(k, place), trellis.parity, trellis.successor, spread).tobytes()

    pieces = each(encode, grid)
    directory = np.array([len(piece) for piece in pieces], "<u4").tobytes() if len(pieces) > 1 else b""
    return b"".join([bytes([spread]), directory, *pieces])


def parse(stream: NDArray[np.uint8], layout: Layout, states: int) -> Mixed:
    """What :func:`write` wrote.

    Raises
    ------
    ArtifactError
        If the stream does not hold what its directory says.
    """
    grid = blocks(layout, WEIGHTS)
    at = 1 + (4 * len(grid) if len(grid) > 1 else 0)
    if len(stream) < at:
        raise ArtifactError(f"path: a stream of {len(stream)} bytes for {len(grid)} blocks")
    lengths = np.frombuffer(stream, "<u4", len(grid), 1) if len(grid) > 1 else np.array([len(stream) - 1])
    ends = at + np.cumsum(lengths, dtype=np.int64)
    if ends[-1] != len(stream):
        raise ArtifactError(f"path: {len(stream)} bytes, {int(ends[-1])} in the directory")
    return Mixed(
        int(stream[0]), [stream[end - n : end] for end, n in zip(ends.tolist(), lengths.tolist(), strict=True)]
    )


def prices(parsed: Mixed, k: NDArray[np.int32], states: int, grid: list[Block]) -> tuple[Classes, Rates]:
    """The class of scale in which the model sees each of the integers ``k``, and what those of a class cost in bits."""
    labels = _labels(k, states, parsed.spread, grid)
    return labels, _rates(k, labels, states)


def _block(k: NDArray[np.int32], place: Block) -> NDArray[np.int32]:
    return np.ascontiguousarray(k[:, place[0], place[1]])


def _labels(k: NDArray[np.int32], states: int, spread: int, grid: list[Block]) -> NDArray[np.uint8]:
    """The class of scale in which the model sees each integer."""
    trellis = machine(states)
    labels = np.empty(k.shape, np.uint8)
    for place in grid:
        seen = kernel.classes(_block(k, place), trellis.parity, trellis.successor, spread)
        labels[:, place[0], place[1]] = seen
    return labels


def _rates(k: NDArray[np.int32], labels: NDArray[np.uint8], states: int) -> Rates:
    """Bits (classes, 2 K + 1) of the integers of each class inside their union, by counts and a geometric prior."""
    width = 2 * MOST + 1
    value = np.arange(-MOST, MOST + 1)
    union = int(states > 1)
    flat = labels * np.int64(width) + np.clip(k, -MOST, MOST) + MOST
    counts = np.bincount(flat.reshape(-1), minlength=kernel.LABELS * width).reshape(kernel.LABELS, width)
    mean = 2.0 ** ((np.arange(kernel.LABELS)[:, None] - 15.75) / 2)
    magnitude = (np.abs(value) - (value & union)) >> union
    q = mean / (1 + mean)
    prior = np.maximum((1 - q) * q**magnitude, 1e-30) * np.where(value == 0, 1.0, 0.5)
    bits = np.empty((kernel.LABELS, width), np.float32)
    for parity in range(1 + union):
        same = (value & union) == parity
        blended = counts[:, same] + _PRIOR * prior[:, same]
        bits[:, same] = np.log2(blended.sum(axis=1, keepdims=True)) - np.log2(blended)
    return bits

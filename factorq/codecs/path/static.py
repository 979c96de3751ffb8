"""Paths with static tables: one per class of rows and parity, blocks of words with a directory."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError
from ...kernels import path as kernel
from ...kernels.threads import each
from ...kernels.trellis import machine
from .blocks import Block, Layout, blocks, cut, extent
from .search import MOST, Classes, Rates, find, first_rates, too_fine

WEIGHTS = 1 << 15  # per block: two states and an entry of the directory cost 96 bits, 0.003 bits per weight
_HEAD = struct.Struct("<BbhHB")
MOST_CLASSES = 16
_SAMPLE = 1 << 18  # weights on which tables are fitted before all are searched
_PASSES = 2  # of search and new tables; a third moves the gap by less than .0005 bit


@dataclass(frozen=True, eq=False)
class Static:
    """A stream of static tables that was parsed: everything but the integers.

    Parameters
    ----------
    coder : Coder
        The tables.
    classes : NDArray, (P, R) uint8
        The class of each row.
    offsets : NDArray, (blocks + 1,) int64
        Where the words of each block begin.
    words : NDArray, (n,) uint16
        The words of all blocks, a view of the stream.
    """

    coder: kernel.Coder
    classes: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    words: NDArray[np.uint16]

    def block(self, index: int, place: Block, layout: Layout, states: int) -> NDArray[np.int32]:
        """The integers (n,) of one block."""
        size = extent(layout, place)
        words = self.words[self.offsets[index] : self.offsets[index + 1]].astype(np.uint16)  # aligned, writable
        return kernel.decode(words, _rows(self.classes, place), size[2], self.coder, machine(states), math.prod(size))


def encode(core: NDArray[np.float32], states: int) -> bytes:
    """The smallest stream of ``core`` (P, R, C) in steps: tables by plane, or by classes of rows of about one scale."""
    rows, rates = _classes(core, states)
    grid = blocks(core.shape, WEIGHTS)
    k = find(core, spread(rows, core.shape), rates, states, grid)
    coder = kernel.Coder.fit(k.reshape(-1), rows.reshape(-1), core.shape[2], machine(states))
    return write(k, grid, rows, coder)


def write_path(k: NDArray[np.int32], states: int) -> bytes:
    """The smallest stream of the integers ``k`` (P, R, C) as they are."""
    grid = blocks(k.shape, WEIGHTS)

    def written(rows: NDArray[np.uint8]) -> bytes:
        return write(k, grid, rows, kernel.Coder.fit(k.reshape(-1), rows.reshape(-1), k.shape[2], machine(states)))

    plain = written(by_plane(k.shape))
    many = k.shape[0] * k.shape[1] > 1
    return min(plain, written(by_scale(k)), key=len) if many and _scale_gain(k) > 4 / k.shape[2] else plain


def _classes(core: NDArray[np.float32], states: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Classes (P, R) of the rows, by plane or by scale, and the costs of the integers of each, tried on a sample."""
    layout = core.shape
    sample = _sampled_rows(core)
    part = core[:, sample]
    share = len(sample) / layout[1]
    bits, rates = _tables(part, by_plane(part.shape), states, share)
    if layout[0] * layout[1] > 1 and _scale_gain(part) > 4 / layout[2]:
        scaled_bits, _ = _tables(part, by_scale(part), states, share)
        if scaled_bits + 4 * layout[0] * len(sample) < bits:
            rows = by_scale(core)
            rates = _tables(part, rows[:, sample], states, share)[1]
            missing = int(rows.max()) + 1 - len(rates)  # classes of larger rows than the sample has
            return rows, np.concatenate([rates, np.repeat(rates[-1:], missing, axis=0)])
    return by_plane(layout), rates


def _tables(
    core: NDArray[np.float32], rows: NDArray[np.uint8], states: int, share: float
) -> tuple[float, NDArray[np.float32]]:
    """Bits of ``core`` with a share of the tables fitted to it, and the costs of the integers of each class."""
    core, classes = np.ascontiguousarray(core), spread(rows, core.shape)
    grid = blocks(core.shape, WEIGHTS)
    rates = first_rates(core, classes, states)
    for _ in range(_PASSES):
        k = find(core, classes, rates, states, grid)
        coder = kernel.Coder.fit(k.reshape(-1), rows.reshape(-1), core.shape[2], machine(states))
        bits = coder.bits(MOST)
        rates = rates if too_fine(core) else bits
    cost = bits[classes, np.clip(k, -MOST, MOST) + MOST].sum(dtype=np.float64)
    return float(cost) + 8 * share * coder.entries.size, rates


def write(k: NDArray[np.int32], grid: list[Block], classes: NDArray[np.uint8], coder: kernel.Coder) -> bytes:
    """The stream of the integers ``k`` (P, R, C); ``classes`` (P, R) are stored unless they number the planes."""
    layout = k.shape

    def encode(block: Block) -> NDArray[np.uint16]:
        return kernel.encode(cut(k, block), _rows(classes, block), extent(layout, block)[2], coder)

    words = each(encode, grid)
    own = not np.array_equal(classes, by_plane(layout))
    count = int(classes.max(initial=0)) + 1 if own else 0
    head = _HEAD.pack(coder.union, coder.drop, coder.least, coder.entries.shape[1], count)
    packed = _pack_classes(classes) if own else b""
    directory = np.array([len(w) for w in words], "<u4").tobytes() if len(words) > 1 else b""
    return b"".join([head, coder.entries.tobytes(), packed, directory, *(w.astype("<u2").tobytes() for w in words)])


def parse(stream: NDArray[np.uint8], layout: Layout, states: int) -> Static:
    """What :func:`write` wrote.

    Raises
    ------
    ArtifactError
        If the stream does not hold what its head and the layout ask for.
    """
    if len(stream) < _HEAD.size:
        raise ArtifactError(f"path: a stream of {len(stream)} bytes")
    union, drop, least, symbols, count = _HEAD.unpack(stream[: _HEAD.size].tobytes())
    low = drop - union
    if union != (states > 1) or not 0 <= low <= kernel.MOST_LOW or not 1 <= symbols <= 256 or count > MOST_CLASSES:
        raise ArtifactError("path: the head of its stream is out of range")
    rows = layout[0] * layout[1]
    tables = (count or int(by_plane(layout).max(initial=0)) + 1) << union
    grid = blocks(layout, WEIGHTS)
    sizes = (tables * symbols, (rows + 1) // 2 if count else 0, 4 * len(grid) if len(grid) > 1 else 0)
    at = _HEAD.size + np.cumsum((0, *sizes))
    if at[-1] > len(stream) or (len(stream) - at[-1]) % 2:
        raise ArtifactError(f"path: a stream of {len(stream)} bytes with tables and a directory of {at[-1]}")
    entries = np.frombuffer(stream, np.uint8, sizes[0], at[0]).reshape(tables, symbols).copy()
    classes = _unpack_classes(stream[at[1] : at[2]], layout) if count else by_plane(layout)
    if int(classes.max(initial=0)) >= tables >> union:
        raise ArtifactError(f"path: a row of class {int(classes.max())} among {tables >> union}")
    words = np.frombuffer(stream, "<u2", offset=at[3])  # a view: the stream is all that is kept of it
    lengths = np.frombuffer(stream, "<u4", len(grid), at[2]) if sizes[2] else np.array([len(words)])
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if offsets[-1] != len(words):
        raise ArtifactError(f"path: {len(words)} words, {int(offsets[-1])} in the directory")
    return Static(kernel.Coder(union, drop, least, entries), classes, offsets, words)


def prices(parsed: Static, k: NDArray[np.int32], states: int, grid: list[Block]) -> tuple[Classes, Rates]:
    """The class of each entry, and the bits that its integers cost in the stream."""
    return spread(parsed.classes, k.shape), parsed.coder.bits(MOST)


def by_plane(layout: Layout) -> NDArray[np.uint8]:
    """Classes (P, R) that number the planes, or one class for all of very many."""
    planes, rows, _ = layout
    number = np.arange(planes, dtype=np.uint8) if planes <= MOST_CLASSES else np.zeros(planes, np.uint8)
    return np.ascontiguousarray(np.broadcast_to(number[:, None], (planes, rows)))


def by_scale(core: NDArray[Any], count: int = MOST_CLASSES) -> NDArray[np.uint8]:
    """Classes (P, R) of rows of about the same root mean square, a quarter of an octave each or wider."""
    power = np.sqrt(np.mean(np.square(core, dtype=np.float64), axis=2))
    scale = np.log2(np.maximum(power, 1e-30))
    low, high = np.quantile(scale, (0.01, 0.99))
    width = max(0.25, (high - low) / (count - 1))
    number = np.clip(np.rint((scale - low) / width), 0, count - 1).astype(np.uint8)
    return np.asarray(np.searchsorted(np.unique(number), number), np.uint8)


def _sampled_rows(core: NDArray[np.float32]) -> NDArray[np.int64]:
    """Evenly spaced rows of about ``_SAMPLE`` entries; all of a smaller array or of one with few rows."""
    rows = core.shape[1]
    return np.arange(0, rows, max(1, min(rows // 8, core.size // _SAMPLE)))


def _scale_gain(core: NDArray[Any]) -> float:
    """Bits per weight that classes of rows can save, before the 4 bits for each row: ``ln(2) * var(log2 scale)``."""
    scale = np.log2(np.maximum(np.sqrt(np.mean(np.square(core), axis=2, dtype=np.float64)), 1e-6))
    return math.log(2) * float(np.mean((scale - scale.mean(axis=1, keepdims=True)) ** 2))


def _rows(classes: NDArray[np.uint8], block: Block) -> NDArray[np.uint8]:
    return np.ascontiguousarray(classes[:, block[0]]).reshape(-1)


def spread(classes: NDArray[np.uint8], layout: tuple[int, ...]) -> NDArray[np.uint8]:
    """The class of each entry, a view."""
    return np.broadcast_to(classes[:, :, None], layout)


def _pack_classes(classes: NDArray[np.uint8]) -> bytes:
    flat = classes.reshape(-1)
    pairs = np.zeros(flat.size + 1 & ~1, np.uint8)
    pairs[: flat.size] = flat
    return (pairs[0::2] | pairs[1::2] << 4).astype(np.uint8).tobytes()


def _unpack_classes(packed: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    planes, rows, _ = layout
    flat = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[: planes * rows]
    return np.ascontiguousarray(flat.reshape(planes, rows))

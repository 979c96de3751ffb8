"""Streams of :mod:`.stream` read back: the header once, then the codes of any range from the blocks they lie in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError
from .. import bits as bits_kernel
from .. import twin
from . import tables as table
from .classes import COLUMNS, NONE, ROWS, expanded, width_of

BLOCK = 1 << 16
MOST_WIDTH = 12  # bits of a symbol
_RECENT = 4  # decoded blocks that are kept: ranges that follow each other lie in the same ones
_ONE_LANE = 1 << 15  # symbols up to which the smaller blocks of one lane are worth their time


def holds(stream: NDArray[np.uint8], size: int) -> bool:
    """Whether ``size`` codes could be in the stream: all blocks but the first take an entry of the directory."""
    return size <= BLOCK * (1 + stream.size // 4)


def unpack(stream: NDArray[np.uint8], bits: int, size: int, columns: tuple[int, ...] = ()) -> NDArray[Any]:
    """Read codes (size,) from a stream (k,): the inverse of :func:`pack`, safe on any stream.

    Parameters
    ----------
    stream : (k,) array of uint8, contiguous
    bits, columns
        As for :func:`pack`.
    size : int
        Number of codes; a damaged stream may ask for the memory of 65,536 for every 4 of its bytes.

    Returns
    -------
    (size,) array of uint8 (bits <= 8) or uint16

    Raises
    ------
    ArtifactError
        If the stream is truncated or corrupted.
    """
    return Stream.opened(stream, bits, size, columns).read(0, size)


@dataclass(frozen=True, eq=False)
class Stream:
    """Codes (size,) of which parts can be decoded.

    Parameters
    ----------
    bits, size, raw : int
        Bits of a code, number of codes, low bits that are not in a symbol.
    kind, columns, labels
        The classes, as in :class:`.classes.Classes`.
    freqs : NDArray, (C, 2**(bits - raw)) int64
        Their tables.
    low, words : NDArray, (k,) uint8
        Views of the stream: the packed low bits, and the bytes of the words of all blocks.
    offsets : NDArray, (blocks + 1,) int64
        The words before each block.
    """

    bits: int
    size: int
    raw: int
    kind: int
    columns: int
    labels: NDArray[np.int64]
    freqs: NDArray[np.int64]
    low: NDArray[np.uint8]
    words: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    recent: list[tuple[int, NDArray[Any]]] = field(default_factory=list)

    @classmethod
    def opened(cls, stream: NDArray[np.uint8], bits: int, size: int, columns: tuple[int, ...] = ()) -> Stream:
        """Read the header and the directory of ``stream``: arguments and errors as of :func:`unpack`."""
        if not size:
            if stream.size:
                raise ArtifactError(f"rans: found {stream.size} bytes for no codes")
            none = np.empty(0, np.int64)
            return cls(bits, 0, 0, NONE, 0, none, none.reshape(0, 0), stream, stream, np.zeros(1, np.int64))
        if not holds(stream, size):
            raise ArtifactError(f"rans: {stream.size} bytes do not hold {size} codes")
        reader = _Bits(stream)
        raw, kind, labels, chosen, freqs = _read_header(reader, bits, size, columns)
        count, at = -(-size // BLOCK), -(-reader.at // 8)
        low_at = at + 4 * (count - 1)
        words_at = low_at + (bits_kernel.packed_size(size, raw) if raw else 0)
        if words_at > stream.size or (stream.size - words_at) % 2:
            raise ArtifactError(f"rans: {stream.size} bytes do not hold {size} codes")
        words = stream[words_at:]
        sizes = stream[at:low_at].copy().view("<u4").astype(np.int64)
        sizes = np.append(sizes, words.size // 2 - int(sizes.sum()))
        if int(sizes.min()) < 2 * lanes_of(size):
            raise ArtifactError(f"rans: the directory of {count} blocks does not fit {words.size // 2} words")
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        return cls(bits, size, raw, kind, chosen, labels, freqs, stream[low_at:words_at], words, offsets)

    def read(self, first: int, stop: int) -> NDArray[Any]:
        """Codes ``first`` to ``stop``, uint8 (bits <= 8) or uint16, from the blocks of 65,536 codes that hold them.

        Raises
        ------
        ArtifactError
            If one of these blocks is corrupted.
        """
        if first >= stop:
            return self._blocks(0, 0)
        top, low = first // BLOCK, -(-stop // BLOCK)
        if low - top > _RECENT:
            codes = self._blocks(top, low)
        else:
            blocks = [self._block(index) for index in range(top, low)]
            codes = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return codes[first - top * BLOCK : stop - top * BLOCK]

    def _block(self, index: int) -> NDArray[Any]:
        for known, codes in tuple(self.recent):
            if known == index:
                return codes
        codes = self._blocks(index, index + 1)
        self.recent.append((index, codes))
        del self.recent[:-_RECENT]
        return codes

    def _blocks(self, top: int, low: int) -> NDArray[Any]:
        """The codes of blocks ``top`` to ``low``."""
        dtype = np.dtype(np.uint8 if self.bits <= 8 else np.uint16)
        begin, end = top * BLOCK, min(low * BLOCK, self.size)
        out = np.empty(max(end - begin, 0), dtype)
        if not out.size:
            return out
        words = self.words[2 * int(self.offsets[top]) : 2 * int(self.offsets[low])].copy()
        twin(__package__, self.words).decode(
            words.view("<u2").astype(np.uint16, copy=False),
            np.diff(self.offsets[top : low + 1]),
            expanded(self.kind, self.columns, self.labels, begin, end),
            self.freqs,
            table.precision_of(self.bits - self.raw),
            lanes_of(self.size),
            BLOCK,
            out,
        )
        if self.raw:
            out <<= dtype.type(self.raw)
            packed = self.low[begin * self.raw // 8 : -(-end * self.raw // 8)]
            out |= bits_kernel.unpack(packed, self.raw, end - begin)
        return out


def placed(freqs: NDArray[np.int64], first: int, width: int) -> NDArray[np.int64]:
    """The tables (C, last - first + 1) among all symbols, (C, 2**width)."""
    full = np.zeros((len(freqs), 1 << width), np.int64)
    full[:, first : first + freqs.shape[1]] = freqs
    return full


def lanes_of(size: int) -> int:
    return 1 if size <= _ONE_LANE else 4


class _Bits:
    """Numbers from the bits of a stream."""

    def __init__(self, stream: NDArray[np.uint8]) -> None:
        self.stream, self.at = stream, 0

    def numbers(self, count: int, width: int) -> NDArray[np.int64]:
        """The next ``count`` numbers of ``width`` bits."""
        stop = self.at + count * width
        if stop > 8 * self.stream.size:
            raise ArtifactError(f"rans: {self.stream.size} bytes end in the header")
        bits = np.unpackbits(self.stream[self.at // 8 : -(-stop // 8)], bitorder="little")[self.at % 8 :]
        self.at = stop
        return np.asarray(bits[: count * width].reshape(count, width).astype(np.int64) @ (1 << np.arange(width)))

    def number(self, width: int) -> int:
        """The next number of ``width`` bits."""
        return int(self.numbers(1, width)[0])

    def levels(self, shape: tuple[int, int], order: int, most: int) -> NDArray[np.int64]:
        """The next tables of levels."""
        levels = np.empty(shape, np.int64)
        limit = self.at // 8 + 64 * levels.size // 8 + 128  # longer than any such code
        bits = np.unpackbits(self.stream[:limit], bitorder="little")
        self.at = twin(__package__, bits).read_levels(bits, self.at, order, most, levels)
        if self.at < 0 or not levels.any(axis=1).all():
            raise ArtifactError("rans: the frequency tables are corrupted")
        return levels


def _read_header(
    reader: _Bits, bits: int, size: int, columns: tuple[int, ...]
) -> tuple[int, int, NDArray[np.int64], int, NDArray[np.int64]]:
    """(raw, kind of classes, labels, columns, freqs (C, 2**(bits - raw)))."""
    raw, option, kind, tables, steps, order = (reader.number(width) for width in (4, 2, 2, 4, 3, 2))
    width, tables = bits - raw, tables + 1
    sound = 1 <= width <= MOST_WIDTH and steps < len(table.STEPS) and kind in (NONE, ROWS, COLUMNS)
    if not sound or (option >= len(columns) if kind else option or tables > 1):
        raise ArtifactError("rans: the header is corrupted")
    first, last = reader.number(width), reader.number(width)
    chosen = columns[option] if kind else 0
    rows = {NONE: 0, ROWS: size // max(chosen, 1), COLUMNS: chosen}[kind]
    labels = reader.numbers(rows, width_of(tables))
    if first > last or (rows and int(labels.max()) >= tables) or (kind and (chosen < 1 or size % chosen)):
        raise ArtifactError("rans: the header is corrupted")
    levels = reader.levels((tables, last - first + 1), order, table.most_level(steps))
    freqs = table.normalise(table.weights_of(levels, steps), table.precision_of(width))
    return raw, kind, labels, chosen, placed(freqs, first, width)

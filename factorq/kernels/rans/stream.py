"""Codes of 1 to 16 bits as one stream of bytes: tables, classes, directory, raw low bits and rANS words.

The high bits of a code are the symbol; low bits, of which nothing is to be gained, go as they are. The codes are read
as a matrix, whose rows or columns may be of several classes with a table each. All is chosen by the stored size and
written in front:

==========  =========================================================================================================
bits        4: raw low bits, 2: which of the offered numbers of columns, 2: classes of nothing, rows or columns,
            4: tables - 1, 3: steps of the tables, 2: their predictor; first and last symbol that occurs, in as many
            bits as a symbol has; the class of each row or column; the levels of the tables; padded to a byte
directory   uint32 per block but the last: its words
low bits    packed
words       uint16 of all blocks
==========  =========================================================================================================

All little-endian, lowest bit first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError
from .. import bits as bits_kernel
from .. import twin
from . import tables as table
from .classes import COLUMNS, NONE, ROWS, Classes, alike, expanded, parted, width_of

_ONE_LANE = 1 << 15  # symbols up to which the smaller blocks of one lane are worth their time
_BLOCK = 1 << 16
_MOST_WIDTH = 12  # bits of a symbol
_NO_CONTEXTS = np.empty(0, np.uint8)


@dataclass(frozen=True, eq=False)
class Plan:
    """How codes are split and coded, and the bits that takes."""

    raw: int
    first: int
    classes: Classes
    tables: table.Tables
    cost: float


def pack(codes: NDArray[Any], bits: int, columns: tuple[int, ...] = ()) -> NDArray[np.uint8]:
    """Write codes (n,) of ``bits`` bits as a stream (k,), as short as the choices above make it.

    Parameters
    ----------
    codes : (n,) array of uint8 (bits <= 8) or uint16
        Below ``2**bits``.
    bits : int
        1 to 16.
    columns : tuple of int
        Up to 4 widths of the matrix as which the codes may be read to find classes; each divides n.

    Returns
    -------
    (k,) array of uint8
    """
    if not codes.size:
        return np.empty(0, np.uint8)
    codes = np.ascontiguousarray(codes)
    plan = _planned(codes, bits, columns)
    width = bits - plan.raw
    words, sizes = twin(__package__, codes).encode(
        codes >> plan.raw if plan.raw else codes,
        plan.classes.contexts(codes.size),
        _placed(plan.tables.freqs, plan.first, width),
        table.precision_of(width),
        _lanes(codes.size),
        _BLOCK,
    )
    parts = [_header(plan, width), sizes[:-1].astype("<u4").view(np.uint8)]
    if plan.raw:
        parts.append(bits_kernel.pack(codes.astype(np.uint8 if plan.raw <= 8 else np.uint16, copy=False), plan.raw))
    return np.concatenate([*parts, words.astype("<u2", copy=False).view(np.uint8)])


def holds(stream: NDArray[np.uint8], size: int) -> bool:
    """Whether ``size`` codes could be in the stream: all blocks but the first take an entry of the directory."""
    return size <= _BLOCK * (1 + stream.size // 4)


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
    dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
    if not size:
        if stream.size:
            raise ArtifactError(f"rans: found {stream.size} bytes for no codes")
        return np.empty(0, dtype)
    if not holds(stream, size):
        raise ArtifactError(f"rans: {stream.size} bytes do not hold {size} codes")
    reader = _Bits(stream)
    raw, kind, labels, chosen, freqs = _read_header(reader, bits, size, columns)
    precision, lanes, at = table.precision_of(bits - raw), _lanes(size), -(-reader.at // 8)
    count = -(-size // _BLOCK)
    low_at, words_at = at + 4 * (count - 1), at + 4 * (count - 1) + (bits_kernel.packed_size(size, raw) if raw else 0)
    if words_at > stream.size or (stream.size - words_at) % 2:
        raise ArtifactError(f"rans: {stream.size} bytes do not hold {size} codes")
    words = stream[words_at:].copy().view("<u2").astype(np.uint16, copy=False)
    sizes = stream[at:low_at].copy().view("<u4").astype(np.int64)
    sizes = np.append(sizes, words.size - int(sizes.sum()))
    if int(sizes.min()) < 2 * lanes:
        raise ArtifactError(f"rans: the directory of {count} blocks does not fit {words.size} words")
    out = np.empty(size, dtype)
    contexts = expanded(kind, chosen, labels, size)
    twin(__package__, stream).decode(words, sizes, contexts, freqs, precision, lanes, _BLOCK, out)
    if raw:
        out <<= dtype.type(raw)
        out |= bits_kernel.unpack(stream[low_at:words_at], raw, size)
    return out


def _planned(codes: NDArray[Any], bits: int, columns: tuple[int, ...]) -> Plan:
    """The cheapest split with one table, then the cheapest classes for it."""
    counts = np.zeros((1, 1 << bits), np.int64)
    twin(__package__, codes).histogram(codes, codes.size, True, counts)
    best = min(
        (
            _tabled(alike(counts.reshape(1, -1, 1 << raw).sum(axis=2)), raw, codes.size, bits - raw)
            for raw in range(max(bits - _MOST_WIDTH, 0), bits)
        ),
        key=lambda plan: plan.cost,
    )
    high, width = codes >> best.raw if best.raw else codes, bits - best.raw
    # Fitting the tables of all takes most of the time for small arrays; the best one is among the two best of a guess.
    likely = sorted(parted(high, width, columns), key=lambda classes: classes.guess)[:2]
    plans = [_tabled(classes, best.raw, codes.size, width) for classes in likely]
    return min([best, *plans], key=lambda plan: plan.cost)


def _tabled(classes: Classes, raw: int, size: int, width: int) -> Plan:
    occurs = np.flatnonzero(classes.counts.any(axis=0))
    first, last = int(occurs[0]), int(occurs[-1])
    tables = table.fitted(np.ascontiguousarray(classes.counts[:, first : last + 1]), table.precision_of(width))
    return Plan(raw, first, classes, tables, tables.cost + classes.nbits + 2 * width + raw * size)


def _placed(freqs: NDArray[np.int64], first: int, width: int) -> NDArray[np.int64]:
    """The tables (C, last - first + 1) among all symbols, (C, 2**width)."""
    full = np.zeros((len(freqs), 1 << width), np.int64)
    full[:, first : first + freqs.shape[1]] = freqs
    return full


def _lanes(size: int) -> int:
    return 1 if size <= _ONE_LANE else 4


def _header(plan: Plan, width: int) -> NDArray[np.uint8]:
    classes, tables = plan.classes, plan.tables
    last = plan.first + tables.levels.shape[1] - 1
    fields = [
        (plan.raw, 4), (classes.option, 2), (classes.kind, 2), (len(tables.levels) - 1, 4),
        (tables.steps, 3), (tables.order, 2), (plan.first, width), (last, width),
    ]  # fmt: skip
    pieces = [_binary(np.array([value]), size) for value, size in fields]
    levels = np.empty(64 * tables.levels.size + 512, np.uint8)
    used = twin(__package__, levels).write_levels(tables.levels, tables.order, levels)
    pieces += [_binary(classes.labels, width_of(len(classes.counts))), levels[:used]]
    return np.packbits(np.concatenate(pieces), bitorder="little")


def _binary(values: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    return (values[:, None] >> np.arange(width) & 1).astype(np.uint8).reshape(-1)


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
    sound = 1 <= width <= _MOST_WIDTH and steps < len(table.STEPS) and kind in (NONE, ROWS, COLUMNS)
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
    return raw, kind, labels, chosen, _placed(freqs, first, width)

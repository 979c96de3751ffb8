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

from .. import bits as bits_kernel
from .. import twin
from . import tables as table
from .classes import Classes, alike, parted, width_of
from .reading import BLOCK, MOST_WIDTH, lanes_of, placed


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
        placed(plan.tables.freqs, plan.first, width),
        table.precision_of(width),
        lanes_of(codes.size),
        BLOCK,
    )
    parts = [_header(plan, width), sizes[:-1].astype("<u4").view(np.uint8)]
    if plan.raw:
        parts.append(bits_kernel.pack(codes.astype(np.uint8 if plan.raw <= 8 else np.uint16, copy=False), plan.raw))
    return np.concatenate([*parts, words.astype("<u2", copy=False).view(np.uint8)])


def _planned(codes: NDArray[Any], bits: int, columns: tuple[int, ...]) -> Plan:
    """The cheapest split with one table, then the cheapest classes for it."""
    counts = np.zeros((1, 1 << bits), np.int64)
    twin(__package__, codes).histogram(codes, codes.size, True, counts)
    best = min(
        (
            _tabled(alike(counts.reshape(1, -1, 1 << raw).sum(axis=2)), raw, codes.size, bits - raw)
            for raw in range(max(bits - MOST_WIDTH, 0), bits)
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

"""How a tile walks over the codes of some rows, group after group: what the inner loops share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ...lanes.numba_twin import number, spread, variable
from ..layout import LANES
from .blocks import Block, level, load, value
from .vectors import offset, prefetch, read, smaller

NUMBERS = ("row", "last", "base", "per_row", "row_bytes", "n", "group", "first", "stop", "panel", "height")
"""What a tile is told: its first row; the last row there is; the row at which scales and minima begin, and how many of
them a row has (one for all groups, or one each); the geometry of the matrix; the groups to go over; the panel of
columns; the columns of the result of a dot, or the rows of x of a sum."""

_LINE = 64
_AHEAD = 1 << 15
"""Bytes from codes to those that are fetched meanwhile. For 4096 x 4096 of 4 bits in four rows 0.9 ms, without 1.5."""


class Tile(NamedTuple):
    """The compile-time settings of a loop, which pass through Numba as one integer."""

    bits: int
    run: int
    times: int
    """Blocks of codes in a turn of the innermost loop."""
    rows: int
    columns: int
    minima: bool
    levels: bool

    @property
    def block(self) -> Block:
        return Block(self.bits, self.run)

    @property
    def step(self) -> int:
        """Codes of a row in a turn of the innermost loop."""
        return self.block.codes * self.times

    @property
    def number(self) -> int:
        return sum(int(setting) << 8 * i for i, setting in enumerate(self))

    @classmethod
    def of(cls, literal: Any) -> Tile:
        values = [literal.literal_value >> 8 * i & 255 for i in range(len(cls._fields))]
        return cls(*values[:5], *map(bool, values[5:]))


class Walk:
    """The way of a tile; ``a`` holds :data:`NUMBERS` and pointers to codes, scales, minima and levels."""

    def __init__(self, builder: Any, a: Any, tile: Tile) -> None:
        self.builder, self.a, self.tile = builder, a, tile
        self.rows = [smaller(builder, builder.add(a.row, number(r)), a.last) for r in range(tile.rows)]
        self.start = builder.mul(a.first, a.group)
        self.groups = builder.udiv(builder.add(a.n, builder.sub(a.group, number(1))), a.group)
        self.column = builder.mul(a.panel, number(tile.columns))
        self.tables = [read(builder, a.levels, i) for i in range(0, max(1 << tile.bits, LANES), LANES) if tile.levels]

    def entry(self) -> Any:
        """Where a panel has its first block of codes."""
        b = self.builder
        return b.add(b.mul(self.column, self.a.n), b.mul(self.start, number(self.tile.columns)))

    def of_group(self, g: Any, each: int) -> Any:
        """Where arrays of ``each`` numbers for every panel, group and column have those of a group."""
        at = self.builder.add(self.builder.mul(self.a.panel, self.groups), g)
        return self.builder.mul(at, number(self.tile.columns * each))

    def turns(self, g: Any) -> Any:
        """Turns of the innermost loop in a group."""
        left = self.builder.sub(self.a.n, self.builder.mul(g, self.a.group))
        return self.builder.udiv(smaller(self.builder, self.a.group, left), number(self.tile.step))

    def factor(self, numbers: Any, row: Any, g: Any, lanes: int = LANES) -> Any:
        """The scale or minimum of a row for a group, in all lanes."""
        b, a = self.builder, self.a
        own = b.select(b.icmp_signed("==", a.per_row, number(1)), number(0), g)
        at = b.add(b.mul(b.sub(row, a.base), a.per_row), own)
        return spread(b, b.load(b.gep(numbers, [at])), lanes)

    def starts(self) -> list[Any]:
        """Variables that point to the first codes of the rows in the first group."""
        b = self.builder
        first = b.udiv(b.mul(self.start, number(self.tile.bits)), number(8))
        return [variable(b, offset(b, self.a.codes, b.mul(row, self.a.row_bytes), first)) for row in self.rows]

    def values(self, places: list[Any]) -> Iterator[list[Any]]:
        """Step by step 8 codes of each row as floats; the variables ``places`` then point a turn further."""
        b, tile = self.builder, self.tile
        block, size = tile.block, tile.times * tile.block.nbytes
        codes = [b.load(place) for place in places]
        for pointer in codes:
            for line in range(0, size, _LINE):
                prefetch(b, offset(b, pointer, _AHEAD + line))
        for t in range(tile.times):
            lanes = [load(b, offset(b, pointer, t * block.nbytes), block) for pointer in codes]
            for k in range(block.run):
                yield [self.value(x, k) for x in lanes]
        for pointer, place in zip(codes, places, strict=True):
            b.store(offset(b, pointer, size), place)

    def value(self, lanes: Any, k: int) -> Any:
        """Code k of the lanes as floats."""
        block = self.tile.block
        return (
            level(self.builder, lanes, block, k, self.tables)
            if self.tile.levels
            else value(self.builder, lanes, block, k)
        )

"""Blocks of codes in vector registers: which bytes go to which lane, and codes as floats where they stand.

A block is ``8 * run`` codes. Lane l of eight 32-bit lanes holds the ``run`` codes from code ``l * run`` on, moved there
by whole bytes. Code k of a lane is masked where it stands: as an integer it is ``code * 2**place``, exact as a float32
since it has at most 16 digits, and the power of two is taken out of what it is multiplied with. Only the last code of
a lane is shifted down instead, where that saves the mask or the sign bit is in the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from ..layout import LANES

HALF = 16
"""Bytes of one load; four lanes of a block lie in so many."""

BYTE, INT, WORD, FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
INTS, FLOATS = ir.VectorType(INT, LANES), ir.VectorType(FLOAT, LANES)


@dataclass(frozen=True)
class Block:
    """``8 * run`` codes of ``bits`` bits."""

    bits: int
    run: int

    @property
    def codes(self) -> int:
        return LANES * self.run

    @property
    def nbytes(self) -> int:
        return self.run * self.bits

    def first(self, lane: int) -> tuple[int, int]:
        """The byte in which the codes of a lane begin, and the bit in it."""
        return divmod(lane * self.run * self.bits, 8)

    @property
    def skew(self) -> int:
        """The highest of these bits."""
        return max(self.first(lane)[1] for lane in range(LANES))

    @property
    def fits(self) -> bool:
        """Whether the codes of every lane lie in its 32 bits."""
        return self.skew + self.nbytes <= 32

    def bare(self, k: int) -> bool:
        """Whether code k is the last one of every lane, with nothing above it."""
        return self.skew == 0 and k == self.run - 1

    def shift(self, k: int) -> int:
        """How far code k of every lane is shifted down."""
        return k * self.bits if self.bare(k) or self.skew + (k + 1) * self.bits == 32 else 0

    def place(self, lane: int, k: int) -> int:
        """The power of two with which code k of a lane is read."""
        return self.first(lane)[1] + k * self.bits - self.shift(k)


def block_of(bits: int, multiple: int) -> Block:
    """The largest block for groups and rows whose lengths are multiples of ``multiple``, itself one of 8."""
    runs = (run for run in (8, 4, 2) if multiple % (LANES * run) == 0 and Block(bits, run).fits)
    return Block(bits, next(runs, 1))


def load(builder: Any, data: Any, block: Block) -> Any:
    """The lanes (8 x i32) of the block at pointer ``data``; no byte behind it is read."""
    n = block.nbytes
    if n == 2 * HALF:
        return builder.bitcast(_read(builder, data, 2 * HALF), INTS)
    starts = (0, n - HALF) if n > HALF else (0, 0)
    left = _read(builder, data, min(n, HALF))
    right = _read(builder, builder.gep(data, [ir.Constant(WORD, starts[1])]), HALF) if n > HALF else left
    both = builder.shuffle_vector(left, right, _indices(range(2 * HALF)))
    order = []
    for lane in range(LANES):
        (first, bit), half = block.first(lane), lane // (LANES // 2)
        used = (bit + n + 7) // 8
        order += [HALF * half + first - starts[half] + k if k < used else 2 * HALF for k in range(4)]
    return builder.bitcast(builder.shuffle_vector(both, ir.Constant(both.type, None), _indices(order)), INTS)


def _read(builder: Any, data: Any, count: int) -> Any:
    """``count`` bytes, with zeros behind them up to 16."""
    if count >= HALF:
        return builder.load(builder.bitcast(data, ir.PointerType(ir.VectorType(BYTE, count))), align=1)
    number = builder.load(builder.bitcast(data, ir.PointerType(ir.IntType(8 * count))), align=1)
    return builder.bitcast(builder.zext(number, ir.IntType(8 * HALF)), ir.VectorType(BYTE, HALF))


def value(builder: Any, lanes: Any, block: Block, k: int) -> Any:
    """Code k of every lane times ``2**place``: 8 x float."""
    if shift := block.shift(k):
        lanes = builder.lshr(lanes, ints([shift] * LANES))
    if not block.bare(k):
        mask = (1 << block.bits) - 1
        lanes = builder.and_(lanes, ints([mask << block.place(lane, k) for lane in range(LANES)]))
    return builder.sitofp(lanes, FLOATS)


def level(builder: Any, lanes: Any, block: Block, k: int, tables: list[Any]) -> Any:
    """The level of code k of every lane: 8 x float, from one table of 8 levels or two."""
    codes = builder.lshr(lanes, ints([block.first(lane)[1] + k * block.bits for lane in range(LANES)]))
    index = builder.and_(codes, ints([min(LANES, 1 << block.bits) - 1] * LANES))
    found = [_permute(builder, table, index) for table in tables]
    if len(found) == 1:
        return found[0]
    upper = builder.trunc(builder.lshr(codes, ints([3] * LANES)), ir.VectorType(ir.IntType(1), LANES))
    return builder.select(upper, found[1], found[0])


def _permute(builder: Any, table: Any, index: Any) -> Any:
    """table[index] lane by lane, which LLVM makes one instruction where there is one."""
    out = ir.Constant(table.type, ir.Undefined)
    for lane in range(LANES):
        at = ir.Constant(INT, lane)
        out = builder.insert_element(out, builder.extract_element(table, builder.extract_element(index, at)), at)
    return out


def ints(values: list[int]) -> Any:
    return ir.Constant(INTS, [v - (1 << 32) if v >> 31 else v for v in values])


def _indices(order: Any) -> Any:
    order = list(order)
    return ir.Constant(ir.VectorType(INT, len(order)), order)

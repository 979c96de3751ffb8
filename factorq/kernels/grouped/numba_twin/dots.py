"""Rows times columns: the inner loop of M @ x, in LLVM's vector instructions."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from ...lanes.numba_twin import inlined, multiply_add, number, sum_of, variable
from ..layout import LANES
from .blocks import FLOATS, WORD
from .vectors import hidden, offset, opened, read
from .walk import NUMBERS, Tile, Walk

_cgutils: Any = cgutils
_ARRAYS = ("codes", "scales", "minima", "levels", "x", "init", "sums", "out")


@inlined
def dot(
    typing: Any, codes: Any, scales: Any, minima: Any, levels: Any, x: Any, init: Any, sums: Any, out: Any,
    numbers: Any, tile: Any,
) -> Any:  # fmt: skip
    """out[row + i, c] += row i of the groups first..stop times column c of a panel of x, for R rows and B columns.

    R * B sums of 8 lanes stand in registers. Those of a group begin as its ``init`` and are added to those of the row,
    times its scale; with minima, ``minimum * sums`` is added too. Rows past ``last`` are ``last`` again.
    """
    spec = Tile.of(tile)
    rows, columns = range(spec.rows), range(spec.columns)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a = opened(context, builder, signature, arguments, _ARRAYS, NUMBERS)
        walk = Walk(builder, a, spec)
        codes, x = walk.starts(), variable(builder, builder.gep(a.x, [walk.entry()]))
        totals = [[variable(builder, ir.Constant(FLOATS, None)) for _ in columns] for _ in rows]
        parts = [[_cgutils.alloca_once(builder, FLOATS) for _ in columns] for _ in rows]
        with _cgutils.for_range_slice(builder, a.first, a.stop, number(1), WORD) as (g, _):
            at = walk.of_group(g, LANES)
            for c in columns:
                begin = read(builder, builder.gep(a.init, [at]), c * LANES)
                for r in rows:
                    builder.store(begin, parts[r][c])
            with _cgutils.for_range(builder, walk.turns(g)):
                start = builder.load(x)
                # With one column each row reads x for itself, as an operand of its multiplication: read for all rows,
                # x takes a register from masks and sums, which then go through memory (1.17 instead of 0.94 ms).
                views = [start, *(hidden(builder, start) if spec.columns == 1 else start for _ in rows[1:])]
                for i, values in enumerate(walk.values(codes)):
                    for r in rows:
                        for c in columns:
                            y = read(builder, views[r], (i * spec.columns + c) * LANES)
                            builder.store(multiply_add(builder, values[r], y, builder.load(parts[r][c])), parts[r][c])
                builder.store(offset(builder, start, spec.step * spec.columns), x)
            for r in rows:
                scale = walk.factor(a.scales, walk.rows[r], g)
                least = walk.factor(a.minima, walk.rows[r], g) if spec.minima else None
                for c in columns:
                    total = multiply_add(builder, scale, builder.load(parts[r][c]), builder.load(totals[r][c]))
                    if spec.minima:
                        total = multiply_add(builder, least, read(builder, builder.gep(a.sums, [at]), c * LANES), total)
                    builder.store(total, totals[r][c])
        places = [offset(builder, a.out, builder.mul(r, a.height), walk.column, c) for r in walk.rows for c in columns]
        sums = [sum_of(builder, [builder.load(totals[r][c])], LANES) for r in rows for c in columns]
        sums = [builder.fadd(builder.load(place), more) for place, more in zip(places, sums, strict=True)]
        for place, value in zip(places, sums, strict=True):  # all read before: a row may be there twice
            builder.store(value, place)
        return context.get_dummy_value()

    return types.void(codes, scales, minima, levels, x, init, sums, out, numbers, tile), generate

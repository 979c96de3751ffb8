"""The inner loops of products of a dense matrix with few columns, in LLVM's vector instructions.

Matrices are addressed by the index of a number from their start on; arguments in capitals are compile-time integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from ...lanes.numba_twin import (
    FLOAT,
    WORD,
    inlined,
    load,
    move,
    multiply_add,
    number,
    pointers,
    spread,
    store,
    sum_of,
    variable,
    vector,
)

_cgutils: Any = cgutils
_INT, _HALF = ir.IntType(32), ir.IntType(16)
WIDTH = 8
"""Numbers of a vector along a row."""
KINDS = ("float32", "float16", "bfloat16")
"""What a matrix may be stored as."""


@inlined
def dot_rows(
    typing: Any, A: Any, start: Any, pitch: Any, count: Any, x: Any, at: Any, gap: Any, out: Any, to: Any, step: Any,
    ROWS: Any, COLUMNS: Any,
) -> Any:  # fmt: skip
    """out[to + step r + c] += sum_j A[start + pitch r + j] x[at + gap c + j] for j < ``count``."""
    rows, columns = ROWS.literal_value, COLUMNS.literal_value
    chains = 2 if columns == 1 else 1

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, inputs, target = pointers(context, builder, signature, arguments, (0, 4, 7))
        start, pitch, count, at, gap, to, step = (arguments[i] for i in (1, 2, 3, 5, 6, 8, 9))
        lines = [move(builder, source, start, pitch, r) for r in range(rows)]
        places = [move(builder, inputs, at, gap, c) for c in range(columns)]
        zero = ir.Constant(vector(WIDTH), None)
        sums = [[[variable(builder, zero) for _ in range(chains)] for _ in range(columns)] for _ in range(rows)]
        rest = [[variable(builder, ir.Constant(FLOAT, 0.0)) for _ in range(columns)] for _ in range(rows)]

        def body(t: Any, which: int) -> None:
            entries = [load(builder, place, t, WIDTH) for place in places]
            for r in range(rows):
                row = load(builder, lines[r], t, WIDTH)
                for c in range(columns):
                    chain = sums[r][c][which]
                    builder.store(multiply_add(builder, row, entries[c], builder.load(chain)), chain)

        step_size = chains * WIDTH
        whole = builder.and_(count, number(-step_size))
        with _cgutils.for_range_slice(builder, number(0), whole, number(step_size), WORD) as (t, _):
            for which in range(chains):
                body(builder.add(t, number(which * WIDTH)), which)
        with _cgutils.for_range_slice(builder, whole, count, number(1), WORD) as (t, _):
            for r in range(rows):
                entry = builder.load(builder.gep(lines[r], [t]))
                for c in range(columns):
                    other = builder.load(builder.gep(places[c], [t]))
                    builder.store(multiply_add(builder, entry, other, builder.load(rest[r][c])), rest[r][c])
        for r in range(rows):
            for c in range(columns):
                total = sum_of(builder, [builder.load(chain) for chain in sums[r][c]], WIDTH)
                total = builder.fadd(total, builder.load(rest[r][c]))
                place = builder.gep(move(builder, target, to, step, r), [number(c)])
                builder.store(builder.fadd(builder.load(place), total), place)
        return context.get_dummy_value()

    return types.void(A, start, pitch, count, x, at, gap, out, to, step, ROWS, COLUMNS), generate


@inlined
def lane_rows(
    typing: Any, A: Any, start: Any, pitch: Any, along: Any, count: Any, x: Any, at: Any, out: Any, to: Any,
    ROWS: Any, LANES: Any,
) -> Any:  # fmt: skip
    """out[to + LANES r + :] += sum_j A[start + pitch r + along j] x[at + LANES j + :] for j < ``count``.

    With ``pitch`` 1 it is the transpose of A that is multiplied.
    """
    rows, lanes = ROWS.literal_value, LANES.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, inputs, target = pointers(context, builder, signature, arguments, (0, 5, 7))
        start, pitch, along, count, at, to = (arguments[i] for i in (1, 2, 3, 4, 6, 8))
        place, entries = builder.gep(target, [to]), builder.gep(inputs, [at])
        sums = [variable(builder, ir.Constant(vector(lanes), None)) for _ in range(rows)]
        with _cgutils.for_range(builder, count) as turn:
            line = move(builder, source, start, along, turn.index)
            row = load(builder, entries, builder.mul(turn.index, number(lanes)), lanes)
            for r in range(rows):
                entry = builder.load(builder.gep(line, [builder.mul(pitch, number(r))]))
                builder.store(multiply_add(builder, spread(builder, entry, lanes), row, builder.load(sums[r])), sums[r])
        for r in range(rows):
            before = load(builder, place, number(r * lanes), lanes)
            store(builder, builder.fadd(before, builder.load(sums[r])), place, number(r * lanes))
        return context.get_dummy_value()

    return types.void(A, start, pitch, along, count, x, at, out, to, ROWS, LANES), generate


@inlined
def axpy_rows(
    typing: Any, A: Any, start: Any, pitch: Any, count: Any, x: Any, at: Any, step: Any, out: Any, to: Any, gap: Any,
    ROWS: Any, COLUMNS: Any,
) -> Any:  # fmt: skip
    """out[to + gap c + j] += sum_r x[at + step r + c] A[start + pitch r + j] for j < ``count``."""
    rows, columns = ROWS.literal_value, COLUMNS.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, inputs, target = pointers(context, builder, signature, arguments, (0, 4, 7))
        start, pitch, count, at, step, to, gap = (arguments[i] for i in (1, 2, 3, 5, 6, 8, 9))
        lines = [move(builder, source, start, pitch, r) for r in range(rows)]
        places = [move(builder, target, to, gap, c) for c in range(columns)]
        scalars = [
            [builder.load(builder.gep(move(builder, inputs, at, step, r), [number(c)])) for c in range(columns)]
            for r in range(rows)
        ]

        def body(t: Any, lanes: int) -> None:
            parts = [load(builder, line, t, lanes) for line in lines]
            for c in range(columns):
                total = load(builder, places[c], t, lanes)
                for r in range(rows):
                    total = multiply_add(builder, parts[r], spread(builder, scalars[r][c], lanes), total)
                store(builder, total, places[c], t)

        by_vectors(builder, count, body)
        return context.get_dummy_value()

    return types.void(A, start, pitch, count, x, at, step, out, to, gap, ROWS, COLUMNS), generate


@inlined
def widen(typing: Any, source: Any, at: Any, scale: Any, target: Any, to: Any, count: Any, KIND: Any) -> Any:
    """target[to + j] = ``scale`` times number at + j of ``source``: float32, or the bits of bfloat16, or of float16.

    float16 must be finite, and give 2^-112 times what they are.
    """
    kind = KINDS[KIND.literal_value]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, floats = pointers(context, builder, signature, arguments, (0, 3))
        at, scale, to, count = (arguments[i] for i in (1, 2, 4, 5))
        numbers, floats = builder.gep(numbers, [at]), builder.gep(floats, [to])

        def body(t: Any, lanes: int) -> None:
            if kind == "float32":
                wide = load(builder, numbers, t, lanes)
            else:
                place = builder.bitcast(builder.gep(numbers, [t]), ir.PointerType(ir.VectorType(_HALF, lanes)))
                bits = builder.zext(builder.load(place, align=2), ir.VectorType(_INT, lanes))
                wide = (_half if kind == "float16" else _bfloat)(builder, bits, lanes)
            store(builder, builder.fmul(wide, spread(builder, scale, lanes)), floats, t)

        by_vectors(builder, count, body)
        return context.get_dummy_value()

    return types.void(source, at, scale, target, to, count, KIND), generate


def by_vectors(builder: Any, count: Any, body: Callable[[Any, int], None]) -> None:
    """``body(t, 8)`` for t = 0, 8, .. and ``body(t, 1)`` for what is left of ``count``."""
    whole = builder.and_(count, number(-WIDTH))
    with _cgutils.for_range_slice(builder, number(0), whole, number(WIDTH), WORD) as (t, _):
        body(t, WIDTH)
    with _cgutils.for_range_slice(builder, whole, count, number(1), WORD) as (t, _):
        body(t, 1)


def _bfloat(builder: Any, bits: Any, lanes: int) -> Any:
    return builder.bitcast(builder.shl(bits, _all(16, lanes)), vector(lanes))


def _half(builder: Any, bits: Any, lanes: int) -> Any:
    """2^-112 times the number: sign, exponent and fraction in the places that they have in a float32."""
    shifted = builder.ashr(builder.shl(bits, _all(16, lanes)), _all(3, lanes))
    return builder.bitcast(builder.and_(shifted, _all(0x8FFFE000, lanes)), vector(lanes))


def _all(value: int, lanes: int) -> Any:
    return ir.Constant(ir.VectorType(_INT, lanes), [value] * lanes)

"""The inner loops of products with vector codes, in LLVM's vector instructions.

Codes are read a word at a time; sums stay in registers over a whole loop. Arrays are addressed by the index of a number
from their start on; arguments in capitals are compile-time integers. With the index of a codeword known, a step is one
multiply-add of a vector that is loaded, and what costs time beside it is taking words apart: 2 Mi codes of one byte
into 256 codewords of 8 entries took 0.60 ms, and 0.75 ms where every code was loaded on its own.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from ...lanes.numba_twin import (
    WORD,
    inlined,
    load,
    move,
    multiply_add,
    number,
    pointers,
    scaled,
    spread,
    store,
    sum_of,
    variable,
    vector,
    walk,
)

_cgutils: Any = cgutils


@inlined
def dot_rows(
    typing: Any, codes: Any, start: Any, pitch: Any, count: Any, books: Any, base: Any, x: Any, at: Any, gap: Any,
    out: Any, to: Any, step: Any, ROWS: Any, COLUMNS: Any, LANES: Any,
) -> Any:  # fmt: skip
    """out[to + step r + c] += sum_t books[base + LANES code[r, t] + :] . x[at + gap c + LANES t + :].

    code[r, t] = codes[start + pitch r + t] for r < ROWS, c < COLUMNS and t < ``count``.
    """
    rows, columns, lanes = ROWS.literal_value, COLUMNS.literal_value, LANES.literal_value
    chains = 2 if columns == 1 else 1

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, book, inputs, target = pointers(context, builder, signature, arguments, (0, 4, 6, 9))
        start, pitch, count, base, at, gap, to, step = (arguments[i] for i in (1, 2, 3, 5, 7, 8, 10, 11))
        zero = ir.Constant(vector(lanes), None)
        sums = [[[variable(builder, zero) for _ in range(chains)] for _ in range(columns)] for _ in range(rows)]
        lines = [move(builder, source, start, pitch, r) for r in range(rows)]
        places = [move(builder, inputs, at, gap, c) for c in range(columns)]
        book = builder.gep(book, [base])

        def body(t: Any, many: int) -> None:
            found = [_codes(builder, line, t, many) for line in lines]
            for j in range(many):
                entry = scaled(builder, builder.add(t, number(j)), lanes)
                entries = [load(builder, place, entry, lanes) for place in places]
                for r in range(rows):
                    word = load(builder, book, scaled(builder, found[r][j], lanes), lanes)
                    for c in range(columns):
                        chain = sums[r][c][j % chains]
                        builder.store(multiply_add(builder, word, entries[c], builder.load(chain)), chain)

        walk(builder, count, _per_word(codes), body)
        for r in range(rows):
            for c in range(columns):
                total = sum_of(builder, [builder.load(chain) for chain in sums[r][c]], lanes)
                place = builder.gep(move(builder, target, to, step, r), [number(c)])
                builder.store(builder.fadd(builder.load(place), total), place)
        return context.get_dummy_value()

    return _void(codes, start, pitch, count, books, base, x, at, gap, out, to, step, ROWS, COLUMNS, LANES), generate


@inlined
def axpy_rows(
    typing: Any, codes: Any, start: Any, pitch: Any, count: Any, books: Any, base: Any, x: Any, at: Any, step: Any,
    out: Any, to: Any, gap: Any, PLACES: Any, COLUMNS: Any, LANES: Any,
) -> Any:  # fmt: skip
    """out[to + gap c + LANES p + :] += sum_i x[at + step i + c] books[base + LANES code[i, p] + :].

    code[i, p] = codes[start + pitch i + p] for p < PLACES, c < COLUMNS and i < ``count``.
    """
    many, columns, lanes = PLACES.literal_value, COLUMNS.literal_value, LANES.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, book, inputs, target = pointers(context, builder, signature, arguments, (0, 4, 6, 9))
        start, pitch, count, base, at, step, to, gap = (arguments[i] for i in (1, 2, 3, 5, 7, 8, 10, 11))
        book = builder.gep(book, [base])
        places = [move(builder, target, to, gap, c) for c in range(columns)]
        zero = ir.Constant(vector(lanes), None)
        sums = [[variable(builder, zero) for _ in range(many)] for _ in range(columns)]
        with _cgutils.for_range(builder, count) as turn:
            line = move(builder, source, start, pitch, turn.index)
            found = _codes(builder, line, number(0), many)
            row = move(builder, inputs, at, step, turn.index)
            entries = [spread(builder, builder.load(builder.gep(row, [number(c)])), lanes) for c in range(columns)]
            for p in range(many):
                word = load(builder, book, scaled(builder, found[p], lanes), lanes)
                for c in range(columns):
                    total = multiply_add(builder, word, entries[c], builder.load(sums[c][p]))
                    builder.store(total, sums[c][p])
        for c in range(columns):
            for p in range(many):
                before = load(builder, places[c], number(p * lanes), lanes)
                store(builder, builder.fadd(before, builder.load(sums[c][p])), places[c], number(p * lanes))
        return context.get_dummy_value()

    return _void(codes, start, pitch, count, books, base, x, at, step, out, to, gap, PLACES, COLUMNS, LANES), generate


@inlined
def fill_table(
    typing: Any, books: Any, base: Any, width: Any, count: Any, dims: Any, x: Any, at: Any, step: Any,
    tables: Any, to: Any, ADD: Any, WORDS: Any, LANES: Any,
) -> Any:  # fmt: skip
    """tables[to + LANES k + :] = (itself if ADD) + sum_j books[base + width k + j] x[at + step j + :].

    For j < ``dims`` and k < ``count``, a multiple of WORDS: so many are made at once.
    """
    words, lanes, adding = WORDS.literal_value, LANES.literal_value, ADD.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        book, inputs, target = pointers(context, builder, signature, arguments, (0, 5, 8))
        base, width, count, dims, at, step, to = (arguments[i] for i in (1, 2, 3, 4, 6, 7, 9))
        zero = ir.Constant(vector(lanes), None)
        sums = [variable(builder, zero) for _ in range(words)]
        with _cgutils.for_range_slice(builder, number(0), count, number(words), WORD) as (k, _):
            line = builder.gep(book, [builder.add(base, builder.mul(k, width))])
            place = builder.gep(target, [builder.add(to, scaled(builder, k, lanes))])
            for w in range(words):
                builder.store(load(builder, place, number(w * lanes), lanes) if adding else zero, sums[w])
            with _cgutils.for_range(builder, dims) as turn:
                entries = load(builder, inputs, builder.add(at, builder.mul(turn.index, step)), lanes)
                for w in range(words):
                    entry = builder.load(builder.gep(line, [builder.add(turn.index, builder.mul(width, number(w)))]))
                    total = multiply_add(builder, spread(builder, entry, lanes), entries, builder.load(sums[w]))
                    builder.store(total, sums[w])
            for w in range(words):
                store(builder, builder.load(sums[w]), place, number(w * lanes))
        return context.get_dummy_value()

    return _void(books, base, width, count, dims, x, at, step, tables, to, ADD, WORDS, LANES), generate


@inlined
def gather_rows(
    typing: Any, codes: Any, start: Any, pitch: Any, count: Any, tables: Any, size: Any, out: Any, to: Any, step: Any,
    ROWS: Any, LANES: Any,
) -> Any:  # fmt: skip
    """out[to + step r + :] += sum_t tables[size t + LANES code[r, t] + :], code[r, t] as in :func:`dot_rows`."""
    rows, lanes = ROWS.literal_value, LANES.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, tables, target = pointers(context, builder, signature, arguments, (0, 4, 6))
        start, pitch, count, size, to, step = (arguments[i] for i in (1, 2, 3, 5, 7, 8))
        lines = [move(builder, source, start, pitch, r) for r in range(rows)]
        places = [move(builder, target, to, step, r) for r in range(rows)]
        sums = [variable(builder, load(builder, place, number(0), lanes)) for place in places]

        def body(t: Any, many: int) -> None:
            found = [_codes(builder, line, t, many) for line in lines]
            table = builder.gep(tables, [builder.mul(t, size)])
            for j in range(many):
                for r in range(rows):
                    entries = load(builder, table, scaled(builder, found[r][j], lanes), lanes)
                    builder.store(builder.fadd(builder.load(sums[r]), entries), sums[r])
                table = builder.gep(table, [size])

        walk(builder, count, 4, body)
        for r in range(rows):
            store(builder, builder.load(sums[r]), places[r], number(0))
        return context.get_dummy_value()

    return _void(codes, start, pitch, count, tables, size, out, to, step, ROWS, LANES), generate


@inlined
def scatter_rows(
    typing: Any, codes: Any, start: Any, pitch: Any, rows: Any, count: Any, x: Any, at: Any, step: Any,
    tables: Any, size: Any, LANES: Any,
) -> Any:  # fmt: skip
    """tables[size t + LANES code[i, t] + :] += x[at + step i + :] for i < ``rows``, then t < ``count``."""
    lanes = LANES.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, inputs, tables = pointers(context, builder, signature, arguments, (0, 5, 8))
        start, pitch, rows, count, at, step, size = (arguments[i] for i in (1, 2, 3, 4, 6, 7, 9))
        with _cgutils.for_range(builder, rows) as turn:
            line = move(builder, source, start, pitch, turn.index)
            entries = load(builder, inputs, builder.add(at, builder.mul(step, turn.index)), lanes)

            def body(t: Any, many: int) -> None:
                table = builder.gep(tables, [builder.mul(t, size)])
                for code in _codes(builder, line, t, many):
                    place = scaled(builder, code, lanes)
                    store(builder, builder.fadd(load(builder, table, place, lanes), entries), table, place)
                    table = builder.gep(table, [size])

            walk(builder, count, 4, body)
        return context.get_dummy_value()

    return _void(codes, start, pitch, rows, count, x, at, step, tables, size, LANES), generate


@inlined
def collect(
    typing: Any, tables: Any, start: Any, count: Any, books: Any, base: Any, width: Any, out: Any, DIMS: Any, LANES: Any
) -> Any:
    """out[LANES j + :] = sum_k books[base + width k + j] tables[start + LANES k + :] for j < DIMS, k < ``count``."""
    dims, lanes = DIMS.literal_value, LANES.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tables, book, target = pointers(context, builder, signature, arguments, (0, 3, 6))
        start, count, base, width = (arguments[i] for i in (1, 2, 4, 5))
        sums = [variable(builder, ir.Constant(vector(lanes), None)) for _ in range(dims)]
        with _cgutils.for_range(builder, count) as turn:
            entries = load(builder, tables, builder.add(start, scaled(builder, turn.index, lanes)), lanes)
            line = builder.gep(book, [builder.add(base, builder.mul(turn.index, width))])
            for j in range(dims):
                entry = spread(builder, builder.load(builder.gep(line, [number(j)])), lanes)
                builder.store(multiply_add(builder, entry, entries, builder.load(sums[j])), sums[j])
        for j in range(dims):
            store(builder, builder.load(sums[j]), target, number(j * lanes))
        return context.get_dummy_value()

    return _void(tables, start, count, books, base, width, out, DIMS, LANES), generate


def _codes(builder: Any, line: Any, at: Any, many: int) -> list[Any]:
    """The codes ``at``, ``at + 1``, .. of a row, read as one word of at most 64 bits where there are several."""
    bits = line.type.pointee.width
    place = builder.gep(line, [at])
    if many * bits > 64:
        half = many // 2
        return _codes(builder, line, at, half) + _codes(builder, line, builder.add(at, number(half)), half)
    word = builder.load(builder.bitcast(place, ir.PointerType(ir.IntType(many * bits))), align=bits // 8)
    if many * bits < 64:
        word = builder.zext(word, WORD)
    mask = number((1 << bits) - 1)
    return [builder.and_(builder.lshr(word, number(bits * j)), mask) for j in range(many)]


def _per_word(codes: Any) -> int:
    return 64 // int(codes.dtype.bitwidth)


def _void(*arguments: Any) -> Any:
    return types.void(*arguments)

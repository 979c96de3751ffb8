"""A row of 512 slices as one vector of eight words: the loops over columns, written in LLVM's vector instructions.

An array of words holds vectors side by side; vector ``k`` is its words ``8 * k .. 8 * k + 7``. LLVM's vectorizer would
check at every turn of the short loops whether arrays overlap, and cannot keep a mask in registers across stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...words.numba_twin import inline

WORDS = 8
LANES = 16
"""Numbers in one vector of sums."""
Function = TypeVar("Function", bound=Callable[..., Any])

_cgutils: Any = cgutils
_BIT, _WORD = ir.IntType(1), ir.IntType(64)
_ROW = ir.VectorType(_WORD, WORDS)


@inline
def spread(typing: Any, rows: Any, first: Any, care: Any, at: Any, pattern: Any, count: Any) -> Any:
    """Vector ``first + k`` of ``rows`` = the words of ``care`` from ``at`` on, or 0 if bit k of ``pattern`` is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = (_data(context, builder, signature, arguments, i) for i in (0, 2))
        vector = _load(builder, source, arguments[3])
        with _cgutils.for_range(builder, arguments[5]) as loop:
            bit = builder.trunc(builder.lshr(arguments[4], loop.index), _BIT)
            row = builder.select(bit, vector, ir.Constant(_ROW, None))
            _put(builder, row, target, builder.add(arguments[1], loop.index))
        return context.get_dummy_value()

    return types.void(rows, first, care, at, pattern, count), generate


@inline
def absorb(typing: Any, equations: Any, pivots: Any, found: Any, n_in: Any, columns: Any) -> Any:
    """Reduce two equations per slice by the pivots of the slice, and keep what is left of them as new pivots.

    An equation is ``columns`` vectors: the coefficients of the ``n_in`` inputs, then the right-hand sides. Column k of
    the pivot of input q is vector ``q * columns + k``, zero where ``found`` (n_in vectors) says that there is none.
    With
    u = the slices whose equation contains input q, new = u & ~found[q],

        pivot ^= new & equation;  equation ^= u & pivot

    moves the equation into the empty place or subtracts the pivot, whichever is due. Only columns after q matter. Two
    equations go side by side, since a pivot is then loaded half as often, which took a fifth to a third of the time.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        equations, pivots, found = (_data(context, builder, signature, arguments, i) for i in (0, 1, 2))
        one, columns = ir.Constant(_WORD, 1), arguments[4]
        with _cgutils.for_range(builder, arguments[3]) as loop:
            q = loop.index
            u = [_get(builder, equations, q), _get(builder, equations, builder.add(columns, q))]
            with builder.if_then(_any(builder, builder.or_(*u))):
                before = _get(builder, found, q)
                new = [builder.and_(u[0], builder.not_(before))]
                before = builder.or_(before, u[0])
                new.append(builder.and_(u[1], builder.not_(before)))
                first, start = builder.add(q, one), builder.mul(q, columns)
                with builder.if_else(_any(builder, builder.or_(*new))) as (some, none):
                    with some:
                        _put(builder, builder.or_(before, u[1]), found, q)
                        with _cgutils.for_range_slice(builder, first, columns, one, _WORD) as (k, _):
                            at = builder.add(start, k)
                            pivot = _get(builder, pivots, at)
                            for i, place in enumerate((k, builder.add(columns, k))):
                                row = _get(builder, equations, place)
                                pivot = builder.xor(pivot, builder.and_(new[i], row))
                                _put(builder, builder.xor(row, builder.and_(u[i], pivot)), equations, place)
                            _put(builder, pivot, pivots, at)
                    with none, _cgutils.for_range_slice(builder, first, columns, one, _WORD) as (k, _):
                        pivot = _get(builder, pivots, builder.add(start, k))
                        for i, place in enumerate((k, builder.add(columns, k))):
                            row = _get(builder, equations, place)
                            _put(builder, builder.xor(row, builder.and_(u[i], pivot)), equations, place)
        return context.get_dummy_value()

    return types.void(equations, pivots, found, n_in, columns), generate


@inline
def take(typing: Any, table: Any, to: Any, stream: Any, at: Any) -> Any:
    """Vector ``to`` of ``table`` = the 64 bytes of ``stream`` from ``at`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table, stream = (_data(context, builder, signature, arguments, i) for i in (0, 2))
        place = builder.bitcast(builder.gep(stream, [arguments[3]]), ir.PointerType(_ROW))
        _put(builder, builder.load(place, align=1), table, arguments[1])
        return context.get_dummy_value()

    return types.void(table, to, stream, at), generate


@inline
def add_rows(typing: Any, table: Any, a: Any, b: Any, to: Any) -> Any:
    """Vector ``to`` of ``table`` = vector ``a`` ^ vector ``b``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table = _data(context, builder, signature, arguments, 0)
        total = builder.xor(_get(builder, table, arguments[1]), _get(builder, table, arguments[2]))
        _put(builder, total, table, arguments[3])
        return context.get_dummy_value()

    return types.void(table, a, b, to), generate


def _look_up(typing: Any, tables: Any, row: Any, out: Any, to: Any, groups: Any, width: Any, add: Any) -> Any:
    """The 64 bytes ``to`` of ``out`` = (+ themselves if ``add``) the sum over ``groups`` of what ``row`` selects.

    Bits ``g * width .. g * width + width - 1`` of the row select among the 2**width vectors of table g. The tables
    start at a multiple of 64 bytes: loads across lines of the cache made decoding a quarter slower. The last three
    arguments are compile-time integers.
    """
    count, bits, adding = groups.literal_value, width.literal_value, add.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        tables, out = (_data(context, builder, signature, arguments, i) for i in (0, 2))
        row, place = arguments[1], _place(builder, builder.bitcast(out, ir.PointerType(_WORD)), arguments[3])
        total = builder.load(place, align=1) if adding else None
        for g in range(count):
            entry = builder.and_(builder.lshr(row, ir.Constant(_WORD, g * bits)), ir.Constant(_WORD, (1 << bits) - 1))
            vector = _get(builder, tables, builder.add(entry, ir.Constant(_WORD, g << bits)), 64)
            total = vector if total is None else builder.xor(total, vector)
        builder.store(total, place, align=1)
        return context.get_dummy_value()

    return types.void(tables, row, out, to, groups, width, add), generate


look_up: Any = intrinsic(prefer_literal=True)(_look_up)


@inline
def butterfly(typing: Any, x: Any, a: Any, b: Any) -> Any:
    """(x_a, x_b) = (x_a + x_b, x_a - x_b) for 16 numbers each, from the indices ``a`` and ``b`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = _data(context, builder, signature, arguments, 0)
        vector = ir.PointerType(ir.VectorType(context.get_data_type(x.dtype), LANES))
        places = [builder.bitcast(builder.gep(data, [arguments[i]]), vector) for i in (1, 2)]
        left, right = (builder.load(place, align=x.dtype.bitwidth // 8) for place in places)
        builder.store(builder.add(left, right), places[0], align=x.dtype.bitwidth // 8)
        builder.store(builder.sub(left, right), places[1], align=x.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(x, a, b), generate


@inline
def first_largest(typing: Any, x: Any, count: Any, where: Any) -> Any:
    """where (16) = for each column of x (count, 16), the first row that holds its largest number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data, where = (_data(context, builder, signature, arguments, i) for i in (0, 2))
        number, align = context.get_data_type(x.dtype), x.dtype.bitwidth // 8
        vector = ir.VectorType(number, LANES)
        best = _cgutils.alloca_once_value(builder, ir.Constant(vector, [-(1 << (x.dtype.bitwidth - 1))] * LANES))
        index = _cgutils.alloca_once_value(builder, ir.Constant(vector, None))
        row = _cgutils.alloca_once_value(builder, ir.Constant(vector, None))
        with _cgutils.for_range(builder, arguments[1]) as loop:
            place = builder.gep(data, [builder.mul(loop.index, ir.Constant(_WORD, LANES))])
            found = builder.load(builder.bitcast(place, ir.PointerType(vector)), align=align)
            better = builder.icmp_signed(">", found, builder.load(best))
            builder.store(builder.select(better, found, builder.load(best)), best)
            builder.store(builder.select(better, builder.load(row), builder.load(index)), index)
            builder.store(builder.add(builder.load(row), ir.Constant(vector, [1] * LANES)), row)
        builder.store(builder.load(index), builder.bitcast(where, ir.PointerType(vector)), align=align)
        return context.get_dummy_value()

    return types.void(x, count, where), generate


def _data(context: Any, builder: Any, signature: Any, arguments: Any, which: int) -> Any:
    """Pointer to the first word of an array argument."""
    return context.make_array(signature.args[which])(context, builder, arguments[which]).data


def _load(builder: Any, data: Any, at: Any) -> Any:
    """Eight words from word ``at`` on."""
    return builder.load(builder.bitcast(builder.gep(data, [at]), ir.PointerType(_ROW)), align=8)


def _place(builder: Any, data: Any, vector: Any) -> Any:
    return builder.bitcast(builder.gep(data, [builder.mul(vector, ir.Constant(_WORD, WORDS))]), ir.PointerType(_ROW))


def _get(builder: Any, data: Any, vector: Any, align: int = 8) -> Any:
    return builder.load(_place(builder, data, vector), align=align)


def _put(builder: Any, value: Any, data: Any, vector: Any) -> None:
    builder.store(value, _place(builder, data, vector), align=8)


def _any(builder: Any, row: Any) -> Any:
    """Whether any of the 512 bits is set."""
    zero, half, index = ir.Constant(_ROW, None), WORDS // 2, ir.VectorType(ir.IntType(32), WORDS // 2)
    low = builder.shuffle_vector(row, zero, ir.Constant(index, list(range(half))))
    high = builder.shuffle_vector(row, zero, ir.Constant(index, list(range(half, WORDS))))
    wide = ir.IntType(64 * half)  # one test instruction where vectors have 256 bits
    return builder.icmp_unsigned("!=", builder.bitcast(builder.or_(low, high), wide), ir.Constant(wide, 0))

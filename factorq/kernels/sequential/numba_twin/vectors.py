"""Costs of 32 states side by side: vector k of an array is its numbers ``32 * k .. 32 * k + 31``.

Written in LLVM's vector instructions, for costs of one or two bytes: LLVM's vectorizer would check at every turn of the
short loops whether arrays overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ...words.numba_twin import inline

LANES = 32
Function = TypeVar("Function", bound=Callable[..., Any])

_cgutils: Any = cgutils
_WORD = ir.IntType(64)


@inline
def keep_smaller(typing: Any, x: Any, to: Any, costs: Any, at: Any) -> Any:
    """Vector ``to`` of x = the smaller of itself and the 32 costs from number ``at`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature, arguments, 0, _times(builder, arguments[1]))
        other = _load(builder, _place(context, builder, signature, arguments, 2, arguments[3]))
        _store(builder, _smaller(builder, _load(builder, place), other), place)
        return context.get_dummy_value()

    return types.void(x, to, costs, at), generate


def _relax(typing: Any, x: Any, at: Any, stride: Any, bits: Any) -> Any:
    """x_a, x_b = min(x_a, x_b + 1), min(x_b, x_a + 1) for all pairs of vectors that differ in one of ``bits`` places.

    The 2**bits vectors start at ``at``, and stand ``stride`` apart. ``bits`` is a compile-time integer.
    """
    count = bits.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = _vector(context, x)
        places = []
        for i in range(1 << count):
            index = builder.add(arguments[1], builder.mul(arguments[2], ir.Constant(_WORD, i)))
            places.append(_place(context, builder, signature, arguments, 0, _times(builder, index)))
        rows, one = [_load(builder, place) for place in places], ir.Constant(vector, [1] * LANES)
        for b in range(count):
            for i in range(1 << count):
                if not i >> b & 1:
                    k = i | 1 << b
                    more = builder.add(rows[i], one), builder.add(rows[k], one)
                    rows[i], rows[k] = _smaller(builder, rows[i], more[1]), _smaller(builder, rows[k], more[0])
        for row, place in zip(rows, places, strict=True):
            _store(builder, row, place)
        return context.get_dummy_value()

    return types.void(x, at, stride, bits), generate


relax: Any = intrinsic(prefer_literal=True)(_relax)


@inline
def relax_inside(typing: Any, x: Any, at: Any) -> Any:
    """x_i = min(x_i, x_k + 1) for all pairs of numbers of vector ``at`` whose places differ in one bit, bit by bit."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = _vector(context, x)
        place = _place(context, builder, signature, arguments, 0, _times(builder, arguments[1]))
        row, one = _load(builder, place), ir.Constant(vector, [1] * LANES)
        for b in range(LANES.bit_length() - 1):
            order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [i ^ 1 << b for i in range(LANES)])
            other = builder.shuffle_vector(row, ir.Constant(vector, None), order)
            row = _smaller(builder, row, builder.add(other, one))
        _store(builder, row, place)
        return context.get_dummy_value()

    return types.void(x, at), generate


@inline
def pick(typing: Any, out: Any, to: Any, x: Any, index: Any, first: Any, turn: Any, count: Any) -> Any:
    """out[to + i] = x[index[first + i] ^ turn] for i < count."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, x, index = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2, 3))
        with _cgutils.for_range(builder, arguments[6]) as loop:
            at = builder.load(builder.gep(index, [builder.add(arguments[4], loop.index)]))
            number = builder.load(builder.gep(x, [builder.xor(at, arguments[5])]))
            builder.store(number, builder.gep(out, [builder.add(arguments[1], loop.index)]))
        return context.get_dummy_value()

    return types.void(out, to, x, index, first, turn, count), generate


@inline
def add_row(typing: Any, x: Any, to: Any, at: Any, change: Any, row: Any) -> Any:
    """Vector ``to`` of x = its vector ``at`` + vector ``row`` of ``change``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, at, row = (_times(builder, arguments[i]) for i in (1, 2, 4))
        source = _load(builder, _place(context, builder, signature, arguments, 0, at))
        more = _load(builder, _place(context, builder, signature, arguments, 3, row))
        _store(builder, builder.add(source, more), _place(context, builder, signature, arguments, 0, to))
        return context.get_dummy_value()

    return types.void(x, to, at, change, row), generate


def _nearest(
    typing: Any,
    out: Any,
    to: Any,
    costs: Any,
    at: Any,
    stride: Any,
    first: Any,
    stop: Any,
    distances: Any,
    entries: Any,
    new: Any,
    old: Any,
    size: Any,
    chunks: Any,
) -> Any:
    """Vector ``to`` of ``out`` = min over z in first..stop of costs[z * stride + at ..] + the distances of z.

    The distances are the sum over ``chunks`` k of vector ``256 * k + (entries[new + k * size] ^ entries[old + k * size
    + z])``. Where the number of chunks is a compile-time integer, their loop is unrolled.
    """
    fixed = getattr(chunks, "literal_value", None)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, to, _, at, stride, first, stop, _, _, new, old, size, count = arguments
        vector = _vector(context, out)
        best = _cgutils.alloca_once_value(builder, ir.Constant(vector, [(1 << vector.element.width) - 1] * LANES))
        total = _cgutils.alloca_once_value(builder, ir.Constant(vector, None))
        entries = context.make_array(signature.args[8])(context, builder, arguments[8]).data

        def add(k: Any, z: Any) -> None:
            start = builder.mul(k, size)
            places = builder.add(new, start), builder.add(old, builder.add(start, z))
            u = builder.zext(builder.xor(*(builder.load(builder.gep(entries, [i])) for i in places)), _WORD)
            index = _times(builder, builder.add(builder.mul(k, ir.Constant(_WORD, 256)), u))
            row = _load(builder, _place(context, builder, signature, arguments, 7, index))
            builder.store(builder.add(builder.load(total), row), total)

        with _cgutils.for_range_slice(builder, first, stop, ir.Constant(_WORD, 1), _WORD) as (z, _):
            cost = _place(context, builder, signature, arguments, 2, builder.add(at, builder.mul(z, stride)))
            builder.store(_load(builder, cost), total)
            if fixed is not None:
                for k in range(fixed):
                    add(ir.Constant(_WORD, k), z)
            else:
                with _cgutils.for_range(builder, count) as loop:
                    add(loop.index, z)
            builder.store(_smaller(builder, builder.load(best), builder.load(total)), best)
        _store(builder, builder.load(best), _place(context, builder, signature, arguments, 0, _times(builder, to)))
        return context.get_dummy_value()

    signature = types.void(
        out, to, costs, at, stride, first, stop, distances, entries, new, old, size, chunks
    )  # fmt: skip
    return signature, generate


nearest: Any = intrinsic(prefer_literal=True)(_nearest)


def _vector(context: Any, array: Any) -> Any:
    return ir.VectorType(context.get_data_type(array.dtype), LANES)


def _times(builder: Any, index: Any) -> Any:
    return builder.mul(index, ir.Constant(_WORD, LANES))


def _place(context: Any, builder: Any, signature: Any, arguments: Any, which: int, at: Any) -> Any:
    """Pointer to 32 numbers of array argument ``which``, from number ``at`` on."""
    array = context.make_array(signature.args[which])(context, builder, arguments[which])
    return builder.bitcast(builder.gep(array.data, [at]), ir.PointerType(_vector(context, signature.args[which])))


def _load(builder: Any, place: Any) -> Any:
    return builder.load(place, align=1)


def _store(builder: Any, row: Any, place: Any) -> None:
    builder.store(row, place, align=1)


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_unsigned("<", a, b), a, b)

"""Vectors of numbers in registers: LLVM's instructions for loops that the vectorizer does not find.

Arrays are addressed by the index of a number from their start on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.extending import intrinsic

_cgutils: Any = cgutils
WORD, FLOAT = ir.IntType(64), ir.FloatType()
_INDEX = ir.IntType(32)


def inlined(typer: Callable[..., Any]) -> Any:
    """Make an intrinsic whose arguments may be compile-time integers."""
    return intrinsic(prefer_literal=True)(typer)


def walk(builder: Any, count: Any, many: int, body: Callable[[Any, int], None]) -> None:
    """``body(t, many)`` for t = 0, many, .. and ``body(t, 1)`` for what is left of ``count``."""
    whole = builder.and_(count, number(-many))
    with _cgutils.for_range_slice(builder, number(0), whole, number(many), WORD) as (t, _):
        body(t, many)
    with _cgutils.for_range_slice(builder, whole, count, number(1), WORD) as (t, _):
        body(t, 1)


def pointers(context: Any, builder: Any, signature: Any, arguments: Any, which: tuple[int, ...]) -> list[Any]:
    """Pointers to the first numbers of some array arguments."""
    return [context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in which]


def vector(lanes: int) -> Any:
    """The type of ``lanes`` float32 side by side."""
    return ir.VectorType(FLOAT, lanes)


def number(value: int) -> Any:
    """A compile-time integer."""
    return ir.Constant(WORD, value)


def scaled(builder: Any, index: Any, lanes: int) -> Any:
    """``index`` times a compile-time integer."""
    return builder.mul(index, number(lanes))


def move(builder: Any, pointer: Any, start: Any, step: Any, times: Any) -> Any:
    """``pointer + start + step times``."""
    times = number(times) if isinstance(times, int) else times
    return builder.gep(pointer, [builder.add(start, builder.mul(step, times))])


def _place(builder: Any, pointer: Any, at: Any, lanes: int) -> Any:
    return builder.bitcast(builder.gep(pointer, [at]), ir.PointerType(vector(lanes)))


def load(builder: Any, pointer: Any, at: Any, lanes: int) -> Any:
    """The float32 ``at``, .., ``at + lanes - 1``."""
    return builder.load(_place(builder, pointer, at, lanes), align=4)


def store(builder: Any, value: Any, pointer: Any, at: Any) -> None:
    """Write a vector of float32 from number ``at`` on."""
    builder.store(value, _place(builder, pointer, at, value.type.count), align=4)


def variable(builder: Any, value: Any) -> Any:
    """A place that holds ``value``, and stays in a register."""
    return _cgutils.alloca_once_value(builder, value)


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """``a b + c``, one instruction where the processor has it."""
    fused = ("contract",)
    return builder.fadd(builder.fmul(a, b, flags=fused), c, flags=fused)


def spread(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of one number repeated."""
    empty = ir.Constant(vector(lanes), ir.Undefined)
    first = builder.insert_element(empty, value, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(_INDEX, lanes), None))


def sum_of(builder: Any, vectors: list[Any], lanes: int) -> Any:
    """The sum of all numbers of some vectors, halves added to halves."""
    total = vectors[0]
    for more in vectors[1:]:
        total = builder.fadd(total, more)
    while lanes > 1:
        lanes //= 2
        low, high = (_part(builder, total, first, lanes) for first in (0, lanes))
        total = builder.fadd(low, high)
    return builder.extract_element(total, ir.Constant(_INDEX, 0))


def _part(builder: Any, value: Any, first: int, count: int) -> Any:
    order = ir.Constant(ir.VectorType(_INDEX, count), list(range(first, first + count)))
    return builder.shuffle_vector(value, value, order)


def columns_of(count: int) -> list[tuple[int, int]]:
    """Columns in runs of 4, 2 and 1: first and size. What is loaded of a matrix serves so many."""
    runs, c = [], 0
    while c < count:
        size = next(size for size in (4, 2, 1) if size <= count - c)
        runs.append((c, size))
        c += size
    return runs

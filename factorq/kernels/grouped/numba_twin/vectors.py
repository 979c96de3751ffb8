"""What the tiles are written with, beside :mod:`factorq.kernels.lanes`: named arguments, places, hints."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from ...lanes.numba_twin import inlined, number
from .blocks import BYTE, FLOATS, INT

_cgutils: Any = cgutils


def opened(
    context: Any, builder: Any, signature: Any, arguments: Any, arrays: Sequence[str], numbers: Sequence[str]
) -> SimpleNamespace:
    """Pointers to the first entries of the array arguments, and the numbers of the tuple after them, by name."""
    found = {
        name: context.make_array(signature.args[i])(context, builder, arguments[i]).data
        for i, name in enumerate(arrays)
    }
    found |= {name: builder.extract_value(arguments[len(arrays)], i) for i, name in enumerate(numbers)}
    return SimpleNamespace(**found)


def offset(builder: Any, pointer: Any, *terms: Any) -> Any:
    """``pointer`` moved by the sum of some entries."""
    for term in terms:
        pointer = builder.gep(pointer, [number(term) if isinstance(term, int) else term])
    return pointer


def read(builder: Any, pointer: Any, at: int = 0) -> Any:
    """Eight floats from entry ``at`` on."""
    return builder.load(builder.bitcast(offset(builder, pointer, at), ir.PointerType(FLOATS)), align=4)


def write(builder: Any, value: Any, pointer: Any, at: int = 0) -> None:
    """Put eight floats from entry ``at`` on."""
    builder.store(value, builder.bitcast(offset(builder, pointer, at), ir.PointerType(FLOATS)), align=4)


def smaller(builder: Any, a: Any, b: Any) -> Any:
    """The smaller of two integers."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def hidden(builder: Any, pointer: Any) -> Any:
    """The same pointer, of which LLVM does not know that it is: what is read through it is read anew."""
    kind = ir.FunctionType(pointer.type, [pointer.type])
    return builder.call(ir.InlineAsm(kind, "", "=r,0", side_effect=True), [pointer])


def prefetch(builder: Any, pointer: Any) -> None:
    """Have a line fetched to the second level of the cache; any address may be named."""
    kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(BYTE), INT, INT, INT])
    hint = _cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(hint, [pointer, *(ir.Constant(INT, i) for i in (0, 2, 1))])


@inlined
def copy(typing: Any, target: Any, to: Any, source: Any, at: Any, size: Any) -> Any:
    """target[to : to + size] = source[at : at + size], of bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left, right = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 2))
        left, right = builder.gep(left, [arguments[1]]), builder.gep(right, [arguments[3]])
        _cgutils.raw_memcpy(builder, left, right, arguments[4], 1)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, types.int64), generate

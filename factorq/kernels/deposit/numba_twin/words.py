"""Words of 64 bits in arrays of bytes: load and store; what both versions of the kernels stand on.

All calls are intrinsics: a call of a small compiled function in the loops makes them ten times as slow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numpy.typing import NDArray

from ...words.numba_twin import inline

Bits = NDArray[np.uint8]
Function = TypeVar("Function", bound=Callable[..., Any])

SOURCE = types.Array(types.uint8, 1, "C", readonly=True)
TARGET = types.Array(types.uint8, 1, "C")
_tuple: Any = types.Tuple
DEPOSIT = _tuple((types.int64, types.int64))(SOURCE, SOURCE, TARGET, types.int64)
EXTRACT = _tuple((types.int64, types.int64, types.uint64))(
    SOURCE, SOURCE, TARGET, types.int64, types.int64, types.uint64
)
_WORD = ir.IntType(64)


@inline
def load(typing: Any, source: Any, at: Any) -> Any:
    """Word of the bytes ``source[at : at + 8]``, which must exist."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature, arguments), align=1)

    return types.uint64(source, types.int64), generate


@inline
def window(typing: Any, source: Any, at: Any) -> Any:
    """The 64 bits of the bytes from bit ``at`` on; the bytes ``source[at // 8 : at // 8 + 9]`` must exist."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        first = builder.gep(array.data, [builder.lshr(arguments[1], ir.Constant(_WORD, 3))])
        shift = builder.and_(arguments[1], ir.Constant(_WORD, 7))
        low = builder.load(builder.bitcast(first, ir.PointerType(_WORD)), align=1)
        high = builder.zext(builder.load(builder.gep(first, [ir.Constant(_WORD, 8)])), _WORD)
        left = builder.shl(builder.shl(high, ir.Constant(_WORD, 1)), builder.sub(ir.Constant(_WORD, 63), shift))
        return builder.or_(builder.lshr(low, shift), left)  # SHRD, in one instruction, is slow on many processors

    return types.uint64(source, types.int64), generate


@inline
def store(typing: Any, target: Any, at: Any, word: Any) -> Any:
    """``target[at : at + 8] = word``, in bytes that must exist."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _pointer(context, builder, signature, arguments), align=1)
        return context.get_dummy_value()

    return types.void(target, types.int64, types.uint64), generate


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.PointerType(_WORD))

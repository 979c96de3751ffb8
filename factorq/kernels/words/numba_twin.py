"""Counting the bits of a word: LLVM's instructions as functions for the compiled twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic


def _inline(typer: Callable[..., Any]) -> Any:
    return intrinsic(typer)


@_inline
def trailing_zeros(typing: Any, word: Any) -> Any:
    """Zero bits below the lowest one bit of a word that is not zero: int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@_inline
def popcount(typing: Any, word: Any) -> Any:
    """One bits of a word: int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate

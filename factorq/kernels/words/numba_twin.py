"""What compiled twins stand on: how kernels and intrinsics are made, and LLVM's instructions that count bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])

_njit: Any = numba.njit


def kernel(*signatures: Any) -> Callable[[Function], Function]:
    """Compile for these signatures; for none, when types are first met."""
    decorate: Callable[[Function], Function] = _njit(*signatures, cache=True, nogil=True)
    return decorate


def inline(typer: Callable[..., Any]) -> Any:
    """Make an intrinsic: code that is put in the place of a call, which would count references to arrays."""
    return intrinsic(typer)


@inline
def trailing_zeros(typing: Any, word: Any) -> Any:
    """Zero bits below the lowest one bit of a word that is not zero: int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@inline
def popcount(typing: Any, word: Any) -> Any:
    """One bits of a word: int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate

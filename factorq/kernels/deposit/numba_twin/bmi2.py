"""Deposit and extract by the instructions PDEP and PEXT of x86 processors with BMI2, 64 positions at a time.

Loaded only where the processor has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from ...words.numba_twin import inline, kernel, popcount
from .words import DEPOSIT, EXTRACT, Bits, load, store, window

_WORD = ir.IntType(64)


@inline
def pdep(typing: Any, source: Any, mask: Any) -> Any:
    """Bit k of the source to the k-th one bit of the mask."""
    return types.uint64(types.uint64, types.uint64), _calling("llvm.x86.bmi.pdep.64")


@inline
def pext(typing: Any, source: Any, mask: Any) -> Any:
    """The bits of the source at the one bits of the mask, side by side."""
    return types.uint64(types.uint64, types.uint64), _calling("llvm.x86.bmi.pext.64")


def _calling(name: str) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(_WORD, [_WORD, _WORD]))
        return builder.call(function, arguments)

    return generate


@kernel(DEPOSIT)
def deposit(packed: Bits, mask: Bits, out: Bits, at: int) -> tuple[int, int]:
    """Write the bits of ``packed`` from bit ``at`` on, while words are whole: (bytes written, bits used)."""
    i = 0
    while True:
        steps = min((mask.size - i) >> 3, (packed.size - 1 - (at >> 3)) >> 3)  # sure to find 64 bits each
        if steps <= 0:
            return i, at
        for _ in range(steps):
            word = load(mask, i)
            store(out, i, pdep(window(packed, at), word))
            at += popcount(word)
            i += 8


@kernel(EXTRACT)
def extract(bits: Bits, mask: Bits, out: Bits, to: int, fill: int, buffer: Any) -> tuple[int, int, Any]:
    """Write the bits of all whole words to ``out`` from byte ``to`` on, after ``fill`` bits of the buffer."""
    for i in range(0, mask.size - 7, 8):
        word = load(mask, i)
        found = pext(load(bits, i), word)
        buffer |= found << np.uint64(fill)
        store(out, to, buffer)  # in every turn: whether the buffer is full is a branch that would be mispredicted
        filled = fill + popcount(word)
        full = filled >= 64
        buffer = (found >> np.uint64(1)) >> np.uint64(63 - fill) if full else buffer
        to += 8 if full else 0
        fill = filled & 63
    return to, fill, buffer

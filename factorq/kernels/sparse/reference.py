"""The specification of sparse products: the dense matrix, and array operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Matrix = NDArray[Any]


def matmul(words: Words, shift: int, values: Matrix, x: Matrix, out: Matrix) -> int:
    """Add W @ x to out (m, b); return how many entries are kept, and add nothing if they are not all there."""
    W = np.zeros((len(out), len(x)), values.dtype)
    kept = expand(words, shift, values, W.reshape(-1))
    if kept == values.size:
        out += W @ x
    return kept


def rmatmul(words: Words, shift: int, values: Matrix, x: Matrix, out: Matrix) -> int:
    """Add W.T @ x to out (n, b); return as :func:`matmul`."""
    W = np.zeros((len(x), len(out)), values.dtype)
    kept = expand(words, shift, values, W.reshape(-1))
    if kept == values.size:
        out += W.T @ x
    return kept


def expand(words: Words, shift: int, values: Matrix, out: Matrix) -> int:
    """Put the values at the set bits of out (n,), which holds zeros; return as :func:`matmul`."""
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")[shift : shift + out.size]
    kept = int(np.count_nonzero(bits))
    if kept == values.size:
        out[bits.astype(np.bool_)] = values
    return kept

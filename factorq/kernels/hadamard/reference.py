"""The specification: signs, butterflies and the odd part as whole-array operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def rotate(
    x: Array, order: Array, signs: Array, span: int, starts: Array, odd: Array, inverse: bool, out: Array
) -> None:
    """out[i] = T x[i], or T^T x[i]: every step is symmetric and orthonormal, so they are undone in reverse order."""
    out[...] = x if inverse else x[:, order]
    reach = span * len(odd)
    for step in reversed(range(len(starts))) if inverse else range(len(starts)):
        run = slice(starts[step], starts[step] + reach)
        if not inverse:
            out *= signs[step]
        out[:, run] = _mixed(_butterflies(out[:, run], span), span, odd)
        if inverse:
            out *= signs[step]
    if inverse:
        out[:, order] = out.copy()


def _butterflies(x: Array, span: int) -> Array:
    """Runs of ``span`` entries times Sylvester's matrix / sqrt(span)."""
    runs = x.reshape(-1, span) * x.dtype.type(span**-0.5)
    h = 1
    while h < span:
        pairs = runs.reshape(-1, span // (2 * h), 2, h)
        runs = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        h *= 2
    return np.asarray(runs.reshape(x.shape))


def _mixed(x: Array, span: int, odd: Array) -> Array:
    """The runs of each row times ``odd`` (m, m), summed one after the other."""
    if len(odd) == 1:
        return x
    runs = x.reshape(len(x), len(odd), span)
    total = odd[:, 0, None] * runs[:, None, 0]
    for k in range(1, len(odd)):
        total = total + odd[:, k, None] * runs[:, None, k]
    return np.asarray(total.reshape(x.shape))

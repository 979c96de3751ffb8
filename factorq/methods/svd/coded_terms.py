"""Factors on an entropy-coded trellis: ``W (m, n) ~ A diag(w) B^T``, a weight per component beside the paths.

With the components ``s u v^T`` of W, A holds ``s u``, B ``s v`` and w about ``1 / s``. Then an error of any entry of A
or B costs the same, one step is best for all of them, and a component gets ``log2(s / step)`` bits per entry, or none.
Balanced factors (roots of s in each) lose the ratio of arithmetic and geometric mean of s: g2p's decoder, 768x256, at
one stored bit per weight and rank 128: error .475 balanced, .459 so; resnet56's 64x576 at rank 38: .442 and .435.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...codecs import Encoded, Path
from ...constraints import Coded, Quantized
from ...constraints.coded import FIXED, Search, water_filled
from ...measure import scaled
from ...solvers.alternating import terms_by_turns
from ...solvers.svd import SVDResult

WEIGHTS = Quantized(8, group=None, grid="nonzero")
"""How the weights are stored: 1 to 128 times a scale. They shape the steps, A and B fit themselves to them."""

_RANGE = 64.0  # of the weights: components smaller than that share of the largest are coded as if they were so large

Turn = Callable[[NDArray[Any]], tuple[NDArray[Any], tuple[Encoded, Encoded], float]]


def start(
    W: NDArray[Any],
    components: SVDResult,
    bits: float | tuple[float, float],
    gram: NDArray[Any] | None,
    exponent: int,
) -> tuple[Turn, NDArray[Any], Encoded]:
    """The turn of the alternation, the first A (m, r), and the stored weights (1, r).

    Parameters
    ----------
    W : NDArray, (m, n)
    components : SVDResult
        Of W, or of W L for a gram L L^T.
    bits : float or tuple of two float
        Stored bits per entry of both factors, or of A and of B.
    gram : NDArray, (n, n) float64, or None
    exponent : int
        What is stored stands for ``W * 2**exponent``.
    """
    s = components.s.astype(np.float64)
    least = float(s.max()) / _RANGE
    inverse = 1 / np.maximum(s, least) if least > 0 else np.ones_like(s)
    weights = WEIGHTS.encode(inverse[None].astype(W.dtype))
    w = weights.decode()[0]
    size = np.sqrt(s / w)  # of both factors: size * w * size = s
    A = (components.U * size).astype(W.dtype)
    B = W.T @ (components.U * (size / np.maximum(s, least or 1.0))).astype(W.dtype)
    of_a, of_b = _searches(W.shape, size**2, bits)
    half = exponent // 2
    codes = _Coding(of_a, half), _Coding(of_b, exponent - half)
    turn = terms_by_turns(W, w, gram, codes, (np.mean(A**2, axis=0), np.mean(B**2, axis=0)))
    return turn, A, weights


def _searches(shape: tuple[int, ...], power: NDArray[Any], bits: float | tuple[float, float]) -> tuple[Search, Search]:
    """The searches for A and B, whose columns have these squared norms in a metric in which all errors weigh alike."""
    (m, n), r = shape, len(power)
    if isinstance(bits, tuple):
        return Coded(bits[0]).search(m * r), Coded(bits[1]).search(n * r)
    a, b = (Coded(bits).search(k * r) for k in shape)
    share = water_filled([power / m, power / n], [m, n], bits * (m + n) * r)[0]
    total = int(a.budget) + int(b.budget)
    of_a = FIXED + share * (total - 2 * FIXED)
    return replace(a, budget=of_a), replace(b, budget=total - of_a)


class _Coding:
    """Arrays times ``2**exponent`` as paths of a number of bytes; each search starts at the step of the one before."""

    def __init__(self, search: Search, exponent: int) -> None:
        self.search, self.exponent = search, exponent
        self.step: float | None = None

    def __call__(self, x: NDArray[Any]) -> tuple[Encoded, NDArray[Any]]:
        planes = np.ascontiguousarray(scaled(x, self.exponent))[None]
        path: Path = self.search.path(planes, self.step)
        self.step = path.step
        return path.reshaped(x.shape), scaled(path.decode().reshape(x.shape), -self.exponent)

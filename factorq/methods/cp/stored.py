"""CP factors as they are stored: order and signs of the terms, integers, weights as wide as they have to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import FLOATS
from ...codecs import Dense, Integers
from ...constraints import Real
from ...forms import CP, Leaf
from ...kernels.coordinate import Levels
from ...measure import binary_exponent, scaled
from ...solvers.cp.products import Unfolded
from .reading import Axes

Floats = NDArray[np.float64]

_WORSE = 1e-3  # share by which narrow weights may raise the error: of 4-bit factors 3 % of the bytes are saved
_MARGIN = 40  # exponents of two that stay free for sums of products


def real_form(factors: Sequence[Floats], axes: Axes, exponent: int, compute: np.dtype[Any], dtype: str) -> CP:
    """Columns of length 1, weights in falling order, all in ``dtype``; W's exponent goes to the weights."""
    lengths = [np.linalg.norm(F, axis=0) for F in factors]
    units = [F / np.where(n > 0, n, 1.0) for F, n in zip(factors, lengths, strict=True)]
    units, weights = _ordered(units, np.prod(lengths, axis=0))
    shared = _shared(exponent, weights, compute)
    units[0] = scaled(units[0], exponent - shared)
    stored = [Real(dtype).encode(np.ascontiguousarray(F, compute)) for F in (scaled(weights, shared)[None], *units)]
    return _form(stored[0], stored[1:], axes)


def integer_form(
    X: Unfolded,
    factors: Sequence[Floats],
    weights: Floats,
    levels: Sequence[Levels],
    axes: Axes,
    bits: Sequence[int],
    exponent: int,
    dtype: str,
) -> CP:
    """Packed integers and one weight per term; half-integers are stored as odd integers, their weights halved."""
    symmetric = all(of_mode.most < 2.0 ** (b - 1) for of_mode, b in zip(levels, bits, strict=True))
    Z, weights = _ordered(list(factors), weights, symmetric)
    compute = X.X.dtype
    powers = [1 if of_mode.shift else 0 for of_mode in levels]  # what a step of each factor's codes stands for
    if exponent - sum(bits) < _MARGIN - np.finfo(compute).maxexp:
        powers = [1 - b for b in bits]  # fractions: beside integers the weights would be too small for their dtype
    shared = _shared(exponent - sum(powers), weights, compute)
    powers[0] += exponent - sum(powers) - shared
    codes = []
    for F, of_mode, b, power in zip(Z, levels, bits, powers, strict=True):
        packed = Integers.encode(np.ascontiguousarray(F, compute), bits=b, zero=2.0 ** (b - 1) - of_mode.shift)
        codes.append(packed.times(power))
    narrow = _narrowest(X, Z, weights, scaled(weights, shared), shared, dtype)
    return _form(narrow, codes, axes)


def zero_form(axes: Axes, rank: int, bits: Sequence[int] | None, compute: np.dtype[Any], dtype: str) -> CP:
    """Factors whose weights are 0."""
    modes = [math.prod(group) for group in axes]
    weights = Real(dtype).encode(np.zeros((1, rank), compute))
    if bits is None:
        return _form(weights, [Real(dtype).encode(np.ones((n, rank), compute)) for n in modes], axes)
    codes = [
        Integers.encode(np.ones((n, rank), compute), bits=b, zero=2.0 ** (b - 1) - (0.0 if b > 1 else 0.5))
        for n, b in zip(modes, bits, strict=True)
    ]
    return _form(Dense.encode(np.zeros((1, rank), compute), "float16"), codes, axes)


def _form(weights: Any, factors: Sequence[Any], axes: Axes) -> CP:
    rank = weights.shape[1]
    pairs = zip(factors, axes, strict=True)
    return CP(Leaf(weights), tuple(Leaf(factor.reshaped((*group, rank))) for factor, group in pairs))


def _ordered(factors: list[Floats], weights: Floats, turn: bool = True) -> tuple[list[Floats], Floats]:
    """The terms by falling norm, all weights positive, the largest entries of all factors but the last positive.

    Without ``turn`` the signs stay: -8 .. 7 has no 8.
    """
    norms = np.abs(weights) * np.prod([np.linalg.norm(F, axis=0) for F in factors], axis=0)
    order = np.argsort(-norms, kind="stable")
    factors, weights = [F[:, order] for F in factors], weights[order]
    if not turn:
        return factors, weights
    sign = np.where(weights < 0, -1.0, 1.0)
    for k, F in enumerate(factors[:-1]):
        peak = F[np.abs(F).argmax(axis=0), np.arange(F.shape[1])]
        turned = np.where(peak < 0, -1.0, 1.0)
        factors[k], sign = F * turned, sign * turned
    factors[-1] = factors[-1] * sign
    return factors, np.abs(weights)


def _shared(exponent: int, weights: Floats, compute: np.dtype[Any]) -> int:
    """The part of W's exponent that ``weights`` can take in dtype ``compute``; the first factor takes the rest."""
    most, own = np.finfo(compute).maxexp - _MARGIN, binary_exponent(weights)
    return max(-most, min(exponent + own, most)) - own


def _narrowest(X: Unfolded, Z: list[Floats], exact: Floats, weights: Floats, shared: int, dtype: str) -> Dense:
    """The weights (1, r) in the narrowest dtype, none wider than W's, that leaves the error where it is."""
    least, wide = X.residual2(Z, exact), FLOATS[dtype].itemsize
    tried: list[tuple[float, Dense]] = []
    for name in ("float16", "float32", "float64"):
        if FLOATS[name].itemsize > max(wide, 2):
            break
        encoded = Dense.encode(np.ascontiguousarray(weights[None], X.X.dtype), name)
        error2 = X.residual2(Z, scaled(encoded.decode()[0].astype(np.float64), -shared))
        tried.append((error2, encoded))
        if error2 <= (1.0 + _WORSE) ** 2 * least:
            break
    return min(tried, key=lambda pair: pair[0])[1]

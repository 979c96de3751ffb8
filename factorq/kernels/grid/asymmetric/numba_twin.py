"""Asymmetric grids, compiled: the functions of ``reference``; sums that decide are sums of integers here too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..numba_twin import I32, I64, code_type, decode_groups, gcd, jit, load, per_group, rounded
from ..plan import REFITS, TRIES, shrinks


@jit
def _stored_pair(scale: float, minimum: float, bits: int) -> tuple[float, float]:
    """(s, m) in float16 and multiples of 2**-23 of the largest value, so that s*k + m fits a float32 exactly."""
    reach = max(abs(minimum), abs(minimum + scale * (2**bits - 1)))
    _, exponent = math.frexp(reach)
    floor = max(math.ldexp(1.0, exponent - 23), 2.0**-24)
    return max(rounded(scale, 11, floor), floor), rounded(minimum, 11, floor)


@jit
def _exact_pair(w: Any, fixed: Any, unit: float, bits: int) -> tuple[bool, float, float]:
    """Whether some (s, m) gives ``w`` back without error, and the first pair among ``TRIES``; constants always."""
    factor = w.dtype.type(unit)
    first, levels = I64(fixed[0]), I64(2**bits - 1)
    low, high, divisor, whole = first, first, I64(0), True
    for j in range(w.size):
        v = I64(fixed[j])
        whole = whole and w.dtype.type(v) == w[j] * factor
        divisor = gcd(abs(v - first), divisor)
        low, high = min(low, v), max(high, v)
        if divisor > 0 and (not whole or high - low > levels * divisor):
            return False, 0.0, 0.0
    if divisor == 0:  # a constant: its nearest float16, and what is left as one step
        m = rounded(float(w[0]), 11, 0.0)
        return True, rounded(float(w[0]) - m, 11, 0.0), m
    d, tries = I64(1), 0
    while (high - low) * d <= levels * divisor and tries < TRIES:
        step = divisor // d
        tries += 1
        if divisor % d == 0 and rounded(float(step) / unit, 11, 0.0) == float(step) / unit:
            for j in range(levels - (high - low) // step + 1):
                m = float(low - j * step) / unit
                if rounded(m, 11, 0.0) == m:
                    return True, float(step) / unit, m
                tries += 1
                if tries >= TRIES:
                    break
        d += 1
    return False, 0.0, 0.0


@jit
def _judge_pair(w: Any, fixed: Any, scale: float, minimum: float, unit: float, bits: int) -> tuple[int, int, int, int]:
    """Squared error (fixed point), <I, k>, <k, k> and <1, k> of the codes at the stored pair."""
    T = w.dtype.type
    s, m, shift, most, factor, none = T(scale), T(minimum), T(0.5), T(2**bits - 1), T(unit), T(0.0)
    error, cross, energy, total = I64(0), I64(0), I64(0), I64(0)
    for j in range(w.size):
        k = np.ceil((w[j] - m) / s - shift)
        k = none if k < none else k
        k = most if k > most else k
        r = I64(I32(np.rint((w[j] - (s * k + m)) * factor)))
        c = I64(I32(k))
        error += r * r
        cross += c * I64(fixed[j])
        energy += c * c
        total += c
    return error, cross, energy, total


@jit
def _fit_pair(w: Any, fixed: Any, shares: Any, bits: int) -> tuple[float, float]:
    unit = load(w, fixed)
    if unit == 0.0:
        return 0.0, 0.0
    found, s, m = _exact_pair(w, fixed, unit, bits)
    if found:
        return s, m
    low, high, total = I64(fixed[0]), I64(fixed[0]), I64(0)
    for j in range(w.size):
        low, high = min(low, I64(fixed[j])), max(high, I64(fixed[j]))
        total += I64(fixed[j])
    chosen, offset, least = 0.0, 0.0, I64(2**62)
    best_s, best_m = 0.0, 0.0
    n, levels, middle = float(w.size), float(2**bits - 1), 0.5 * (float(low) + float(high))
    for trial in range(shares.size + REFITS):
        if trial < shares.size:
            reach = float(high - low) * shares[trial]
            s, m = reach / levels / unit, (middle - 0.5 * reach) / unit
        else:
            s, m = best_s, best_m
        s, m = _stored_pair(s, m, bits)
        if s == chosen and m == offset:
            continue
        error, cross, energy, count = _judge_pair(w, fixed, s, m, unit, bits)
        better = error < least
        if better:
            least, chosen, offset = error, s, m
        spread = n * float(energy) - float(count) * float(count)
        if spread > 0.0 and (better or trial >= shares.size):
            best_s = (n * float(cross) - float(total) * float(count)) / spread
            best_m = (float(total) - best_s * float(count)) / n / unit
            best_s = best_s / unit
    return chosen, offset


@jit
def _encode_pair(w: Any, scale: float, minimum: float, bits: int, out: Any) -> None:
    T = w.dtype.type
    s, m, shift, most, none = T(scale), T(minimum), T(0.5), T(2**bits - 1), T(0.0)
    if scale == 0.0:
        out[:] = out.dtype.type(0)
        return
    for j in range(w.size):
        k = np.ceil((w[j] - m) / s - shift)
        k = none if k < none else k
        k = most if k > most else k
        out[j] = out.dtype.type(I32(k))


@jit
def _fit_encode_pairs(x: Any, group: int, shares: Any, bits: int, scales: Any, minima: Any, codes: Any) -> None:
    fixed = np.empty(group, np.int32)
    for i in range(x.shape[0]):
        for g in range(scales.shape[1]):
            w = x[i, g * group : (g + 1) * group]
            scales[i, g], minima[i, g] = _fit_pair(w, fixed[: w.size], shares, bits)
            _encode_pair(w, scales[i, g], minima[i, g], bits, codes[i, g * group : (g + 1) * group])


@jit
def _encode_pairs(x: Any, scales: Any, minima: Any, group: int, bits: int, out: Any) -> None:
    for i in range(x.shape[0]):
        for g in range(scales.shape[1]):
            part = slice(g * group, (g + 1) * group)
            _encode_pair(x[i, part], scales[i, g], minima[i, g], bits, out[i, part])


def fit_encode_asymmetric(
    x: NDArray[Any], bits: int, group: int
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    scales, minima, codes = per_group(x, group), per_group(x, group), np.empty(x.shape, code_type(bits))
    _fit_encode_pairs(x, group, shrinks(bits), bits, scales, minima, codes)
    return codes, scales, minima


def encode_asymmetric(
    x: NDArray[Any], scales: NDArray[np.float64], minima: NDArray[np.float64], bits: int, group: int
) -> NDArray[Any]:
    codes = np.empty(x.shape, code_type(bits))
    _encode_pairs(x, scales, minima, group, bits, codes)
    return codes


def decode_asymmetric(
    codes: NDArray[Any], scales: NDArray[np.float64], minima: NDArray[np.float64], group: int, dtype: Any
) -> NDArray[Any]:
    out = np.empty(codes.shape, dtype)
    decode_groups(codes, scales, minima, group, 0.0, out)
    return out

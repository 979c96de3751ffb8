"""Asymmetric grids, plainly: the specification of ``numba_twin``, equal to it bit for bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....arrays import Array, namespace
from ..plan import REFITS, TRIES, shrinks
from ..reference import Group, code_type, float_type, groups, load, rounded, spread


def fit_encode_asymmetric(
    x: NDArray[Any], bits: int, group: int
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
    scales, minima = np.empty((2, x.shape[0], -(-x.shape[1] // group)))
    for where, w in groups(x, group):
        scales[where], minima[where] = _fit_pair(w, shrinks(bits), bits)
    return encode_asymmetric(x, scales, minima, bits, group), scales, minima


def encode_asymmetric(x: Array, scales: Array, minima: Array, bits: int, group: int) -> Array:
    xp = namespace(x)
    s = xp.astype(spread(scales, x.shape, group), x.dtype)
    m = xp.astype(spread(minima, x.shape, group), x.dtype)
    safe = xp.where(s == 0, xp.ones_like(s), s)
    k = xp.clip(xp.ceil((x - m) / safe - 0.5), 0.0, 2.0**bits - 1)
    return xp.astype(xp.where(s == 0, xp.zeros_like(k), k), code_type(xp, bits))


def decode_asymmetric(codes: Array, scales: Array, minima: Array, group: int, dtype: Any) -> Array:
    xp, dtype = namespace(codes), float_type(codes, dtype)
    s = xp.astype(spread(scales, codes.shape, group), dtype)
    m = xp.astype(spread(minima, codes.shape, group), dtype)
    return s * xp.astype(codes, dtype) + m


def _stored_pair(scale: float, minimum: float, bits: int) -> tuple[float, float]:
    """(s, m) in float16 and multiples of 2**-23 of the largest value, so that s*k + m fits a float32 exactly."""
    reach = max(abs(minimum), abs(minimum + scale * (2**bits - 1)))
    floor = max(2.0 ** (math.frexp(reach)[1] - 23), 2.0**-24)
    return max(rounded(scale, 11, floor), floor), rounded(minimum, 11, floor)


def _fit_pair(w: Group, shares: NDArray[np.float64], bits: int) -> tuple[float, float]:
    unit, fixed = load(w)
    if unit == 0.0:
        return 0.0, 0.0
    found, s, m = _exact_pair(w, fixed, unit, bits)
    if found:
        return s, m
    n, levels, total = float(w.size), 2.0**bits - 1, float(np.sum(fixed))
    low, high = float(fixed.min()), float(fixed.max())
    chosen, best, least = (0.0, 0.0), (0.0, 0.0), 2**62
    for trial in range(shares.size + REFITS):
        scanning = trial < shares.size
        s, m = best
        if scanning:
            reach = (high - low) * float(shares[trial])
            s, m = reach / levels / unit, (0.5 * (low + high) - 0.5 * reach) / unit
        s, m = _stored_pair(s, m, bits)
        if (s, m) == chosen:
            continue
        error, cross, energy, count = _judge_pair(w, fixed, s, m, unit, bits)
        better = error < least
        if better:
            least, chosen = error, (s, m)
        spread = n * energy - float(count) * count
        if spread > 0.0 and (better or not scanning):
            slope = (n * cross - total * count) / spread
            best = (slope / unit, (total - slope * count) / n / unit)
    return chosen


def _exact_pair(w: Group, fixed: NDArray[np.int64], unit: float, bits: int) -> tuple[bool, float, float]:
    """Whether some (s, m) gives ``w`` back without error, and the first pair among ``TRIES``; constants always."""
    divisor, low, high = int(np.gcd.reduce(fixed - fixed[0])), int(fixed.min()), int(fixed.max())
    if divisor == 0:  # a constant: its nearest float16, and what is left as one step
        m = rounded(float(w[0]), 11, 0.0)
        return True, rounded(float(w[0]) - m, 11, 0.0), m
    if np.any(fixed != w * w.dtype.type(unit)):
        return False, 0.0, 0.0
    d, tries = 1, 0
    while (high - low) * d <= (2**bits - 1) * divisor and tries < TRIES:
        s, tries = (divisor // d) / unit, tries + 1
        if divisor % d == 0 and rounded(s, 11, 0.0) == s:
            for j in range(2**bits - (high - low) // (divisor // d)):
                m = (low - j * (divisor // d)) / unit
                if rounded(m, 11, 0.0) == m:
                    return True, s, m
                tries += 1
                if tries >= TRIES:
                    break
        d += 1
    return False, 0.0, 0.0


def _judge_pair(
    w: Group, fixed: NDArray[np.int64], scale: float, minimum: float, unit: float, bits: int
) -> tuple[int, int, int, int]:
    """Squared error (fixed point), <I, k>, <k, k> and <1, k> of the codes at the stored pair."""
    s, m = w.dtype.type(scale), w.dtype.type(minimum)
    k = np.clip(np.ceil((w - m) / s - w.dtype.type(0.5)), 0.0, 2.0**bits - 1)
    r, c = np.rint((w - (s * k + m)) * w.dtype.type(unit)).astype(np.int64), k.astype(np.int64)
    return int(np.sum(r * r)), int(np.sum(c * fixed)), int(np.sum(c * c)), int(np.sum(c))

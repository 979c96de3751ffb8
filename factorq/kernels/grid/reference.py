"""Grouped integer grids, plainly: the specification of ``numba_twin``, equal to it bit for bit.

``encode`` and ``decode`` are array-API code for arrays of any library. The fits run group by group on NumPy arrays;
sums that decide between two scales are sums of integers (values in fixed point, doubled codes), in any order the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Array, namespace
from .plan import FIXED, REFITS, SCAN_BITS, TINIEST, Plan, candidates, plan

Group = NDArray[Any]


def fit(x: NDArray[Any], bits: int, group: int, zero: float) -> NDArray[np.float64]:
    grid = plan(bits, zero)
    scales = np.empty((x.shape[0], -(-x.shape[1] // group)))
    for where, w in groups(x, group):
        scales[where] = _fit_group(w, candidates(grid), grid)
    return scales


def fit_encode(x: NDArray[Any], bits: int, group: int, zero: float) -> tuple[NDArray[Any], NDArray[np.float64]]:
    scales = fit(x, bits, group, zero)
    return encode(x, scales, bits, group, zero), scales


def encode(x: Array, scales: Array, bits: int, group: int, zero: float) -> Array:
    xp, grid = namespace(x), plan(bits, zero)
    s = xp.astype(spread(scales, x.shape, group), x.dtype)
    safe = xp.where(s == 0, xp.ones_like(s), s)
    k = xp.clip(xp.ceil(x / safe + grid.frac), grid.low, grid.high)
    return xp.astype(xp.where(s == 0, xp.zeros_like(k), k) + grid.base, code_type(xp, bits))


def decode(codes: Array, scales: Array, group: int, zero: float, dtype: Any) -> Array:
    xp, dtype = namespace(codes), float_type(codes, dtype)
    s = xp.astype(spread(scales, codes.shape, group), dtype)
    return s * (xp.astype(codes, dtype) - zero) + 0.0


def groups(x: NDArray[Any], group: int) -> Iterator[tuple[tuple[int, int], Group]]:
    for i in range(x.shape[0]):
        for g in range(-(-x.shape[1] // group)):
            yield (i, g), x[i, g * group : (g + 1) * group]


def spread(scales: Array, shape: tuple[int, ...], group: int) -> Array:
    return namespace(scales).repeat(scales, group, axis=1)[:, : shape[1]]


def code_type(xp: Any, bits: int) -> Any:
    return xp.uint8 if bits <= 8 else xp.uint16


def float_type(codes: Array, dtype: Any) -> Any:
    xp = namespace(codes)
    return xp.float64 if "float64" in str(dtype) else xp.float32


def rounded(value: float, digits: int, floor: float) -> float:
    """``value`` at ``digits`` significant bits, no finer than ``floor`` and float16's 2**-24, in float16's range."""
    if value == 0.0:
        return 0.0
    quantum = max(2.0 ** max(math.frexp(value)[1] - digits, -24), floor)
    top = 65536.0 - 2.0 ** (16 - digits)
    return float(np.clip(np.rint(value / quantum) * quantum, -top, top))


def _stored(scale: float, digits: int) -> float:
    """A scale as it is stored; one that is not zero does not become zero."""
    size = max(rounded(abs(scale), digits, 0.0), 2.0**-24) if scale else 0.0
    return math.copysign(size, scale)


def load(w: Group) -> tuple[float, NDArray[np.int64]]:
    """The unit (a power of two, 0 for tiny groups) and round(w * unit), |.| <= 2**24."""
    peak = float(np.max(np.abs(w)))
    if peak < TINIEST:
        return 0.0, np.zeros(w.shape, np.int64)
    unit = 2.0 ** (FIXED - math.frexp(peak)[1])
    return unit, np.rint(w * w.dtype.type(unit)).astype(np.int64)


def _fit_group(w: Group, ratios: NDArray[np.float64], grid: Plan) -> float:
    unit, fixed = load(w)
    if unit == 0.0:
        return 0.0
    exact = _exact(w, fixed, unit, grid)
    if exact:
        return exact
    start = _start if grid.bits <= SCAN_BITS else _start_judged
    s, chosen, least = start(w, fixed, unit, ratios, grid), 0.0, 2**62
    for _ in range(REFITS):
        s = _stored(s, grid.digits)
        if s in (0.0, chosen):
            break
        error, cross, energy = _judge(w, fixed, s, unit, grid)
        if error < least:
            least, chosen = error, s
        s = 2.0 * cross / energy / unit if energy else 0.0
    return chosen


def _exact(w: Group, fixed: NDArray[np.int64], unit: float, grid: Plan) -> float:
    """A scale that gives ``w`` back without error, or 0: w = h*c with integers c (odd on mid-rise grids)."""
    odd = grid.half != 0.0
    below, above = int(-grid.low), int(grid.high)
    if odd:
        below, above = 2 * below + 1, 2 * above - 1
    if np.any(fixed != w * w.dtype.type(unit)):
        return 0.0
    divisor, low, high = int(np.gcd.reduce(fixed)), min(0, int(fixed.min())), max(0, int(fixed.max()))
    if odd and np.any(fixed // divisor % 2 == 0):
        return 0.0
    for d in range(1, max(below, above) * divisor // max(high, -low) + 1, 2 if odd else 1):
        scale = (divisor // d) / unit * (2.0 if odd else 1.0)
        if divisor % d or _stored(scale, grid.digits) != scale:
            continue
        if high * d <= above * divisor and -low * d <= below * divisor:
            return scale
        if -low * d <= above * divisor and high * d <= below * divisor:
            return -scale
    return 0.0


def _start(w: Group, fixed: NDArray[np.int64], unit: float, ratios: NDArray[np.float64], grid: Plan) -> float:
    """The least-squares scale of the best codes among the candidates: the score <I,c>^2/<c,c> is maximal."""
    f, shift = (w * w.dtype.type(unit * 2.0**-FIXED)).astype(np.float32), grid.bits + 1
    peak, best, start = float(np.max(np.abs(f))), -1.0, 0.0
    for r in ratios:
        k = np.rint(f * np.float32(r / peak) + np.float32(grid.frac + 0.5))
        c = (2 * np.clip(k, grid.low, grid.high) - 2 * grid.half).astype(np.int64)
        cross, energy = float(np.sum(c * (fixed >> shift))), float(np.sum(c * c))
        score = cross * cross / energy if energy else 0.0
        if score > best:
            best, start = score, 2.0 * cross / energy * 2.0**shift / unit if energy else 0.0
    return start


def _start_judged(w: Group, fixed: NDArray[np.int64], unit: float, ratios: NDArray[np.float64], grid: Plan) -> float:
    """The candidate with the least error, for codes too long for 32-bit products."""
    peak = float(np.max(np.abs(w)))
    trials = [_stored(peak / r, grid.digits) for r in ratios]
    return min(trials, key=lambda s: _judge(w, fixed, s, unit, grid)[0])


def _judge(w: Group, fixed: NDArray[np.int64], scale: float, unit: float, grid: Plan) -> tuple[int, int, int]:
    """Squared error (fixed point), <I, c> and <c, c> of the codes that ``encode`` gives at the stored ``scale``."""
    s = w.dtype.type(scale)
    q = np.clip(np.ceil(w / s + w.dtype.type(grid.frac)), grid.low, grid.high) - w.dtype.type(grid.half)
    r, c = np.rint((w - s * q) * w.dtype.type(unit)).astype(np.int64), (q + q).astype(np.int64)
    return int(np.sum(r * r)), int(np.sum(c * fixed)), int(np.sum(c * c))

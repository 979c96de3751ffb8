"""Grouped integer grids, compiled: the functions of ``reference``, group by group while a group is in cache.

Whatever decides between two scales is a sum of integers, hence exact: LLVM may vectorise it at any width and in any
order, and codes are the same on every machine. Nothing here needs fastmath.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .plan import FIXED, REFITS, SCAN_BITS, TINIEST, Plan, candidates, plan

F32: Any = np.float32
I32: Any = np.int32
I64: Any = np.int64
jit = numba.njit(cache=True, nogil=True)


@jit
def rounded(value: float, digits: int, floor: float) -> float:
    """``value`` at ``digits`` significant bits, no finer than ``floor`` and float16's 2**-24, in float16's range."""
    if value == 0.0:
        return 0.0
    _, exponent = math.frexp(value)
    quantum = max(math.ldexp(1.0, max(exponent - digits, -24)), floor)
    top = 65536.0 - math.ldexp(1.0, 16 - digits)
    return float(min(max(np.rint(value / quantum) * quantum, -top), top))


@jit
def _stored(scale: float, digits: int) -> float:
    """A scale as it is stored; one that is not zero does not become zero."""
    size = rounded(abs(scale), digits, 0.0)
    if scale != 0.0:
        size = max(size, 2.0**-24)
    return size if scale > 0.0 else -size


@jit
def gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


@jit
def load(w: Any, fixed: Any) -> float:
    """Write round(w * unit), |.| <= 2**24, into ``fixed`` (int32); give back the unit, a power of two, 0 if tiny."""
    peak = abs(w[0])
    for j in range(w.size):
        size = abs(w[j])
        peak = size if size > peak else peak
    if peak < TINIEST:
        return 0.0
    _, exponent = math.frexp(float(peak))
    unit = math.ldexp(1.0, FIXED - exponent)
    factor = w.dtype.type(unit)
    for j in range(w.size):
        fixed[j] = I32(np.rint(w[j] * factor))
    return unit


@jit
def _exact(w: Any, fixed: Any, unit: float, grid: Plan) -> float:
    """A scale that gives ``w`` back without error, or 0: w = h*c with integers c (odd on mid-rise grids)."""
    odd = grid.half != 0.0
    below = 1 - 2 * I64(grid.low) if odd else -I64(grid.low)
    above = 2 * I64(grid.high) - 1 if odd else I64(grid.high)
    factor = w.dtype.type(unit)
    low, high, divisor = I64(0), I64(0), I64(0)
    for j in range(w.size):  # on values that are not on a grid this ends after a few elements
        v = I64(fixed[j])
        if w.dtype.type(v) != w[j] * factor:
            return 0.0
        divisor = gcd(abs(v), divisor)
        low, high = min(low, v), max(high, v)
        if max(high, -low) > max(below, above) * divisor:
            return 0.0
    if odd:
        for j in range(w.size):
            if (I64(fixed[j]) // divisor) % 2 == 0:
                return 0.0
    d = 1
    while max(high, -low) * d <= max(below, above) * divisor:
        if divisor % d == 0:
            scale = float(divisor // d) / unit * (2.0 if odd else 1.0)
            if _stored(scale, grid.digits) == scale:
                if high * d <= above * divisor and -low * d <= below * divisor:
                    return scale
                if -low * d <= above * divisor and high * d <= below * divisor:
                    return -scale
        d += 2 if odd else 1
    return 0.0


@jit
def _products(f: Any, coarse: Any, inverse: float, grid: Plan) -> tuple[int, int]:
    """<I, c> and <c, c> of the doubled codes c at the scale 1/inverse of the normalised float32 values ``f``."""
    inv, shift = F32(inverse), F32(grid.frac + 0.5)
    least, most, one, two = F32(grid.low), F32(grid.high), F32(2.0 * grid.half), F32(2.0)
    cross, energy = I64(0), I64(0)
    for start in range(0, f.size, 128):  # 128 products cannot overflow an int32
        part, whole = f[start : start + 128], coarse[start : start + 128]  # slices: 5 times faster than offset indices
        a, b = I32(0), I32(0)
        for j in range(part.size):
            k = np.rint(part[j] * inv + shift)
            k = least if k < least else k
            k = most if k > most else k
            c = I32(two * k - one)
            a = I32(a + I32(c * whole[j]))
            b = I32(b + I32(c * c))
        cross += a
        energy += b
    return cross, energy


@jit
def _judge(w: Any, fixed: Any, scale: float, unit: float, grid: Plan) -> tuple[int, int, int]:
    """Squared error (fixed point), <I, c> and <c, c> of the codes that ``encode`` gives at the stored ``scale``."""
    T = w.dtype.type
    s, shift, least, most = T(scale), T(grid.frac), T(grid.low), T(grid.high)
    half, factor = T(grid.half), T(unit)
    error, cross, energy = I64(0), I64(0), I64(0)
    for j in range(w.size):
        k = np.ceil(w[j] / s + shift)
        k = least if k < least else k
        k = most if k > most else k
        q = k - half
        r = I64(I32(np.rint((w[j] - s * q) * factor)))
        c = I64(I32(q + q))
        error += r * r
        cross += c * I64(fixed[j])
        energy += c * c
    return error, cross, energy


@jit
def _start(w: Any, fixed: Any, f: Any, coarse: Any, unit: float, ratios: Any, grid: Plan) -> float:
    """The least-squares scale of the best codes among the candidates: the score <I,c>^2/<c,c> is maximal."""
    best, start = -1.0, 0.0
    norm, shift = w.dtype.type(unit * 2.0**-FIXED), grid.bits + 1
    peak = F32(0.0)
    for j in range(w.size):
        f[j] = F32(w[j] * norm)
        coarse[j] = fixed[j] >> shift
        peak = abs(f[j]) if abs(f[j]) > peak else peak
    for r in ratios:
        a, b = _products(f, coarse, r / float(peak), grid)
        score = float(a) * float(a) / float(b) if b > 0 else 0.0
        if score > best:
            best, start = score, 2.0 * float(a) / float(b) * math.ldexp(1.0, shift) / unit if b > 0 else 0.0
    return start


@jit
def _start_judged(w: Any, fixed: Any, unit: float, ratios: Any, grid: Plan) -> float:
    """The candidate with the least error, for codes too long for 32-bit products."""
    least, start = I64(2**62), 0.0
    peak = 0.0
    for j in range(w.size):
        peak = max(peak, abs(float(w[j])))
    for r in ratios:
        s = _stored(peak / r, grid.digits)
        error, _, _ = _judge(w, fixed, s, unit, grid)
        if error < least:
            least, start = error, s
    return start


@jit
def _fit_group(w: Any, fixed: Any, f: Any, coarse: Any, ratios: Any, grid: Plan) -> float:
    unit = load(w, fixed)
    if unit == 0.0:
        return 0.0
    s = _exact(w, fixed, unit, grid)
    if s != 0.0:
        return s
    if grid.bits <= SCAN_BITS:
        s = _start(w, fixed, f, coarse, unit, ratios, grid)
    else:
        s = _start_judged(w, fixed, unit, ratios, grid)
    chosen, least = 0.0, I64(2**62)
    for _ in range(REFITS):
        s = _stored(s, grid.digits)
        if s == 0.0 or s == chosen:
            break
        error, a, b = _judge(w, fixed, s, unit, grid)
        if error < least:
            least, chosen = error, s
        s = 2.0 * float(a) / float(b) / unit if b > 0 else 0.0
    return chosen


@jit
def _encode_group(w: Any, scale: float, grid: Plan, out: Any) -> None:
    T = w.dtype.type
    s, shift, least, most, base = T(scale), T(grid.frac), T(grid.low), T(grid.high), T(grid.base)
    if scale == 0.0:
        out[:] = out.dtype.type(I32(base))
        return
    for j in range(w.size):
        k = np.ceil(w[j] / s + shift)
        k = least if k < least else k
        k = most if k > most else k
        out[j] = out.dtype.type(I32(k + base))


@jit
def _fit_encode(x: Any, group: int, ratios: Any, grid: Plan, scales: Any, codes: Any) -> None:
    fixed, f, coarse = np.empty(group, np.int32), np.empty(group, np.float32), np.empty(group, np.int32)
    for i in range(x.shape[0]):
        for g in range(scales.shape[1]):
            w = x[i, g * group : (g + 1) * group]
            n = w.size
            scales[i, g] = _fit_group(w, fixed[:n], f[:n], coarse[:n], ratios, grid)
            if codes.size > 0:
                _encode_group(w, scales[i, g], grid, codes[i, g * group : (g + 1) * group])


@jit
def _encode(x: Any, scales: Any, group: int, grid: Plan, out: Any) -> None:
    for i in range(x.shape[0]):
        for g in range(scales.shape[1]):
            part = slice(g * group, (g + 1) * group)
            _encode_group(x[i, part], scales[i, g], grid, out[i, part])


@jit
def decode_groups(codes: Any, scales: Any, minima: Any, group: int, zero: float, out: Any) -> None:
    T = out.dtype.type
    for i in range(codes.shape[0]):
        for g in range(scales.shape[1]):
            k, y = codes[i, g * group : (g + 1) * group], out[i, g * group : (g + 1) * group]
            s, m, z = T(scales[i, g]), T(minima[i, g] if minima.size > 0 else 0.0), T(zero)
            for j in range(k.size):
                y[j] = s * (T(k[j]) - z) + m  # adding +0.0 also turns -0.0 into 0.0


NONE = np.empty((0, 0))


def fit(x: NDArray[Any], bits: int, group: int, zero: float) -> NDArray[np.float64]:
    grid, scales = plan(bits, zero), per_group(x, group)
    _fit_encode(x, group, candidates(grid), grid, scales, NONE.astype(code_type(bits)))
    return scales


def fit_encode(x: NDArray[Any], bits: int, group: int, zero: float) -> tuple[NDArray[Any], NDArray[np.float64]]:
    grid, scales, codes = plan(bits, zero), per_group(x, group), np.empty(x.shape, code_type(bits))
    _fit_encode(x, group, candidates(grid), grid, scales, codes)
    return codes, scales


def encode(x: NDArray[Any], scales: NDArray[np.float64], bits: int, group: int, zero: float) -> NDArray[Any]:
    codes = np.empty(x.shape, code_type(bits))
    _encode(x, scales, group, plan(bits, zero), codes)
    return codes


def decode(codes: NDArray[Any], scales: NDArray[np.float64], group: int, zero: float, dtype: Any) -> NDArray[Any]:
    out = np.empty(codes.shape, dtype)
    decode_groups(codes, scales, NONE, group, zero, out)
    return out


def per_group(x: NDArray[Any], group: int) -> NDArray[np.float64]:
    return np.empty((x.shape[0], -(-x.shape[1] // group)))


def code_type(bits: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if bits <= 8 else np.uint16

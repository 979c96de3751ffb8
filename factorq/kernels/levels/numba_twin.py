"""The Numba twin: one group at a time, each pass a few vectorised sweeps over the group."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .reference import FLOAT16_MAX, POLISHES

Floats = NDArray[Any]
SWEPT = 256  # most levels that are compared one by one: 11 Mweight/s at 256 levels, 8 with bisection
jit = numba.njit(cache=True, nogil=True, error_model="numpy")
# a call that is not inlined counts the references of its arrays: 20 to 50 ns where a sweep over 128 entries takes 48
inner = numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True)


@jit
def encode(x: Floats, levels: Floats, scales: Floats, group: int, codes: NDArray[Any]) -> None:
    """codes[i, j] = argmin_k |x[i, j] - scales[i, j // group] * levels[k]|, ties to the lower k."""
    rows, n = x.shape
    width = min(group, n)
    turned, value, threshold, zero = _workspace(x, levels, width)
    code = np.empty(width, np.int32)
    v = np.empty(width, x.dtype)
    ramp = np.empty(value.size, x.dtype)
    for k in range(value.size):
        ramp[k] = k  # sweeping the codes themselves as values: 4 times as fast as bisection at 16 levels
    last = levels[0] - levels[0]
    for i in range(rows):
        for start in range(0, n, width):
            stop = min(n, start + width)
            scale = scales[i, start // width]
            if scale == 0:
                for j in range(start, stop):
                    codes[i, j] = zero
                continue
            if abs(scale) != last:  # without scales the tables are built once
                last = abs(scale)
                _tables(levels, last, value, threshold)
            _turn(x[i, start:stop], scale, turned)
            _assign(turned, stop - start, ramp, threshold, code, v)
            row = codes[i, start:stop]
            for j in range(row.size):
                row[j] = np.int32(v[j])


@jit
def decode(codes: NDArray[Any], levels: Floats, scales: Floats, group: int, out: Floats) -> None:
    """out[i, j] = scales[i, j // group] * levels[codes[i, j]]."""
    rows, n = codes.shape
    for i in range(rows):
        for start in range(0, n, group):
            scale = scales[i, start // group]
            for j in range(start, min(n, start + group)):
                out[i, j] = scale * levels[codes[i, j]]


@jit
def fit_encode(
    x: Floats,
    levels: Floats,
    group: int,
    coarse: Floats,
    fine: Floats,
    mirror: bool,
    codes: NDArray[Any],
    scales: Floats,
) -> None:
    """Per group: the float16 scale of least squared error among the candidates, and the codes under it."""
    rows, n = x.shape
    width = min(group, n)
    turned, value, threshold, _ = _workspace(x, levels, width)
    v = np.empty(width, x.dtype)
    terms = np.empty(width, x.dtype)
    squares = np.empty(width, x.dtype)
    code = np.empty(width, np.int32)
    for i in range(rows):
        for start in range(0, n, width):
            part = x[i, start : min(n, start + width)]
            first = _extreme(part, terms)
            scale = _exact(part, first, levels, value, threshold)
            if scale == 0:
                scale = _fit(
                    part, abs(first), levels, coarse, fine, mirror, turned, value, threshold, code, v, terms, squares
                )
            scales[i, start // width] = scale
    encode(x, levels, scales, width, codes)


@jit
def _fit(
    x: Floats,
    largest: Any,
    levels: Floats,
    coarse: Floats,
    fine: Floats,
    mirror: bool,
    turned: Floats,
    value: Floats,
    threshold: Floats,
    code: NDArray[np.int32],
    v: Floats,
    terms: Floats,
    squares: Floats,
) -> Any:
    """Scale of one group: scanned coarse, then fine with both signs, then polished on the float16 grid."""
    n = x.size
    zero = x[0] - x[0]
    kind = x.dtype.type
    power = _power(x, n, terms)
    if power == 0:
        return zero
    rms = np.sqrt(power / kind(n))
    top = max(abs(levels[0]), abs(levels[-1]))
    gain, best, centre = zero, zero, zero
    _turn(x, kind(1), turned)
    for c in range(coarse.size + 1 + fine.size * (2 if mirror else 1)):
        f = c - coarse.size - 1
        if f < 0:
            trial = coarse[c] * rms if f < -1 else (largest / top if top > 0 else zero)
        else:
            if f == 0:
                centre = best
            if f == fine.size:
                _turn(x, kind(-1), turned)
            trial = fine[f % fine.size] * centre
        if trial == 0:
            continue
        _tables(levels, trial, value, threshold)
        _assign(turned, n, value, threshold, code, v)
        cross, norm = _dots(turned, v, n, terms, squares)
        if norm > 0 and cross > 0:
            refit = cross / norm
            if cross * refit > gain:
                gain = cross * refit
                best = trial * refit if f < fine.size else -trial * refit
    kept, least = zero, power
    scale = best
    for _ in range(POLISHES):
        scale = kind(_round_float16(scale))
        if scale == 0 or scale == kept:
            break
        _turn(x, scale, turned)
        _tables(levels, abs(scale), value, threshold)
        _assign(turned, n, value, threshold, code, v)
        cross, norm = _dots(turned, v, n, terms, squares)
        for j in range(n):
            turned[j] -= v[j]
        error = _power(turned, n, terms)
        if error < least:
            kept, least = scale, error
        scale = scale * (cross / norm if norm > 0 else zero)
    return kept


@inner
def _exact(x: Floats, first: Any, levels: Floats, value: Floats, threshold: Floats) -> Any:
    """First float16 s = x_max / level with x = s * levels[codes] exactly, else 0."""
    zero = first - first
    if first == 0:
        return zero
    for k in range(levels.size):
        if levels[k] == 0:
            continue
        scale = x.dtype.type(_round_float16(first / levels[k]))
        if scale * levels[k] != first or scale == 0:  # all but 1 of 2**13 trials end here
            continue
        _tables(levels, abs(scale), value, threshold)
        hit = True
        for j in range(x.size):
            y = -x[j] if scale < 0 else x[j]
            if value[_search_one(y, threshold)] != y:
                hit = False
                break
        if hit:
            return scale
    return zero


@inner
def _extreme(x: Floats, terms: Floats) -> Any:
    """First entry of largest absolute value; halves are compared with halves, which vectorises."""
    n = x.size
    for j in range(n):
        terms[j] = abs(x[j])
    while n > 1:
        half = (n + 1) // 2
        for j in range(n - half):
            a, b = terms[j], terms[j + half]
            terms[j] = a if a > b else b
        n = half
    j = 0
    while abs(x[j]) != terms[0]:
        j += 1
    return x[j]


@jit
def _workspace(x: Floats, levels: Floats, width: int) -> Any:
    """Buffers for a group and its tables, padded to a power of two, at least 4; the code of the level nearest to 0."""
    size = 4
    while size < levels.size:
        size *= 2
    zero = 0
    for k in range(levels.size):
        if abs(levels[k]) < abs(levels[zero]):
            zero = k
    return np.empty(width, x.dtype), np.empty(size, x.dtype), np.full(size, np.inf, x.dtype), zero


@inner
def _tables(levels: Floats, scale: Any, value: Floats, threshold: Floats) -> None:
    """value[k] = scale * levels[k], the last repeated; threshold[k] between value[k] and value[k + 1], then inf."""
    count = levels.size
    for k in range(count):
        value[k] = scale * levels[k]
    for k in range(count, value.size):
        value[k] = value[count - 1]
    for k in range(count - 1):
        middle = value.dtype.type(0.5) * (value[k] + value[k + 1])
        threshold[k] = value[k] if middle >= value[k + 1] else middle


@inner
def _turn(x: Floats, scale: Any, out: Floats) -> None:
    """Copy x, or -x under a negative scale, to ``out``."""
    sign = x.dtype.type(-1 if scale < 0 else 1)
    for j in range(x.size):
        out[j] = sign * x[j]


@jit
def _assign(x: Floats, n: int, value: Floats, threshold: Floats, code: NDArray[np.int32], v: Floats) -> None:
    """v[j] = the value nearest to x[j]: compare with every threshold for up to SWEPT levels, else search and gather."""
    if value.size > SWEPT:
        _search(x, n, threshold, code)
        for j in range(n):
            v[j] = value[code[j]]
    else:
        _sweep(x, n, value, threshold, v)


@inner
def _sweep(x: Floats, n: int, value: Floats, threshold: Floats, v: Floats) -> None:
    """v[j] = the last value whose threshold is below x[j], 3 and then 4 thresholds per pass over the entries.

    2.7 Gweight/s at 16 levels and groups of 128; with the loops swapped LLVM does not vectorise, and it is 0.16.
    """
    v0, v1, v2, v3 = value[0], value[1], value[2], value[3]
    t0, t1, t2 = threshold[0], threshold[1], threshold[2]
    for j in range(n):
        y = x[j]
        u = v1 if y > t0 else v0
        u = v2 if y > t1 else u
        v[j] = v3 if y > t2 else u
    for k in range(3, value.size - 1, 4):
        t0, t1, t2, t3 = threshold[k], threshold[k + 1], threshold[k + 2], threshold[k + 3]
        v0, v1, v2, v3 = value[k + 1], value[k + 2], value[k + 3], value[k + 4]
        for j in range(n):
            y, u = x[j], v[j]
            u = v0 if y > t0 else u
            u = v1 if y > t1 else u
            u = v2 if y > t2 else u
            v[j] = v3 if y > t3 else u


@inner
def _search(x: Floats, n: int, threshold: Floats, code: NDArray[np.int32]) -> None:
    """code[j] = number of thresholds below x[j]: bisection, one step for all entries at a time, to vectorise."""
    for j in range(n):
        code[j] = 0
    step = threshold.size // 2
    while step > 0:
        for j in range(n):
            c = code[j]
            code[j] = c + step if x[j] > threshold[c + step - 1] else c
        step //= 2


@inner
def _search_one(y: Any, threshold: Floats) -> int:
    code = 0
    step = threshold.size // 2
    while step > 0:
        if y > threshold[code + step - 1]:
            code += step
        step //= 2
    return code


@inner
def _dots(x: Floats, v: Floats, n: int, cross: Floats, norm: Floats) -> Any:
    """<x, v> and <v, v>, in the order of :func:`reference.fold`, which vectorises alike on every machine."""
    for j in range(n):
        cross[j] = x[j] * v[j]
        norm[j] = v[j] * v[j]
    while n > 1:
        half = (n + 1) // 2
        for j in range(n - half):
            cross[j] += cross[j + half]
            norm[j] += norm[j + half]
        n = half
    return cross[0], norm[0]


@inner
def _power(x: Floats, n: int, terms: Floats) -> Any:
    """<x, x>, in the same order."""
    for j in range(n):
        terms[j] = x[j] * x[j]
    while n > 1:
        half = (n + 1) // 2
        for j in range(n - half):
            terms[j] += terms[j + half]
        n = half
    return terms[0]


@inner
def _round_float16(scale: float) -> float:
    """As :func:`reference.round_float16`, for one number."""
    wide = min(max(float(scale), -FLOAT16_MAX), FLOAT16_MAX)
    if abs(wide) < 2.0**-14:
        return (wide + 402653184.0) - 402653184.0
    spread = wide * 4398046511105.0
    return spread - (spread - wide)

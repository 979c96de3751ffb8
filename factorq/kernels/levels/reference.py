"""The plain twin: the specification of the level kernels, in array code, all groups of one width at a time.

Sums run in the order of :func:`fold` and all arithmetic stays in the dtype of ``x``: the twins agree bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]

FLOAT16_MAX = 65504.0
POLISHES = 3


def encode(x: Floats, levels: Floats, scales: Floats, group: int, codes: NDArray[Any]) -> None:
    """codes[i, j] = argmin_k |x[i, j] - scales[i, j // group] * levels[k]|, ties to the lower k."""
    for start in range(0, x.shape[1], group):
        part = slice(start, start + group)
        codes[:, part] = _nearest(x[:, part], levels, scales[:, start // group])


def decode(codes: NDArray[Any], levels: Floats, scales: Floats, group: int, out: Floats) -> None:
    """out[i, j] = scales[i, j // group] * levels[codes[i, j]]."""
    for start in range(0, codes.shape[1], group):
        part = slice(start, start + group)
        out[:, part] = scales[:, start // group, None] * levels[codes[:, part]]


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
    for start in range(0, x.shape[1], group):
        part = slice(start, start + group)
        scales[:, start // group] = _fit(np.ascontiguousarray(x[:, part]), levels, coarse, fine, mirror)
    encode(x, levels, scales, group, codes)


def _fit(x: Floats, levels: Floats, coarse: Floats, fine: Floats, mirror: bool) -> Floats:
    """(m,) scales for the groups ``x`` (m, n): exact where one fits exactly, else scanned, then polished."""
    power = fold(x * x)
    largest = np.max(np.abs(x), axis=1)
    rms = np.sqrt(power / x.dtype.type(x.shape[1]))
    starts = [ratio * rms for ratio in coarse] + [_divide(largest, np.max(np.abs(levels)))]
    nothing = (np.zeros_like(rms), np.zeros_like(rms))
    centre = _scan(x, levels, starts, *nothing)
    best = _scan(x, levels, [ratio * centre[1] for ratio in fine], *centre)
    if mirror:
        best = _scan(x, levels, [-ratio * centre[1] for ratio in fine], *best)
    scale = best[1]
    kept, least = np.zeros_like(rms), power
    for _ in range(POLISHES):
        scale = round_float16(scale)
        value = _values(x, levels, scale)
        error = fold((x - value) * (x - value))
        kept, least = np.where(error < least, scale, kept), np.minimum(error, least)
        scale = scale * _divide(fold(x * value), fold(value * value))
    return _exact(x, levels, kept)


def _scan(x: Floats, levels: Floats, trials: list[Floats], gain: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Best (gain, refitted scale): gain = <x, v>^2 / <v, v>, the squared error removed by the best multiple of v."""
    for trial in trials:
        value = _values(x, levels, trial)
        cross = fold(x * value)
        refit = _divide(cross, fold(value * value))
        better = (cross > 0) & (cross * refit > gain)
        gain, scale = np.where(better, cross * refit, gain), np.where(better, trial * refit, scale)
    return gain, scale


def _exact(x: Floats, levels: Floats, scale: Floats) -> Floats:
    """``scale``, but where some float16 s gives x = s * levels[codes] exactly, such an s (0 for a group of zeros)."""
    first = np.take_along_axis(x, np.argmax(np.abs(x), axis=1)[:, None], axis=1)[:, 0]
    done = first == 0
    scale = np.where(done, 0, scale)
    for level in levels[levels != 0]:
        with np.errstate(over="ignore"):
            trial = round_float16(first / level)
        plausible = ~done & (trial * level == first)  # the largest entry decides alone in all but 1 of 2**13 groups
        rows = np.flatnonzero(plausible)
        hit = rows[np.all(_values(x[rows], levels, trial[rows]) == x[rows], axis=1)]
        scale[hit], done[hit] = trial[hit], True
    return scale


def _values(x: Floats, levels: Floats, scale: Floats) -> Floats:
    return np.asarray(scale[:, None] * levels[_nearest(x, levels, scale)])


def _nearest(x: Floats, levels: Floats, scale: Floats) -> NDArray[np.int64]:
    """(m, n) codes of the groups ``x`` (m, n) under the scales (m,): the number of thresholds below sign(scale) * x."""
    value = np.abs(scale)[:, None] * levels
    middle = value.dtype.type(0.5) * (value[:, :-1] + value[:, 1:])
    # a middle that rounds up to the upper value would send that very value down: encode(decode(c)) must give it back
    threshold = np.where(middle >= value[:, 1:], value[:, :-1], middle)
    turned = np.where(scale[:, None] < 0, -x, x)
    codes = np.zeros(x.shape, np.int64)
    for k in range(threshold.shape[1]):
        codes += turned > threshold[:, k, None]
    return np.where(scale[:, None] == 0, np.argmin(np.abs(levels)), codes)


def fold(terms: Floats) -> Floats:
    """(m,) sums of ``terms`` (m, n): the upper half is added to the lower half until one is left."""
    while terms.shape[1] > 1:
        half = (terms.shape[1] + 1) // 2
        upper = terms[:, half:]
        terms = np.concatenate([terms[:, : upper.shape[1]] + upper, terms[:, upper.shape[1] : half]], axis=1)
    return terms[:, 0]


def round_float16(scale: Floats) -> Floats:
    """``scale`` to 11 significant bits and multiples of 2**-24 (float16), clipped to +-65504, in its own dtype."""
    wide = np.clip(scale.astype(np.float64), -FLOAT16_MAX, FLOAT16_MAX)
    spread = wide * 4398046511105.0  # 2**42 + 1: Veltkamp's split keeps the 53 - 42 leading bits
    small = (wide + 402653184.0) - 402653184.0  # 1.5 * 2**28, whose last place is 2**-24
    return np.where(np.abs(wide) < 2.0**-14, small, spread - (spread - wide)).astype(scale.dtype)


def _divide(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)

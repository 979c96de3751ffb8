"""Scalar codebooks: x ~ s * levels[code], levels shared by the array, an optional float16 scale s per group of a row.

A scale is stored with its sign, and :func:`fit_encode` uses it: levels that are not symmetric about 0 offer every group
two codebooks for the same bits. The levels that :func:`lloyd_max_grouped` fits make use of that: on N(0, 1) in groups
of 128 the relative squared error falls from 0.1144 / 0.0315 / 0.0078 to 0.1111 / 0.0301 / 0.0075 at 2 / 3 / 4 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...errors import refuse, refuse_type
from .. import twin
from .lloyd import grouped_levels, lloyd_max
from .tables import NF4

__all__ = ["NF4", "decode", "encode", "fit_encode", "lloyd_max", "lloyd_max_grouped"]

Floats = NDArray[Any]
Codes = NDArray[Any]

LIMIT = 2.0**15
MAX_LEVELS = 65536

# Trial scales: multiples of rms(x) / spread(levels), then of the best of those and max|x| / max|levels|. On N(0, 1) in
# groups of 128, against a scan 10 times as dense, WIDE is 0.0 / 0.1 / 1.0 / 10 % worse at 2 / 3 / 4 / 6 bits. NARROW
# loses another 0.4 % at up to 4 bits, and is 1.3 times as fast (0.9 and 1.1 alone: 1.1 % and 1.5 times).
COARSE = (1.0,)
NARROW = (0.84, 0.96, 1.1)
WIDE = (0.76, 0.87, 0.98, 1.11, 1.26)


def encode(x: Floats, levels: Floats, scales: NDArray[np.float16] | None, group: int | None) -> Codes:
    """codes[i, j] = argmin_k |x[i, j] - scales[i, j // group] * levels[k]|, ties to the lower k.

    Values are computed in the dtype of ``x``. Encoding what :func:`decode` gave in that dtype gives back the same
    values. Under a scale of 0 every value is 0 and the code is that of the level nearest to 0.

    Parameters
    ----------
    x : (m, n) array of float32 or float64, |x| <= 2**15
    levels : (K,) array, not decreasing, 2 <= K <= 65536, |levels| <= 2**15
    scales : (m, ceil(n / group)) array of float16, or None
        Any sign. None: all scales are 1.
    group : int or None
        Entries of a row that share a scale; None exactly where ``scales`` is None.

    Returns
    -------
    (m, n) array of uint8 (K <= 256) or uint16

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.
    """
    _check_values(x)
    table = _check_levels(levels, x.dtype)
    wide, width = _check_scales(scales, group, x.shape, x.dtype)
    codes = np.empty(x.shape, _code_dtype(table.size))
    if codes.size:
        twin(__name__, x).encode(x, table, wide, width, codes)
    return codes


def decode(
    codes: Codes, levels: Floats, scales: NDArray[np.float16] | None, group: int | None, dtype: DTypeLike
) -> Floats:
    """x[i, j] = scales[i, j // group] * levels[codes[i, j]], computed in ``dtype`` (float32 or float64).

    Parameters
    ----------
    codes : (m, n) array of uint8 or uint16, all below K
    levels, scales, group
        As in :func:`encode`.
    dtype : dtype

    Returns
    -------
    (m, n) array of ``dtype``

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above, or a code is not below K.
    """
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise refuse_type("dtype", found=kind, allowed="float32 or float64")
    if codes.dtype not in (np.uint8, np.uint16) or codes.ndim != 2:
        raise refuse_type("codes", found=f"{codes.dtype} of {codes.ndim} dimensions", allowed="2-D uint8 or uint16")
    table = _check_levels(levels, kind)
    wide, width = _check_scales(scales, group, codes.shape, kind)
    out = np.empty(codes.shape, kind)
    if codes.size:
        if (largest := int(codes.max())) >= table.size:
            raise refuse("codes", found=f"code {largest}", allowed=f"codes below the {table.size} levels")
        twin(__name__, codes).decode(np.ascontiguousarray(codes), table, wide, width, out)
    return out


def fit_encode(x: Floats, levels: Floats, group: int) -> tuple[Codes, NDArray[np.float16]]:
    """codes, scales that make sum (x - scales * levels[codes])^2 small, group by group, over scales of both signs.

    Per group, if some float16 scale s gives ``x = s * levels[codes]`` exactly (in the dtype of ``x``), such an s is
    taken: what :func:`decode` gave in that dtype comes back unchanged. It is found as max|x| / level, tried for every
    level, so it can be missed only where ``s * level`` is subnormal in the dtype of ``x`` and has lost digits.
    Otherwise the best of a scan over scales (each judged after its least-squares refit <x, l> / <l, l>) is refitted on
    the float16 grid, and the best of what was measured there is kept. A group's result
    depends on that group and the levels only.

    Parameters
    ----------
    x : (m, n) array of float32 or float64, |x| <= 2**15
    levels : (K,) array, not decreasing, 2 <= K <= 65536, |levels| <= 2**15
    group : int, at least 1

    Returns
    -------
    codes : (m, n) array of uint8 (K <= 256) or uint16
    scales : (m, ceil(n / group)) array of float16
        0 for a group of zeros, or of values that a float16 scale cannot reach.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.
    """
    _check_values(x)
    table = _check_levels(levels, x.dtype)
    width = _check_group(group)
    codes = np.zeros(x.shape, _code_dtype(table.size))
    scales = np.zeros((x.shape[0], -(-x.shape[1] // width)), x.dtype)
    if codes.size:
        coarse, fine = (np.asarray(COARSE) / _spread(table)).astype(x.dtype), _fine(table)
        mirror = not np.array_equal(table, -table[::-1])
        twin(__name__, x).fit_encode(x, table, width, coarse, fine, mirror, codes, scales)
    return codes, scales.astype(np.float16)


def lloyd_max_grouped(x: Floats, count: int, group: int, rounds: int = 16) -> NDArray[np.float64]:
    """(count,) levels for :func:`fit_encode`, by turns: scales given levels, levels given scales.

    The levels given scales s and codes are the weighted centroids level_k = sum s x / sum s^2 over the entries with
    code k. They start as :func:`lloyd_max` levels of x / rms(group), stretched on the positive side so that the sign of
    the scale counts. Everything is measured on an evenly spaced sample of whole groups, of at most 2**16 entries (or
    one group). The best levels of all rounds are returned.

    Parameters
    ----------
    x : (m, n) array of float32 or float64, |x| <= 2**15
    count : int, 2..65536
    group : int, at least 1
    rounds : int, at least 0

    Returns
    -------
    (count,) array of float64, not decreasing, with max|levels| = 1

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.
    """
    _check_values(x)
    _check_count(count)
    return grouped_levels(x, count, _check_group(group), rounds, fit_encode)


def _fine(levels: Floats) -> Floats:
    """The second scan for ``levels``, in their dtype."""
    return np.asarray(NARROW if levels.size <= 16 else WIDE, levels.dtype)


def _spread(levels: Floats) -> float:
    """Rms of the data that ``levels`` suit: by Panter and Dite of density 1 / gap^3, so of mass 1 / gap^2 per level."""
    wide = levels.astype(np.float64)
    gap = np.gradient(wide)
    if not gap.max() > 0:
        return 1.0
    mass = np.maximum(gap / gap.max(), 1e-3) ** -2
    rms = float(np.sqrt(mass @ (wide * wide) / mass.sum()))
    return rms if rms > 0 else 1.0


def _code_dtype(count: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if count <= 256 else np.uint16


def _check_values(x: Floats) -> None:
    if x.dtype not in (np.float32, np.float64) or x.ndim != 2 or not x.flags.c_contiguous:
        found = f"{x.dtype} of {x.ndim} dimensions{'' if x.flags.c_contiguous else ', not C-contiguous'}"
        raise refuse_type("x", found=found, allowed="2-D C-contiguous float32 or float64")
    if x.size and not max(float(x.max()), -float(x.min())) <= LIMIT:
        raise refuse("x", found="NaN or |x| > 2**15", allowed="|x| <= 2**15", remedy="divide x by a power of two first")


def _check_levels(levels: Floats, dtype: np.dtype[Any]) -> Floats:
    table = np.ascontiguousarray(levels, dtype=dtype)
    if table.ndim != 1 or not 2 <= table.size <= MAX_LEVELS:
        raise refuse("levels", found=f"shape {table.shape}", allowed=f"2 to {MAX_LEVELS} levels in one dimension")
    if not (np.all(table[1:] >= table[:-1]) and np.all(np.abs(table) <= LIMIT)):
        raise refuse(
            "levels", found="levels out of order, NaN or above 2**15", allowed="sorted levels, |levels| <= 2**15"
        )
    return table


def _check_scales(
    scales: NDArray[np.float16] | None, group: int | None, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[Floats, int]:
    """Scales as (m, g) of ``dtype``, and the width of a group; no scales are one scale of 1 per row."""
    if (scales is None) != (group is None):
        raise refuse(
            "group", found=f"{group} with scales {'' if scales is None else 'not '}None", allowed="both None or neither"
        )
    if scales is None or group is None:
        return np.ones((shape[0], 1), dtype), max(shape[1], 1)
    expected = (shape[0], -(-shape[1] // _check_group(group)))
    if scales.dtype != np.float16 or scales.shape != expected:
        raise refuse("scales", found=f"{scales.dtype} {scales.shape}", allowed=f"float16 {expected}")
    if not np.all(np.isfinite(scales)):
        raise refuse("scales", found="NaN or infinity", allowed="finite numbers")
    return scales.astype(dtype), int(group)


def _check_group(group: int) -> int:
    if isinstance(group, bool) or not isinstance(group, int | np.integer) or group < 1:
        raise refuse("group", found=repr(group), allowed="an integer of at least 1")
    return int(group)


def _check_count(count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 2 <= count <= MAX_LEVELS:
        raise refuse("count", found=repr(count), allowed=f"an integer from 2 to {MAX_LEVELS}")

"""Grouped integer grids on a GPU: a thread per four values, a warp per group that is fitted; bits as the reference's.

Not yet measured on a GPU.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..cuda_twin import THREADS, launch, over_rows, placed, real
from .plan import Plan, candidates, plan

_SOURCE = Path(__file__).with_name("grid.cu")


def fit(x: Any, bits: int, group: int, zero: float) -> Any:
    """argmin_s sum((x - s*(k - zero))**2) per group: x (rows, n) -> s (rows, ceil(n / group)) float64."""
    import cupy

    grid = plan(bits, zero)
    with x.device:
        x = cupy.ascontiguousarray(x)
        n, run, groups = widths(x, group)
        scales = cupy.empty((len(x), int(groups)), np.float64)
        ratios = _candidates(grid, x.device.id)
        launch(
            _SOURCE,
            "grid_fit",
            warps(scales.size),
            x,
            np.uint64(len(x)),
            n,
            run,
            groups,
            ratios,
            np.uint32(ratios.size),
            np.int32(grid.bits),
            np.int32(grid.digits),
            *map(np.float64, grid[2:]),
            scales,
            REAL=real(x.dtype),
        )
        return scales


def fit_encode(x: Any, bits: int, group: int, zero: float) -> tuple[Any, Any]:
    """Codes (rows, n) and the scales of :func:`fit`."""
    scales = fit(x, bits, group, zero)
    return encode(x, scales, bits, group, zero), scales


def encode(x: Any, scales: Any, bits: int, group: int, zero: float) -> Any:
    """Codes argmin_k |x - s*(k - zero)|, ties to the lower k: x (rows, n), scales (rows, g) -> codes (rows, n)."""
    import cupy

    grid = plan(bits, zero)
    with x.device:
        x, scales = cupy.ascontiguousarray(x), cupy.ascontiguousarray(scales)
        codes = cupy.empty(x.shape, np.uint8 if bits <= 8 else np.uint16)
        blocks, wide = over_rows(*x.shape)
        launch(
            _SOURCE,
            "grid_encode",
            blocks,
            x,
            scales,
            np.uint64(len(x)),
            *widths(x, group),
            wide,
            *map(np.float64, (grid.base, grid.frac, grid.low, grid.high)),
            codes,
            REAL=real(x.dtype),
            CODE=code(codes),
        )
        return codes


def decode(codes: Any, scales: Any, group: int, zero: float, dtype: Any) -> Any:
    """s*(k - zero): codes (rows, n), scales (rows, g) -> values (rows, n) of ``dtype``."""
    import cupy

    with codes.device:
        codes, scales = cupy.ascontiguousarray(codes), cupy.ascontiguousarray(scales)
        out = cupy.empty(codes.shape, np.float64 if real(dtype) == "double" else np.float32)
        blocks, wide = over_rows(*codes.shape)
        launch(
            _SOURCE,
            "grid_decode",
            blocks,
            codes,
            scales,
            np.uint64(len(codes)),
            *widths(codes, group),
            wide,
            np.float64(zero),
            out,
            REAL=real(dtype),
            CODE=code(codes),
        )
        return out


def widths(x: Any, group: int) -> tuple[np.uint32, np.uint32, np.uint32]:
    """Values of a row, of a group and groups of a row."""
    n = x.shape[1]
    return np.uint32(n), np.uint32(min(group, max(n, 1))), np.uint32(-(-n // group))


def warps(count: int) -> tuple[int, int, int]:
    """Blocks for ``count`` warps."""
    return (-(-count * 32 // THREADS), 1, 1)


def code(codes: Any) -> str:
    """How ``common.cuh`` calls the type of the codes."""
    return "u8" if codes.dtype == np.uint8 else "u16"


@lru_cache(maxsize=32)
def _candidates(grid: Plan, device: int) -> Any:
    """The ratios of a scan, on a device."""
    return placed(candidates(grid))

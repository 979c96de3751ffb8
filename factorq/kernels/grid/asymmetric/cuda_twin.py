"""Asymmetric grids on a GPU: a thread per four values, a warp per group that is fitted; bits as the reference's.

Not yet measured on a GPU.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...cuda_twin import launch, over_rows, placed, real
from ..cuda_twin import code, warps, widths
from ..plan import shrinks

_SOURCE = Path(__file__).with_name("asymmetric.cu")


def fit_encode_asymmetric(x: Any, bits: int, group: int) -> tuple[Any, Any, Any]:
    """Least squares over s, m, k of sum((x - s*k - m)**2) per group: codes (rows, n), scales and minima float64."""
    import cupy

    with x.device:
        x = cupy.ascontiguousarray(x)
        n, run, groups = widths(x, group)
        scales = cupy.empty((len(x), int(groups)), np.float64)
        minima = cupy.empty(scales.shape, np.float64)
        shares = _shares(bits, x.device.id)
        launch(
            _SOURCE,
            "asymmetric_fit",
            warps(scales.size),
            x,
            np.uint64(len(x)),
            n,
            run,
            groups,
            shares,
            np.uint32(shares.size),
            np.uint32(2**bits - 1),
            scales,
            minima,
            REAL=real(x.dtype),
        )
        return encode_asymmetric(x, scales, minima, bits, group), scales, minima


def encode_asymmetric(x: Any, scales: Any, minima: Any, bits: int, group: int) -> Any:
    """Codes argmin_k |x - s*k - m|, ties to the lower k: x (rows, n), scales, minima (rows, g) -> codes (rows, n)."""
    import cupy

    with x.device:
        x, scales, minima = map(cupy.ascontiguousarray, (x, scales, minima))
        codes = cupy.empty(x.shape, np.uint8 if bits <= 8 else np.uint16)
        blocks, wide = over_rows(*x.shape)
        launch(
            _SOURCE,
            "asymmetric_encode",
            blocks,
            x,
            scales,
            minima,
            np.uint64(len(x)),
            *widths(x, group),
            wide,
            np.float64(2**bits - 1),
            codes,
            REAL=real(x.dtype),
            CODE=code(codes),
        )
        return codes


def decode_asymmetric(codes: Any, scales: Any, minima: Any, group: int, dtype: Any) -> Any:
    """s*k + m: codes (rows, n), scales and minima (rows, g) -> values (rows, n) of ``dtype``."""
    import cupy

    with codes.device:
        codes, scales, minima = map(cupy.ascontiguousarray, (codes, scales, minima))
        out = cupy.empty(codes.shape, np.float64 if real(dtype) == "double" else np.float32)
        blocks, wide = over_rows(*codes.shape)
        launch(
            _SOURCE,
            "asymmetric_decode",
            blocks,
            codes,
            scales,
            minima,
            np.uint64(len(codes)),
            *widths(codes, group),
            wide,
            out,
            REAL=real(dtype),
            CODE=code(codes),
        )
        return out


@lru_cache(maxsize=32)
def _shares(bits: int, device: int) -> Any:
    """The shares of the range that a scan covers, on a device."""
    return placed(shrinks(bits))

"""What the doors of the grids check, and the types they give back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Array, dtype_name, is_cupy, is_host, namespace
from ...errors import refuse, refuse_type

Codes = NDArray[np.uint8] | NDArray[np.uint16]
Scales = NDArray[np.float16]


def wide(x: Array) -> Array:
    """Scales in float64, which every twin reads."""
    xp = namespace(x)
    return xp.astype(x, xp.float64)


def check_grid(bits: int, group: int, zero: float) -> None:
    if not 1 <= bits <= 16:
        raise refuse("bits", found=bits, allowed="an integer in 1..16")
    if group < 1:
        raise refuse("group", found=group, allowed="an integer of at least 1")
    if not (0 <= zero <= 2**bits - 1 and 2 * zero == int(2 * zero)):
        raise refuse("zero", found=zero, allowed=f"a multiple of 1/2 in 0..{2**bits - 1}")


def check_values(x: Array, host: bool = False) -> None:
    if host and not (is_host(x) or is_cupy(x)):
        allowed = "a NumPy or CuPy array"
        raise refuse_type("x", found=type(x).__name__, allowed=allowed, remedy="bring it to the host first")
    if dtype_name(x) not in ("float32", "float64"):
        raise refuse_type("x", found=f"dtype {dtype_name(x)}", allowed="float32 or float64", remedy="cast it first")
    check_matrix("x", x)


def check_matrix(name: str, x: Array) -> None:
    if len(x.shape) != 2:
        raise refuse(name, found=f"shape {tuple(x.shape)}", allowed="a matrix (rows, n)", remedy="fold it first")
    if is_host(x) and not x.flags.c_contiguous:
        raise refuse(name, found="a strided matrix", allowed="C-contiguous", remedy="use numpy.ascontiguousarray")


def check_groups(name: str, scales: Array, x: Array, group: int) -> None:
    expected = (x.shape[0], -(-x.shape[1] // group))
    if tuple(scales.shape) != expected:
        raise refuse(name, found=f"shape {tuple(scales.shape)}", allowed=f"shape {expected} for groups of {group}")


def check_decode(codes: Array, group: int, dtype: Any) -> None:
    if group < 1:
        raise refuse("group", found=group, allowed="an integer of at least 1")
    if dtype_name(codes) not in ("uint8", "uint16"):
        raise refuse_type("codes", found=f"dtype {dtype_name(codes)}", allowed="uint8 or uint16")
    if not any(name in str(dtype) for name in ("float32", "float64")):
        raise refuse_type("dtype", found=dtype, allowed="float32 or float64")
    check_matrix("codes", codes)

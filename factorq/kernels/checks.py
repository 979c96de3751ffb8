"""What the doors of kernels ask of their arguments, in the house's words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, dtype_name, is_array, to_host
from ..errors import ArtifactError, refuse, refuse_type

MOST_PLANES = 64
MOST_POSITIONS = 1 << 48


def host_array(name: str, x: Array, dtype: str, *dims: int) -> NDArray[Any]:
    """``x``, an array of any library of ``dtype`` and one of ``dims`` dimensions, C-contiguous on the host."""
    if not is_array(x):
        raise refuse_type(name, found=type(x).__name__, allowed="an array", remedy="wrap it with numpy.asarray")
    if dtype_name(x) != dtype:
        raise refuse_type(name, found=f"dtype {x.dtype}", allowed=dtype)
    if len(x.shape) not in dims:
        allowed = " or ".join(f"a {n}-D" for n in dims)
        remedy = "reshape it to (-1,)" if dims == (1,) else ""
        raise refuse(name, found=f"shape {tuple(x.shape)}", allowed=f"{allowed} array", remedy=remedy)
    return np.asarray(to_host(x), order="C")


def integer(name: str, value: object, low: int, high: int) -> None:
    """Raise unless ``value`` is an integer from ``low`` to ``high``."""
    allowed = f"an integer in {low}..{high}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise refuse_type(name, found=repr(value), allowed=allowed)
    if not low <= value <= high:
        raise refuse(name, found=value, allowed=allowed)


def interval(name: str, value: Any, count: int) -> tuple[int, int]:
    """``value``, a range (first, stop) of ``count`` things, or all of them for None."""
    if value is None:
        return 0, count
    if not isinstance(value, tuple) or len(value) != 2:
        raise refuse_type(name, found=repr(value), allowed="None or (first, stop)")
    integer(f"{name}[1]", value[1], 0, count)
    integer(f"{name}[0]", value[0], 0, int(value[1]))
    return int(value[0]), int(value[1])


def equations(
    care: NDArray[np.bool_], values: NDArray[np.uint64], planes: int
) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """``care`` (n,) and ``values`` (count,), one for each position that matters, C-contiguous."""
    integer("planes", planes, 1, MOST_PLANES)
    care, values = _vector("care", care, np.bool_), _vector("values", values, np.uint64)
    count = int(np.count_nonzero(care))
    if values.size != count:
        raise refuse("values", found=f"{values.size} codes", allowed=f"{count}, one for each position that matters")
    return care, values


def streams(kernel: str, stream: NDArray[np.uint8], size: int, nbytes: int) -> NDArray[np.uint8]:
    """``stream`` (planes, nbytes) of ``size`` positions, C-contiguous; :class:`ArtifactError` for another length."""
    if not isinstance(stream, np.ndarray) or stream.dtype != np.uint8 or stream.ndim != 2:
        raise refuse_type("stream", found=kind(stream), allowed="a NumPy array (planes, bytes) of uint8")
    if stream.shape[1] != nbytes:
        raise ArtifactError(f"{kernel}: found {stream.shape[1]} bytes per plane, {size} positions take {nbytes}")
    return np.ascontiguousarray(stream)


def kind(x: Any) -> str:
    """What ``x`` is, for a message."""
    return f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__


def _vector(name: str, x: Any, dtype: Any) -> Any:
    if not isinstance(x, np.ndarray) or x.dtype != dtype or x.ndim != 1:
        raise refuse_type(name, found=kind(x), allowed=f"a 1-D NumPy array of {np.dtype(dtype)}")
    return np.require(x, requirements=["C", "ALIGNED"])

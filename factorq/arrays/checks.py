"""What is asked of arrays and of sources of randomness before anything is computed."""

from __future__ import annotations

import numpy as np

from ..errors import refuse, refuse_type
from .libraries import FLOATS, Array, dtype_name, is_array, is_cupy
from .transfer import native

MAX_AXES = 32


def check_weight(W: Array, name: str = "W") -> Array:
    """``W`` as :func:`native` has it, after the checks that every method relies on.

    Raises
    ------
    ArgumentTypeError
        If ``W`` is no array or its dtype is not a real floating one.
    ArgumentError
        If ``W`` has fewer than two dimensions, is empty, or holds a NaN or an infinity.
    """
    if not is_array(W):
        raise refuse_type(name, found=type(W).__name__, allowed="an array", remedy="wrap it with numpy.asarray")
    if dtype_name(W) not in FLOATS:
        remedy = "cast it first, for example W.astype('float32')"
        raise refuse_type(name, found=f"dtype {dtype_name(W)}", allowed=", ".join(FLOATS), remedy=remedy)
    if len(W.shape) > MAX_AXES:
        raise refuse(name, found=f"{len(W.shape)} axes", allowed=f"2 to {MAX_AXES}", remedy="reshape it first")
    if len(W.shape) < 2:
        remedy = "keep vectors as they are: they are too small to pay for factors"
        raise refuse(name, found=f"shape {tuple(W.shape)}", allowed="an array with 2 or more dimensions", remedy=remedy)
    if 0 in W.shape:
        raise refuse(name, found=f"shape {tuple(W.shape)}", allowed="an array with at least one element")
    found = native(W)
    check_finite(found.astype(np.float32) if is_cupy(found) and found.dtype.itemsize == 2 else found, name)
    return found


def check_finite(x: Array, name: str) -> None:
    """Raise :class:`ArgumentError` naming the first NaN or infinity of ``x`` (of NumPy or CuPy), if there is one."""
    if np.isfinite(x.max()) and np.isfinite(x.min()):  # two vector passes: NaN and infinities survive max and min
        return
    bad = ~np.isfinite(x)
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    found = f"{int(bad.sum())} non-finite values, the first at index {where}"
    raise refuse(
        name, found=found, allowed="finite numbers", remedy="replace them first, for example with numpy.nan_to_num"
    )


def generator(rng: np.random.Generator | np.random.SeedSequence | int | None) -> np.random.Generator:
    """A NumPy generator from ``rng`` as in SPEC 7; ``None`` means seed 0, so that equal calls give equal bytes."""
    if isinstance(rng, bool) or not isinstance(
        rng, np.random.Generator | np.random.SeedSequence | int | np.integer | None
    ):
        raise refuse_type("rng", found=type(rng).__name__, allowed="None, an integer seed or a numpy.random.Generator")
    try:
        return np.random.default_rng(0 if rng is None else rng)
    except ValueError:
        raise refuse("rng", found=repr(rng), allowed="a seed of at least 0, or a numpy.random.Generator") from None

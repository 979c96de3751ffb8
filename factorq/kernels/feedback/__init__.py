"""Rounding of columns one after the other, each error handed on to the columns that are still to come."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import refuse, refuse_type
from .. import twin

__all__ = ["round_columns"]


def round_columns(
    W: NDArray[Any],
    U: NDArray[Any],
    levels: NDArray[Any],
    scale: NDArray[Any],
    offset: NDArray[Any],
    keep: NDArray[np.bool_],
    Q: NDArray[Any],
    error: NDArray[Any],
) -> None:
    """For j = 0..b-1: Q[:, j] nearest to W[:, j], e_j = (W[:, j] - Q[:, j]) / U[j, j], W[:, j+1:] -= e_j U[j, j+1:].

    Entry (i, j) may take the values ``scale[i, j] * levels + offset[i, j]``, or any number if there are no levels, or
    only 0 where it is not kept. Ties go to the lower level; a scale of 0 gives the offset. Rows are independent.

    Parameters
    ----------
    W : NDArray, (m, b) float64
        A working copy, overwritten by the values that were rounded.
    U : NDArray, (b, b) float64
        Upper triangular with a positive diagonal.
    levels : NDArray, (K,) float64
        Ascending; none means that any number is allowed.
    scale, offset : NDArray, (m, b) float64
        Where the levels of an entry lie.
    keep : NDArray, (m, b) bool
        Entries that may differ from 0.
    Q, error : NDArray, (m, b) float64
        Receive the rounded values and the scaled errors e.

    Raises
    ------
    ArgumentError
        If shapes do not fit together.
    ArgumentTypeError
        If an array has another dtype.
    """
    m, b = W.shape
    shapes = {"U": (b, b), "scale": (m, b), "offset": (m, b), "keep": (m, b), "Q": (m, b), "error": (m, b)}
    arrays = (U, scale, offset, keep, Q, error)
    for (name, shape), x in zip(shapes.items(), arrays, strict=True):
        if x.shape != shape:
            raise refuse(name, found=f"shape {x.shape}", allowed=f"shape {shape}")
        if x.dtype != (np.bool_ if name == "keep" else np.float64):
            raise refuse_type(name, found=f"dtype {x.dtype}", allowed="bool for keep, float64 for the others")
    middles = (levels[1:] + levels[:-1]) / 2
    twin(__name__, W).round_columns(W, U, levels, middles, scale, offset, keep, Q, error)

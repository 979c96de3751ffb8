"""Factors that a caller gives as a start, from TensorLy or as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import FLOATS, check_finite, dtype_name, to_host
from ...errors import FactorqError, refuse, refuse_type
from ...measure import binary_exponent, scaled


def copied(init: Any) -> tuple[NDArray[np.float64], ...]:
    """The factors of a CPTensor or of a pair (weights, factors), the weights in the first, all of about unit size."""
    try:
        weights, factors = init
        copies = [_real(F) for F in factors]
        scale = np.ones(1) if weights is None else _real(weights).reshape(-1)
        for x in (*copies, scale):
            if not x.size:
                raise refuse("init", found="an empty factor", allowed="factors (n_k, r) with numbers in them")
            check_finite(x, "init")
        first, *rest = map(_sized, copies)
        sized = [_sized(first * _sized(scale)), *rest]
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, FactorqError):
            raise
        allowed = "'random', 'svd', or a CPTensor: a pair (weights, factors)"
        raise refuse_type("init", found=type(init).__name__, allowed=allowed) from None
    return tuple(sized)


def _sized(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return scaled(x, -binary_exponent(x))


def _real(x: Any) -> NDArray[np.float64]:
    """A copy in float64.

    Raises
    ------
    TypeError
        If its numbers are not real.
    """
    if isinstance(x, str | bytes):
        raise TypeError
    host = to_host(x)
    if dtype_name(host) not in FLOATS and host.dtype.kind not in "iu":
        raise TypeError
    return host.astype(np.float64)

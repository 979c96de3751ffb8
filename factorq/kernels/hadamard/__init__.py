"""Random signs and a fast orthonormal transform of any length: what makes weights look Gaussian before coarse codes.

``T = B diag(signs) P``, T^T T = 1. Signs come from splitmix64, so a seed is all that is stored;
``plans.plan`` has B for lengths that are no powers of two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import constant, contiguous, is_cupy, is_host, namespace
from ...errors import refuse, refuse_type
from .. import twin
from .plans import plan

MOST_SEED = 1 << 63


def rotate(x: NDArray[Any], seed: int) -> NDArray[Any]:
    """out[i] = T x[i], T (n, n) orthonormal: rows turned by the rotation that ``seed`` stands for.

    Parameters
    ----------
    x : NDArray (rows, n), float32 or float64
        Of NumPy or CuPy, in any memory order; not changed.
    seed : int
        0 to 2**63 - 1.

    Returns
    -------
    NDArray (rows, n), of the dtype of ``x``, C-contiguous

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If ``x`` is no such matrix or ``seed`` no such integer.

    Examples
    --------
    >>> spike = np.zeros((1, 6)); spike[0, 2] = 1.0
    >>> turned = rotate(spike, 0)
    >>> bool(abs(turned).max() < 0.6), np.allclose(unrotate(turned, 0), spike)
    (True, True)
    """
    return _run(x, seed, False)


def unrotate(x: NDArray[Any], seed: int) -> NDArray[Any]:
    """out[i] = T^T x[i]: the inverse of :func:`rotate`, with its parameters and its errors."""
    return _run(x, seed, True)


def _run(x: NDArray[Any], seed: int, inverse: bool) -> NDArray[Any]:
    if not (is_host(x) or is_cupy(x)) or x.ndim != 2 or x.dtype not in (np.float32, np.float64):
        found = f"{x.dtype} {x.shape}" if is_host(x) else type(x).__name__
        raise refuse_type("x", found=found, allowed="a float32 or float64 matrix (rows, n)")
    check_seed(seed)
    out: NDArray[Any] = namespace(x).empty(x.shape, dtype=x.dtype)
    if x.size:
        n, seed = x.shape[1], int(seed)
        order, signs, starts, odd = (
            constant(x, _table, name, n, seed, dtype)
            for name, dtype in (("order", "i8"), ("signs", str(x.dtype)), ("starts", "i8"), ("odd", str(x.dtype)))
        )
        span = plan(n, seed).span
        twin(__name__, x).rotate(contiguous(x), order, signs, span, starts, odd, inverse, out)
    return out


def _table(name: str, n: int, seed: int, dtype: str) -> NDArray[Any]:
    """A table of the plan for rows of n entries."""
    return np.asarray(getattr(plan(n, seed), name), dtype=dtype)


def check_seed(seed: object) -> None:
    """Raise unless ``seed`` is an integer from 0 to 2**63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise refuse_type("seed", found=repr(seed), allowed="an integer")
    if not 0 <= seed < MOST_SEED:
        raise refuse("seed", found=seed, allowed="an integer from 0 to 2**63 - 1")

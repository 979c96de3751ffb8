"""What the arguments of methods may be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import FLOATS, Array, check_finite, dtype_name, is_array, to_host
from ...constraints import check_bits
from ...errors import refuse, refuse_type
from ...measure import binary_exponent, scaled
from ...named import Named


def check_gram(gram: Array, n: int) -> NDArray[Any]:
    """``gram`` as a symmetric float64 host matrix (n, n), scaled by a power of two to a size near 1.

    Raises
    ------
    ArgumentError
        If its shape is not (n, n), or it is not finite, not symmetric, or has a negative diagonal.
    """
    remedy = "accumulate x @ x.T over the layer's inputs x (n,)"
    if not is_array(gram):
        raise refuse_type("gram", found=type(gram).__name__, allowed=f"an array ({n}, {n})", remedy=remedy)
    if dtype_name(gram) not in FLOATS:
        raise refuse_type("gram", found=f"dtype {dtype_name(gram)}", allowed=", ".join(FLOATS))
    if tuple(gram.shape) != (n, n):
        raise refuse("gram", found=f"shape {tuple(gram.shape)}", allowed=f"({n}, {n})", remedy=remedy)
    matrix = to_host(gram).astype(np.float64)
    check_finite(matrix, "gram")
    scale = float(np.abs(matrix).max())
    skew = float(np.abs(matrix - matrix.T).max())
    if skew > 1e-3 * scale:
        found = f"entries that differ from their transposes by up to {skew:.3g}"
        raise refuse("gram", found=found, allowed="a symmetric matrix", remedy="pass (gram + gram.T) / 2")
    if float(matrix.diagonal().min()) < 0:
        found = f"a diagonal entry of {float(matrix.diagonal().min()):.3g}"
        raise refuse("gram", found=found, allowed="a positive semidefinite matrix", remedy=remedy)
    return scaled((matrix + matrix.T) / 2, -binary_exponent(matrix))  # only its shape matters: a size of 1 is safe


def check_rank(rank: object) -> None:
    """Raise unless ``rank`` is an integer of at least 1."""
    if isinstance(rank, bool) or not isinstance(rank, int | np.integer):
        remedy = "pass methods as method=" if isinstance(rank, Named) else ""
        raise refuse_type("rank", found=repr(rank), allowed="an integer of at least 1", remedy=remedy)
    if rank < 1:
        raise refuse("rank", found=rank, allowed="an integer of at least 1")


def check_steps(max_iter: object, tol: object) -> None:
    """Raise unless ``max_iter`` is an integer of at least 1 and ``tol`` a number of at least 0."""
    if isinstance(max_iter, bool) or not isinstance(max_iter, int | np.integer) or not 1 <= max_iter < 1 << 31:
        raise refuse("max_iter", found=repr(max_iter), allowed="an integer of at least 1, below 2**31")
    if isinstance(tol, bool) or not isinstance(tol, int | float | np.floating) or not 0 <= tol < 1:
        raise refuse("tol", found=repr(tol), allowed="a relative improvement, 0 <= tol < 1")


def factor_bits(bits: int | tuple[int, int] | None) -> tuple[int, int]:
    """``bits`` for each of two factors, 16 where it is None."""
    return bits if isinstance(bits, tuple) else (bits or 16, bits or 16)


def check_factor_bits(bits: object) -> None:
    """Raise unless ``bits`` is None, an integer from 1 to 16 or a pair of them."""
    if bits is None:
        return
    if isinstance(bits, tuple):
        if len(bits) != 2:
            raise refuse("bits", found=bits, allowed="one integer from 1 to 16, or one for each of the 2 factors")
        for value in bits:
            check_bits(value)
    else:
        check_bits(bits)

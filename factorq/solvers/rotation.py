"""Random rotations: random signs and a fast Hadamard transform of the rows and the columns of a weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import refuse
from ..forms import Form, Rotated
from ..kernels import hadamard
from ..measure import binary_exponent

_SEEDS = 1 << 53  # exact in every reader of JSON


def turn(
    W: NDArray[Any], gram: NDArray[Any] | None, rng: np.random.Generator, both: bool
) -> tuple[NDArray[Any], NDArray[Any] | None, Callable[[Form], Rotated]]:
    """``L W R^T`` and ``R gram R^T`` for W read as (m, n), and what makes a form of W from one of the rotated array.

    Parameters
    ----------
    W : NDArray, any shape
        The array.
    gram : NDArray, (n, n), or None
        Second moment of the inputs, rotated with them.
    rng : Generator
        Draws the seeds, all that has to be stored.
    both : bool
        Whether to turn the columns too; else L is the identity.

    Raises
    ------
    ArgumentError
        If W is at the ends of float64's range, beyond which its rotation may lie.
    """
    right, left = (int(seed) for seed in rng.integers(_SEEDS, size=2))
    turned = hadamard.rotate(_roomy(W.reshape(W.shape[0], -1)), right)
    if both:
        turned = np.ascontiguousarray(hadamard.rotate(np.ascontiguousarray(turned.T), left).T)
    if gram is not None:
        gram = hadamard.rotate(np.ascontiguousarray(hadamard.rotate(gram, right).T), right)
        gram = (gram + gram.T) / 2
    return turned.reshape(W.shape), gram, lambda form: Rotated(form, right, left if both else None)


def _roomy(matrix: NDArray[Any]) -> NDArray[Any]:
    """``matrix`` in a dtype that holds its rotation, whose entries may be as large as the norms of rows and columns."""
    growth = (matrix.size.bit_length() + 1) // 2
    exponent = binary_exponent(matrix)
    if matrix.dtype == np.float32:
        return matrix.astype(np.float64) if exponent > 127 - growth or exponent < -100 else matrix
    if exponent > 1020 - growth or exponent < -980:
        found = f"float64 values up to {float(np.abs(matrix).max()):.3g}, of which sums overflow or underflow"
        raise refuse("W", found=found, allowed="less of the range of float64 for a rotation", remedy="scale it first")
    return matrix

"""A share of zeros."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..codecs import Encoded
from ..named import settle
from .base import Constraint
from .checks import check_sparsity
from .real import Real


@dataclass(frozen=True)
class Sparse(Constraint):
    """At most ``floor((1 - sparsity) * size)`` nonzero entries: the largest magnitudes, ties to the lowest index.

    Parameters
    ----------
    sparsity : float
        Share of zeros, 0 <= sparsity < 1.

    Examples
    --------
    >>> Sparse(0.5).project(np.array([[1.0, -3.0, 2.0, 0.5]], np.float32))
    array([[ 0., -3.,  2.,  0.]], dtype=float32)
    """

    id: ClassVar[str] = "sparse"
    sparsity: float

    def __post_init__(self) -> None:
        settle(self)
        check_sparsity(self.sparsity)

    def count(self, size: int) -> int:
        """How many of ``size`` entries may be nonzero."""
        return math.floor((1.0 - self.sparsity) * size * (1 + 2**-50))  # what should be whole may be an ulp short

    def mask(self, weight: NDArray[Any]) -> NDArray[np.bool_]:
        """Which entries to keep by their nonnegative ``weight``; entries of weight 0 are never kept."""
        return largest(weight, self.count(weight.size))

    def encode(self, x: NDArray[Any]) -> Encoded:
        return (self & Real()).encode(x)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return (self & Real()).nbytes(shape, dtype)


def largest(weight: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Mask of the ``count`` largest positive entries of ``weight``, ties to the lowest index in C order."""
    flat = weight.reshape(-1)
    keep = flat > 0
    if int(np.count_nonzero(keep)) > count:
        if count == 0:
            return np.zeros(weight.shape, np.bool_)
        threshold = np.partition(flat, flat.size - count)[flat.size - count]
        keep = flat > threshold
        ties = np.flatnonzero(flat == threshold)
        keep[ties[: count - int(np.count_nonzero(keep))]] = True
    return keep.reshape(weight.shape)

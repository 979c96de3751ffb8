"""Where constraints meet: a share of zeros, and how the others are written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..codecs import Encoded, Mask
from ..errors import refuse
from ..kernels.bits import packed_size
from .base import Constraint
from .clustered import Clustered
from .quantized import Quantized
from .real import Real
from .sparse import Sparse

_ROUNDS = 8  # refits of scale and support in turn; two or three are the rule


@dataclass(frozen=True)
class Intersection(Constraint):
    """Sparse, with the kept entries in ``values``: the joint projection.

    On a fixed grid the exact projection keeps the entries with the largest gain ``z**2 - (z - q(z))**2``, where
    ``q(z)`` is the nearest allowed nonzero value. With one scale the gain grows with the magnitude of z, so the largest
    magnitudes are kept, as long as their gain is positive; entries of no gain are dropped and the scale is fitted again
    to those that stay.
    """

    id: ClassVar[str] = "intersection"
    sparse: Sparse
    values: Constraint

    def encode(self, x: NDArray[Any]) -> Encoded:
        keep = self.sparse.mask(np.abs(x))
        inner = self.values.encode(np.ascontiguousarray(x[keep]))
        # New levels at every round would go on for long to gain little; a grid must end without zeros among the kept.
        for _ in range(_ROUNDS if isinstance(self.values, Clustered) else x.size):
            z, q = x[keep], inner.decode()
            gains = ((q > 0) & (z > q / 2)) | ((q < 0) & (z < q / 2))  # q (2 z - q) > 0, without its overflow
            if gains.all():
                break
            keep[keep] = gains
            inner = self.values.encode(np.ascontiguousarray(x[keep]))
        return Mask.encode(keep, inner)

    def encode_weighted(self, x: NDArray[Any], weight: NDArray[Any]) -> Encoded:
        """An allowed array near ``x`` in the metric ``sum((weight * (x - z))**2)``, for values with one scale near 1.

        Support and scale are fitted in turn: the support exactly, by the weighted gains on the grid; the scale to the
        kept entries without their weights.
        """
        keep = self.sparse.mask(np.abs(x) * weight)
        inner = self.values.encode(np.ascontiguousarray(x[keep]))
        for _ in range(_ROUNDS):
            better = self.sparse.mask(_gains(x, inner) * weight**2)
            if np.array_equal(better, keep):
                break
            keep = better
            inner = self.values.encode(np.ascontiguousarray(x[keep]))
        return Mask.encode(keep, inner)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        size = math.prod(shape)
        return packed_size(size, 1) + self.values.nbytes((self.sparse.count(size),), dtype)


def _gains(x: NDArray[Any], inner: Encoded) -> NDArray[Any]:
    """``max(z**2 - (z - q(z))**2, 0)`` for every entry z of ``x`` and its nearest nonzero point q(z) of ``inner``."""
    points = inner.points()
    if points.levels is None:
        return np.asarray(x * x)
    q = np.unique(points.levels * (1.0 if points.scale is None else np.max(np.abs(points.scale), initial=0.0)))
    q = q[q != 0.0]
    if not q.size:
        return np.zeros_like(x)
    nearest = q[np.searchsorted((q[1:] + q[:-1]) / 2, x)]
    return np.asarray(np.maximum(nearest * (2 * x - nearest), 0.0))


def intersect(a: Constraint, b: Constraint) -> Constraint:
    """The arrays that satisfy both: a share of zeros, and how the others are written.

    Raises
    ------
    ArgumentError
        If both say how values are written, or both say how many are zero.
    """
    for sparse, values in ((a, b), (b, a)):
        if isinstance(sparse, Sparse) and isinstance(values, Real | Quantized | Clustered):
            return Intersection(sparse, values)
    found = f"{type(a).__name__} & {type(b).__name__}"
    raise refuse("constraint", found=found, allowed="Sparse & Real, Sparse & Quantized or Sparse & Clustered")

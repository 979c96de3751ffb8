"""Values from a codebook of scalars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..codecs import Codebook, Encoded
from ..codecs.base import matrix_shape, normal_exponent, to_matrix
from ..errors import refuse
from ..kernels import levels as levels_kernel
from ..measure import scaled
from ..named import settle
from .base import Constraint
from .checks import DEFAULT_GROUP, Axis, check_axis, check_bits, check_group, even_group


@dataclass(frozen=True)
class Clustered(Constraint):
    """Values from a scalar codebook of ``2**bits`` levels, times a float16 scale per group.

    Parameters
    ----------
    bits : int
        Bits per value, 1 to 16.
    group : int or None
        Entries that share a scale; None for no scales: the levels are the values.
    axis : 0, 1 or None
        Direction of the groups, as in :class:`Quantized`.
    levels : "lloyd" or "nf4"
        Levels of least squared error for this array (Lloyd 1982, Max 1960), stored with it; or the 16 quantiles of a
        normal distribution (Dettmers et al. 2023), not stored.

    Examples
    --------
    >>> Clustered(1, group=None).project(np.array([[0.0, 0.2, 5.0, 5.2]], np.float32))
    array([[0.1, 0.1, 5.1, 5.1]], dtype=float32)
    """

    id: ClassVar[str] = "clustered"
    bits: int
    group: int | None = DEFAULT_GROUP
    axis: Axis = 1
    levels: Literal["lloyd", "nf4"] = "lloyd"

    def __post_init__(self) -> None:
        settle(self)
        check_bits(self.bits)
        check_group(self.group)
        check_axis(self.axis)
        if self.levels not in ("lloyd", "nf4"):
            raise refuse("levels", found=repr(self.levels), allowed="'lloyd' or 'nf4'")
        if self.levels == "nf4" and (self.bits != 4 or self.group is None):
            found = f"levels 'nf4' with bits={self.bits}, group={self.group}"
            raise refuse("levels", found=found, allowed="bits=4 and a group size, for example bits=4, group=64")

    def encode(self, x: NDArray[Any]) -> Encoded:
        levels: NDArray[Any] | str = self.levels
        if levels == "lloyd":
            levels = self._fit(x)
        group = even_group(self.group, matrix_shape(x.shape, self.axis)[1])
        return Codebook.encode(x, bits=self.bits, group=group, axis=self.axis, levels=levels)

    def _fit(self, x: NDArray[Any]) -> NDArray[Any]:
        count = 2**self.bits
        if x.size == 0:
            return np.zeros(count)
        if self.group is None:
            return np.asarray(levels_kernel.lloyd_max(np.ascontiguousarray(x).reshape(-1), count))
        matrix = np.ascontiguousarray(scaled(to_matrix(x, self.axis), -normal_exponent(x)))
        return np.asarray(levels_kernel.lloyd_max_grouped(matrix, count, even_group(self.group, matrix.shape[1]) or 1))

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        level_bytes = (8 if dtype == "float64" else 4) if self.levels == "lloyd" else 0  # in the compute dtype
        return Codebook.predict(shape, self.bits, self.group, self.axis, level_bytes)

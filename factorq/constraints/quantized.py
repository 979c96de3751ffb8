"""Evenly spaced values in groups with a scale each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..arrays import beside, contiguous, is_cupy
from ..codecs import Codebook, Encoded, Grid
from ..codecs.base import matrix_shape
from ..errors import refuse
from ..named import settle
from .base import Constraint
from .checks import DEFAULT_GROUP, Axis, check_axis, check_bits, check_group, even_group

_SAMPLE = 1 << 18  # entries on which a kind of grid is chosen; whole arrays up to this size


@dataclass(frozen=True)
class Quantized(Constraint):
    """Evenly spaced values in groups with a float16 scale each, chosen for least squared error.

    Parameters
    ----------
    bits : int
        Bits per value, 1 to 16.
    group : int or None
        At most so many entries share a scale, evenly: rows of 144 in groups of 128 become groups of 72. None for a
        whole row (or column, or array, by ``axis``).
    axis : 0, 1 or None
        Direction of the groups: along the inputs (1), down the columns (0), through the flattened array (None).
    grid : "auto", "midrise", "midtread", "asymmetric" or "nonzero"
        Whether levels lie around 0 symmetrically, include 0, cover a fitted interval, or are the integers without 0
        (for values under a mask); "auto" takes the better of the first two.

    Examples
    --------
    >>> Quantized(2, group=4).project(np.array([[-3.0, -1.1, 1.0, 2.9]], np.float32)).round(2)
    array([[-2.97, -0.99,  0.99,  2.97]], dtype=float32)
    """

    id: ClassVar[str] = "quantized"
    bits: int
    group: int | None = DEFAULT_GROUP
    axis: Axis = 1
    grid: Literal["auto", "midrise", "midtread", "asymmetric", "nonzero"] = "auto"

    def __post_init__(self) -> None:
        settle(self)
        check_bits(self.bits)
        check_group(self.group)
        check_axis(self.axis)
        kinds = ("auto", "midrise", "midtread", "asymmetric", "nonzero")
        if self.grid not in kinds:
            raise refuse("grid", found=repr(self.grid), allowed=" or ".join(map(repr, kinds)))

    def encode(self, x: NDArray[Any]) -> Encoded:
        if self.grid == "nonzero":
            run = self.group or max(matrix_shape(x.shape, self.axis)[1], 1)
            return Codebook.encode(x, bits=self.bits, group=run, axis=self.axis, levels="nonzero")
        midtread = 2.0 ** (self.bits - 1)
        zeros: dict[str, tuple[float | None, ...]] = {
            "auto": (midtread - 0.5, midtread) if self.bits > 1 else (midtread - 0.5,),
            "midrise": (midtread - 0.5,), "midtread": (midtread,), "asymmetric": (None,),
        }  # fmt: skip
        kinds = zeros[self.grid]
        if len(kinds) == 1:
            return self._encode(x, kinds[0])
        sample = _sample(x)
        tried = [self._encode(sample, zero) for zero in kinds]
        best = int(np.argmin([_loss(sample, encoded) for encoded in tried]))
        return tried[best] if sample is x else self._encode(x, kinds[best])

    def _encode(self, x: NDArray[Any], zero: float | None) -> Grid:
        group = even_group(self.group, matrix_shape(x.shape, self.axis)[1])
        return Grid.encode(x, bits=self.bits, group=group, axis=self.axis, zero=zero)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return Grid.predict(shape, self.bits, self.group, self.axis, self.grid == "asymmetric")


def _sample(x: NDArray[Any]) -> NDArray[Any]:
    """Rows of ``x`` evenly spaced, about ``_SAMPLE`` entries; all of a smaller array."""
    if x.size <= _SAMPLE or x.ndim < 2:
        return x[:_SAMPLE] if x.ndim == 1 else x
    return contiguous(x[:: -(-x.size // _SAMPLE)])


def _loss(x: NDArray[Any], encoded: Encoded) -> float:
    there = encoded.placed(lambda stored: beside(stored, x)).decode_on_gpu() if is_cupy(x) else encoded.decode()
    lost = (x - there).astype(np.float64)
    return float(np.vdot(lost, lost))

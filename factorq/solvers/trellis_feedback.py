"""A trellis that runs down one column after the other: the rounding step of error feedback for trellis codes.

Column j of a matrix costs ``e**2 / U[j, j]**2`` in the metric of its Gram matrix, so that a bit weighs ``U[j, j]**2``
times as much there as in a column of the usual error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels.trellis import LARGEST, Machine, search

_HEAVIEST = 4.0  # times the usual weight of a bit: heavier ones would leave a column empty


class Descent:
    """Called with a column (m,) of number j = 0, 1, ..: its rounding. The path goes on down the next column.

    Parameters
    ----------
    step : float
        Distance of the reproduction points.
    rates : NDArray, (1, 2 K + 1) float32
        Cost of the integers in squared steps, for a column of the mean ``log U[j, j]``.
    diagonal : NDArray, (n,)
        ``U[j, j]``.
    tops : frozenset of int
        Columns at which the path starts again from state 0.
    parts : sequence of slice
        Ranges of rows, each with a path of its own.

    Attributes
    ----------
    k : NDArray, (n, m) int32
        The integers so far, a column of the matrix in each row.
    """

    def __init__(
        self,
        step: float,
        rates: NDArray[np.float32],
        diagonal: NDArray[Any],
        trellis: Machine,
        tops: frozenset[int],
        parts: Sequence[slice],
    ) -> None:
        self.step, self.rates, self.trellis, self.tops, self.parts = step, rates, trellis, tops, parts
        usual = np.log(diagonal).mean()
        self.weights = np.minimum(np.exp(2 * (np.log(diagonal) - usual)), _HEAVIEST).astype(np.float32)
        self.k = np.zeros((len(diagonal), parts[-1].stop), np.int32)
        self._states = [np.zeros(1, np.int64) for _ in parts]

    def __call__(self, j: int, column: NDArray[Any]) -> NDArray[Any]:
        if j in self.tops:
            self._states = [np.zeros(1, np.int64) for _ in self.parts]
        x = np.clip(column / self.step, -LARGEST, LARGEST).astype(np.float32)
        for part, state in zip(self.parts, self._states, strict=True):
            one = np.ascontiguousarray(x[None, part])
            rates = self.weights[j] * self.rates
            self.k[j, part] = search(one, np.zeros(one.shape, np.uint8), rates, self.trellis, state)[0]
        return np.asarray(self.step * self.k[j])

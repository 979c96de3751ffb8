"""Training behind a path: the integers of least distortion and rate, found anew as the values move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..base.shadow import Projected
from .search import Classes, Rates, find, first_rates, in_steps, too_fine

if TYPE_CHECKING:
    from . import Path

_HALVINGS = 6
_DEAREST = 16.0


class Walked(Projected):
    """``value = step * k``: the path k through the trellis next to ``values / step``, at rates that stay as they were.

    The step stays. What is stored is the path itself; should its code words take more bytes than before, rates are
    weighed more until they do not.
    """

    encoded: Path

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Path:
        values, allowed = parameters["values"], self.encoded.nbytes
        found = self._written(values, 1.0)
        low, high = 1.0, _DEAREST
        best = found if found.nbytes <= allowed else self._written(values, high)
        if found.nbytes > allowed:
            for _ in range(_HALVINGS):
                middle = (low * high) ** 0.5
                tried = self._written(values, middle)
                low, high, best = (low, middle, tried) if tried.nbytes <= allowed else (middle, high, best)
        return best

    def rounded(self, values: NDArray[Any]) -> NDArray[Any]:
        k, outliers = self._path(values, 1.0)
        return self.encoded.numbers(k, outliers)

    def _written(self, values: NDArray[Any], weight: float) -> Path:
        k, outliers = self._path(values, weight)
        return replace(self.encoded, stream=self.encoded.written(k), outliers=outliers)

    def _path(self, values: NDArray[Any], weight: float) -> tuple[NDArray[np.int32], NDArray[np.float64] | None]:
        encoded = self.encoded
        core, outliers = in_steps(values.reshape(encoded.layout), encoded.step)
        classes, rates = self._prices
        return find(core, classes, rates * np.float32(weight), encoded.states, encoded.grid), outliers

    @cached_property
    def _prices(self) -> tuple[Classes, Rates]:
        """What the integers cost where they are stored now."""
        encoded = self.encoded
        core, _ = in_steps(encoded.decode().reshape(encoded.layout), encoded.step)
        if too_fine(core):
            classes = np.zeros(encoded.layout, np.uint8)
            return classes, first_rates(core, classes, encoded.states)
        return encoded.prices(np.rint(core).astype(np.int32))

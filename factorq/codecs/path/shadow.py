"""Training behind a path: the integers of least distortion and rate, found anew as the values move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import refuse
from ..base.shadow import Projected
from .search import Classes, Rates, find, first_rates, in_steps, too_fine

if TYPE_CHECKING:
    from . import Path

_HALVINGS = 6


class Walked(Projected):
    """``value = step * k``: the path k through the trellis next to ``values / step``, at rates that stay as they were.

    The step stays. What is stored is the path itself; should its code words take more bytes than before, it is searched
    again with rates that weigh more, and where the values have outgrown that, with a wider step.
    """

    encoded: Path

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Path:
        values, allowed = parameters["values"], self.encoded.nbytes
        self.remark, found = "", self._written(values, 1.0)
        if found.nbytes <= allowed:
            return found
        dearer = self._smallest(lambda weight: self._written(values, weight), allowed, 2)
        if dearer is not None:
            found, weight = dearer
            self.remark = f"rates weighed {weight:.3g} times as much to keep the size"
            return found
        wider = self._smallest(lambda factor: self._at_step(values, factor * self.encoded.step), allowed, 100)
        if wider is None:
            largest = f"values up to {float(np.abs(values).max()):.3g}"
            raise refuse("parameters", found=largest, allowed=f"what {allowed} bytes can hold", remedy="train slower")
        found, factor = wider
        self.remark = f"a step {factor:.3g} times as wide to keep the size"
        return found

    @staticmethod
    def _smallest(written: Callable[[float], Path], allowed: int, doublings: int) -> tuple[Path, float] | None:
        """What is written at the least factor that keeps the size, of 1 to ``4**doublings``, to a few percent."""
        low, high = 1.0, 4.0
        best = written(high)
        while best.nbytes > allowed:
            if high >= 4.0**doublings:
                return None
            low, high = high, 4 * high
            best = written(high)
        for _ in range(_HALVINGS):
            middle = (low * high) ** 0.5
            tried = written(middle)
            low, high, best = (low, middle, tried) if tried.nbytes <= allowed else (middle, high, best)
        return best, high

    def _at_step(self, values: NDArray[Any], step: float) -> Path:
        encoded = self.encoded
        return encoded.encode(values, step=step, states=encoded.states, layout=encoded.layout, model=encoded.model)

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
        k = self.encoded.all_integers()
        if too_fine(k.astype(np.float32)):
            classes = np.zeros(k.shape, np.uint8)
            return classes, first_rates(k.astype(np.float32), classes, self.encoded.states)
        return self.encoded.prices(k)

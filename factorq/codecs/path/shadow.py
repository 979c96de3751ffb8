"""Training behind a path: the integers of least distortion and rate, found anew as the values move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..base.shadow import Projected
from . import static
from .search import Classes, Rates, find, first_rates, in_steps

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

    def projected(self, values: NDArray[Any]) -> NDArray[Any]:
        k, outliers = self._path(values, 1.0)
        return self.encoded.numbers(k, outliers)

    def _written(self, values: NDArray[Any], weight: float) -> Path:
        k, outliers = self._path(values, weight)
        return replace(self.encoded, stream=self.encoded.written(k), outliers=outliers)

    def _path(self, values: NDArray[Any], weight: float) -> tuple[NDArray[np.int32], NDArray[np.float64] | None]:
        encoded = self.encoded
        core, outliers = in_steps(values.reshape(encoded.layout), encoded.step)
        rates = self._rates * np.float32(weight)
        return find(core, self._classes, rates, encoded.states, encoded.grid), outliers

    @cached_property
    def _classes(self) -> Classes:
        layout = self.encoded.layout
        return static.spread(static.by_plane(layout), layout)

    @cached_property
    def _rates(self) -> Rates:
        """Bits of the integers of each plane, by how often they are stored now."""
        core, _ = in_steps(self.encoded.decode().reshape(self.encoded.layout), self.encoded.step)
        return first_rates(core, self._classes, self.encoded.states)

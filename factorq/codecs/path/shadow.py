"""Training behind a path: the integers of least distortion and rate, found anew as the values move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import refuse
from ..base.shadow import Projected
from .search import Classes, Rates, find, first_rates, in_steps, too_fine

if TYPE_CHECKING:
    from . import Path

_DEARER = 1.02  # how much more rates weigh from one try to the next
_TRIES = 140  # 16 times as much: beyond, the search has no cheaper integers next to the values
_MARGIN, _LEAST = 0.002, 32.0  # of the bits, or as many, by which an estimate may be off
_WIDER = 1.25


class Walked(Projected):
    """``value = step * k``: the path k through the trellis next to ``values / step``, of no more bits than before.

    The step stays, and so do the rates of the integers, which weigh as little more than at first as the size allows. In
    each forward the size is estimated by them; what is stored is measured. Should it take more bytes than the estimate
    allowed for, or have the values outgrown all that, it is searched again, at last with a wider step: then what is
    stored is not quite what was trained, and :attr:`remark` says so.
    """

    encoded: Path
    _first = 0  # where the last search ended: the next one is near

    def rounded(self, values: NDArray[Any]) -> NDArray[Any]:
        found = self._fitting(values)
        return self.encoded.numbers(found.k, found.outliers)

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Path:
        values, allowed = parameters["values"], self.encoded.nbytes
        found = self._fitting(values)
        written, tries = self._written(found), found.tries
        self.remark = ""
        while written.nbytes > allowed and tries < _TRIES:
            tries += 1
            written = self._written(self._path(values, tries))
            self.remark = f"rates weighed {_DEARER ** (tries - found.tries):.3g} times as much to keep the size"
        factor = 1.0
        while written.nbytes > allowed:
            factor *= _WIDER
            if not np.isfinite(factor * self.encoded.step):
                largest = f"values up to {float(np.abs(values).max()):.3g}"
                raise refuse("parameters", found=largest, allowed=f"what {allowed} bytes can hold")
            written = self._at_step(values, factor * self.encoded.step)
            self.remark = f"a step {factor:.3g} times as wide to keep the size"
        return written

    def _fitting(self, values: NDArray[Any]) -> _Found:
        """The path at the least weight of the rates at which its size is estimated to be that of the stored one."""
        cheap = self._path(values, 0)
        if self._bits(cheap.k) <= self._allowed or np.array_equal(cheap.k, self._stored):
            self._first = 0
            return cheap
        found = self._path(values, max(self._first, 1))
        while self._bits(found.k) > self._allowed and found.tries < _TRIES:
            found = self._path(values, found.tries + 1)
        while found.tries > 1:
            less = self._path(values, found.tries - 1)
            if self._bits(less.k) > self._allowed:
                break
            found = less
        self._first = found.tries
        return found

    def _path(self, values: NDArray[Any], tries: int) -> _Found:
        encoded = self.encoded
        core, outliers = in_steps(values.reshape(encoded.layout), encoded.step)
        classes, rates = self._prices
        k = find(core, classes, rates * np.float32(_DEARER**tries), encoded.states, encoded.grid)
        return _Found(k, outliers, tries)

    def _written(self, found: _Found) -> Path:
        return replace(self.encoded, stream=self.encoded.written(found.k), outliers=found.outliers)

    def _at_step(self, values: NDArray[Any], step: float) -> Path:
        encoded = self.encoded
        return encoded.encode(values, step=step, states=encoded.states, layout=encoded.layout, model=encoded.model)

    def _bits(self, k: NDArray[np.int32]) -> float:
        classes, rates = self._prices
        most = rates.shape[1] // 2
        return float(rates[classes, np.clip(k, -most, most) + most].sum(dtype=np.float64))

    @cached_property
    def _stored(self) -> NDArray[np.int32]:
        return self.encoded.all_integers()

    @cached_property
    def _allowed(self) -> float:
        bits = self._bits(self._stored)
        return bits - max(_MARGIN * bits, _LEAST)

    @cached_property
    def _prices(self) -> tuple[Classes, Rates]:
        """What the integers cost where they are stored now."""
        k = self._stored
        if too_fine(k.astype(np.float32)):
            classes = np.zeros(k.shape, np.uint8)
            return classes, first_rates(k.astype(np.float32), classes, self.encoded.states)
        return self.encoded.prices(k)


class _Found(NamedTuple):
    """Integers (P, R, C), entries that are no integers, and how often the rates were weighed more."""

    k: NDArray[np.int32]
    outliers: NDArray[np.float64] | None
    tries: int

"""Training behind a mask: the kept entries alone, or all entries, of which the largest are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .shadow import Arrays, Ops, Projected, Shadow, Tensor, Tensors

if TYPE_CHECKING:
    from .encoded import Encoded
    from .masked import Masked


class Kept(Shadow):
    """``value[mask] = the kept entries``, 0 elsewhere: the mask is frozen."""

    encoded: Masked

    def __init__(self, encoded: Masked) -> None:
        super().__init__(encoded)
        self._inner = encoded.inner.shadow()

    def parameters(self, start: NDArray[Any] | None = None) -> Arrays:
        return self._inner.parameters(None if start is None else np.ascontiguousarray(start[self.encoded.mask()]))

    def constants(self) -> Arrays:
        mask = self.encoded.mask()
        place = np.maximum(np.cumsum(mask.reshape(-1)) - 1, 0).reshape(mask.shape)
        return {"mask": mask.astype(self.encoded.dtype), "place": place, **self._inner.constants()}

    def value(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Tensor:
        return self._inner.value(ops, parameters, constants)[constants["place"]] * constants["mask"]

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Encoded:
        return replace(self.encoded, inner=self._inner.stored(parameters))


class Selected(Projected):
    """As many entries as before are kept, the largest of all, which move whether they are kept or not.

    Scales and levels stay. A bitmap takes as many bytes as before, a mask that is entropy-coded about as many.
    """

    encoded: Masked

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Encoded:
        values = parameters["values"].reshape(-1)
        mask = np.zeros(values.size, np.bool_)
        count = self.encoded.inner.size
        mask[np.argpartition(-np.abs(values), count - 1)[:count]] = True
        kept = np.ascontiguousarray(values[mask])
        return self.encoded.remade(mask.reshape(self.encoded.shape), self.encoded.inner.nearest(kept))

"""Training behind packed codes in groups: values rounded to levels, with scales, minima and levels that learn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...measure import scaled
from .shadow import FLOAT16_MAX, Arrays, Ops, Shadow, Tensor, Tensors, in_half

if TYPE_CHECKING:
    from .grouped import Grouped


_SLACK = 1e-5


class Rounded(Shadow):
    """``value = scale * level[k] + minimum``, k the nearest level to ``(values - minimum) / scale``.

    Scales learn by the gradient of LSQ (Esser et al. 2020, arXiv 1902.08153, eq. 3): ``level[k] - values / scale``, or
    the outermost level where clipped, over ``sqrt(group * (K - 1) / 2)`` for K levels (their sec. 2.2). The parameter
    is a scale relative to the first one, so that one learning rate suits weights of any size. Levels that are stored
    learn from all that is rounded to them.
    """

    encoded: Grouped

    def parameters(self, start: NDArray[Any] | None = None) -> Arrays:
        encoded = self.encoded
        found = {"values": self.near(None if start is None else self._inside(start))}
        if encoded.scales is not None:
            found["scales"] = np.ones(encoded.scales.shape, encoded.dtype)
        for name in ("minima", "levels"):
            if (x := getattr(encoded, name, None)) is not None:
                relative = name == "levels" and encoded.scales is not None
                found[name] = scaled(x.astype(encoded.dtype), 0 if relative else encoded.exponent)
        return found

    def constants(self) -> Arrays:
        encoded = self.encoded
        found = {"levels": self._table()}
        if encoded.scales is not None:
            found["first"] = scaled(encoded.scales.astype(encoded.dtype), encoded.exponent)
        return found

    def value(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Tensor:
        x = self.encoded.to_matrix(parameters["values"])
        scale = minimum = None
        if "minima" in parameters:
            minimum = self._spread(ops, in_half(ops, parameters["minima"], self.encoded.exponent))
            x = x - minimum
        if "scales" in parameters:
            slow = ops.through(parameters["scales"], parameters["scales"] * self._patience)
            scale = self._spread(ops, in_half(ops, slow * constants["first"], self.encoded.exponent))
            x = x / ops.xp.where(scale == 0, ops.xp.ones_like(scale), scale)
        made = self._rounded(ops, x, parameters.get("levels", constants["levels"]))
        if scale is not None:
            made = made * scale
        if minimum is not None:
            made = made + minimum
        return self.encoded.of_matrix(made)

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Grouped:
        encoded, changes = self.encoded, dict[str, Any]()
        for name in ("scales", "minima", "levels"):
            if name not in parameters:
                continue
            was: NDArray[Any] = getattr(encoded, name)
            x = parameters[name].astype(encoded.dtype)
            if name == "scales":
                x = x * was.astype(encoded.dtype)
            elif name == "minima" or encoded.scales is None:
                x = scaled(x, -encoded.exponent)
            limit = FLOAT16_MAX if was.dtype == np.float16 else 2.0**15
            changes[name] = np.clip(np.sort(x) if name == "levels" else x, -limit, limit).astype(was.dtype)
        return replace(encoded, **changes).nearest(np.ascontiguousarray(parameters["values"], encoded.dtype))

    def _inside(self, start: NDArray[Any]) -> NDArray[Any]:
        """``start`` between the outermost levels, beyond which no gradient would pass."""
        points = self.encoded.points()
        levels = np.asarray(points.levels)
        ends = [
            (1.0 if points.scale is None else points.scale) * end + (0.0 if points.offset is None else points.offset)
            for end in (levels.min(), levels.max())
        ]
        return np.asarray(np.clip(start, np.minimum(*ends), np.maximum(*ends)))

    def _table(self) -> NDArray[Any]:
        levels = self.encoded.table_levels().astype(self.encoded.dtype)
        return levels if self.encoded.scales is not None else scaled(levels, self.encoded.exponent)

    def _spread(self, ops: Ops, per_group: Tensor) -> Tensor:
        """A number per group, for every entry; repeated, not indexed, whose gradients take several times as long."""
        n = self.encoded.grouped_matrix[1]
        (rows, groups), group = per_group.shape, self.encoded.group or n
        wide = ops.xp.broadcast_to(per_group[:, :, None], (rows, groups, group))
        return wide.reshape(rows, groups * group)[:, :n]

    @property
    def _patience(self) -> float:
        n, levels = self.encoded.grouped_matrix[1], len(self.encoded.table_levels())
        return math.sqrt(2 / (max(min(self.encoded.group or n, n), 1) * max(levels - 1, 1)))

    def _rounded(self, ops: Ops, x: Tensor, levels: Tensor) -> Tensor:
        """The nearest of ``levels`` (ascending): with the gradient of x, clipped, and of the levels."""
        xp, fixed = ops.xp, ops.stopped(levels)
        slack = _SLACK * (fixed[-1] - fixed[0])  # the outermost levels themselves, divided by their scale, are inside
        clipped = xp.clip(x, fixed[0] - slack, fixed[-1] + slack)
        if self.encoded.even:
            least, gap = float(self._table()[0]), float(self._table()[1] - self._table()[0])
            return ops.through(xp.round((ops.stopped(clipped) - least) / gap) * gap + least, clipped)
        k = xp.searchsorted((fixed[1:] + fixed[:-1]) / 2, ops.stopped(x))
        return levels[k] + (clipped - ops.stopped(clipped))

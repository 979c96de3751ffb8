"""Training behind packed codes in groups: values rounded to levels, with scales, minima and levels that learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...measure import scaled
from .shadow import Arrays, Ops, Shadow, Tensor, Tensors, halves, in_half, relative_scale

if TYPE_CHECKING:
    from .grouped import Grouped


_LARGEST = 2.0**15  # a level in its codebook
_SLACK = 1e-2  # of a step; at 16 bits float32 has a 256th of one


class Rounded(Shadow):
    """``value = scale * level[k] + minimum``, k the nearest level to ``(values - minimum) / scale``.

    Scales learn by the gradient of LSQ (Esser et al. 2020, arXiv 1902.08153, eq. 3): ``level[k] - (values - minimum) /
    scale``, or the outermost level where clipped; the parameter is relative (:func:`.shadow.relative_scale`). Levels
    that are stored learn from all that is rounded to them.
    """

    encoded: Grouped

    def __init__(self, encoded: Grouped) -> None:
        super().__init__(encoded)
        levels = encoded.table_levels().astype(encoded.dtype)
        self._table = levels if encoded.scales is not None else scaled(levels, encoded.exponent)
        self._ends = float(self._table[0]), float(self._table[-1])

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
        found = {} if encoded.even else {"levels": self._table}
        if encoded.scales is not None:
            found["first"] = scaled(encoded.scales.astype(encoded.dtype), encoded.exponent)
        return found

    def value(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Tensor:
        encoded = self.encoded
        x = encoded.to_matrix(parameters["values"])
        scale = minimum = None
        if "minima" in parameters:
            minimum = self._spread(ops, in_half(ops, parameters["minima"], encoded.exponent))
            x = x - minimum
        if "scales" in parameters:
            n = encoded.grouped_matrix[1]
            count = min(encoded.group or n, n) * ((1 << encoded.bits) - 1) // 2  # weights times the outermost level
            first = constants["first"]
            scale = self._spread(ops, relative_scale(ops, parameters["scales"], first, encoded.exponent, count))
            x = x / ops.xp.where(scale == 0, ops.xp.ones_like(scale), scale)
        if encoded.even:
            made = self._even(ops, x)
        else:
            made = self._nearest(ops, x, parameters["levels"] if "levels" in parameters else constants["levels"])
        if scale is not None:
            made = made * scale
        if minimum is not None:
            made = made + minimum
        return encoded.of_matrix(made)

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
            levels = name == "levels"
            changes[name] = np.clip(np.sort(x), -_LARGEST, _LARGEST).astype(was.dtype) if levels else halves(x)
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

    def _spread(self, ops: Ops, per_group: Tensor) -> Tensor:
        """A number per group, for every entry; repeated, not indexed, whose gradients take several times as long."""
        n = self.encoded.grouped_matrix[1]
        (rows, groups), group = per_group.shape, self.encoded.group or n
        wide = ops.xp.broadcast_to(per_group[:, :, None], (rows, groups, group))
        return wide.reshape(rows, groups * group)[:, :n]

    def _even(self, ops: Ops, x: Tensor) -> Tensor:
        """The nearest of levels that are evenly spaced, with the gradient of x, clipped."""
        xp, (least, most), gap = ops.xp, self._ends, self._ends[1] - self._ends[0]
        gap /= (1 << self.encoded.bits) - 1
        slack = _SLACK * gap  # the outermost levels themselves, divided by their scale, are to be inside
        clipped = xp.clip(x, least - slack, most + slack)
        return ops.through(xp.round((ops.stopped(clipped) - least) / gap) * gap + least, clipped)

    def _nearest(self, ops: Ops, x: Tensor, levels: Tensor) -> Tensor:
        """The nearest of ``levels``, with the gradient of x, clipped, and of the levels."""
        xp = ops.xp
        levels = levels[xp.argsort(ops.stopped(levels))]  # those that learn may have passed each other
        fixed = ops.stopped(levels)
        slack = _SLACK * (fixed[-1] - fixed[0]) / len(self._table)
        clipped = xp.clip(x, fixed[0] - slack, fixed[-1] + slack)
        k = xp.searchsorted((fixed[1:] + fixed[:-1]) / 2, ops.stopped(x))
        return levels[k] + (clipped - ops.stopped(clipped))

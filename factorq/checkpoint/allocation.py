"""A size for the whole checkpoint: one step for all tensors, so that a byte buys the same error everywhere.

With an entropy-coded quantizer of step s the error of a tensor falls with its bits as ``dD/dR = -c s**2``, whatever the
tensor. Equal slopes, the optimum over all tensors (Shoham and Gersho 1988), are equal steps; a tensor whose errors
count w times as much gets ``s / sqrt(w)``.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from ..errors import refuse, refuse_type
from .report import Row
from .shards import Tensor

if TYPE_CHECKING:
    from .pool import Recipe

_CLOSE = 0.004  # share of the target that may stay unused
_JUMP = 0.1  # more than samples are off: the sizes of few-valued tensors jump, and the next one is too large


@dataclass(frozen=True)
class _Total:
    """What all tensors take together at one step."""

    step: float
    nbytes: int


def sensitivities(weights: Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    """How much the squared error of each tensor counts: that of the first pattern that its name matches, else 1.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If a weight is no positive number, or a pattern matches no tensor.
    """
    if not isinstance(weights, Mapping | None) or not all(isinstance(pattern, str) for pattern in weights or {}):
        raise refuse_type("sensitivity", found=repr(weights), allowed="a mapping from names or patterns to numbers")
    patterns = dict(weights or {})
    for pattern, weight in patterns.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float | np.floating | np.integer):
            raise refuse_type("sensitivity", found=f"{weight!r} for {pattern!r}", allowed="a number above 0")
        number = weight.item() if isinstance(weight, np.generic) else weight
        if not 0 < number <= sys.float_info.max:
            raise refuse("sensitivity", found=f"{weight!r} for {pattern!r}", allowed="a number above 0")
        if not any(fnmatchcase(name, pattern) for name in names):
            raise refuse("sensitivity", found=f"{pattern!r}, which matches no tensor", allowed="names or patterns")
    return {name: next((float(w) for p, w in patterns.items() if fnmatchcase(name, p)), 1.0) for name in names}


def common_step(
    recipe: Recipe, tensors: Sequence[Tensor], bits_per_weight: float, drafts: Callable[[Recipe], Sequence[float]]
) -> Recipe:
    """``recipe`` with the step at which all ``tensors`` together take ``bits_per_weight``.

    Parameters
    ----------
    drafts : callable
        A number for each tensor: what ``draft`` of the recipe asks for.
    """
    from ..solvers.step import meet

    size = sum(math.prod(tensor.entry.shape) for tensor in tensors)
    scale = math.hypot(*drafts(replace(recipe, draft="norm"))) / math.sqrt(size)
    if scale == 0.0:
        return recipe.at_step(1.0)
    if not math.isfinite(scale):
        found = "numbers whose squares add up beyond float64"
        raise refuse("source", found=found, allowed="tensors of a smaller scale", remedy="scale them first")

    def total(step: float) -> _Total:
        return _Total(step, math.ceil(sum(drafts(replace(recipe.at_step(step), draft="nbytes")))))

    start = scale * 2.0 ** (1.0 - bits_per_weight)
    best = meet(total, size, bits_per_weight * size / 8, start, start * 2.0**-24, close=_CLOSE / 2)
    if 8 * best.nbytes > bits_per_weight * size:
        found = f"{bits_per_weight:g}; all tensors together take {8 * best.nbytes / size:.4g} at least"
        remedy = "ask for more, or exclude small tensors and those of extreme sensitivity"
        raise refuse("bits_per_weight", found=found, allowed="what these tensors can be coded in", remedy=remedy)
    return recipe.at_step(best.step)


def corrected(recipe: Recipe, rows: Sequence[Row], bits_per_weight: float) -> Recipe:
    """``recipe`` if it has no step or the factored ``rows`` take ``bits_per_weight``, else with one that should do."""
    from ..methods import Trellis

    if not isinstance(recipe.method, Trellis) or recipe.method.step is None:
        return recipe
    factored = [row for row in rows if row.method]
    size, nbytes = sum(row.size for row in factored), sum(row.nbytes for row in factored)
    excess = 8 * nbytes / size - bits_per_weight if size else 0.0
    if -_CLOSE * bits_per_weight <= excess <= 0 or excess < -_JUMP * bits_per_weight:
        return recipe
    return recipe.at_step(recipe.method.step * 2.0 ** (excess + bits_per_weight * _CLOSE / 2))

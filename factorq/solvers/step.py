"""The step at which a code takes a given number of bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, TypeVar


class Sized(Protocol):
    """Something stored."""

    @property
    def nbytes(self) -> int: ...


Code = TypeVar("Code", bound=Sized)
_TRIES = 16
CLOSE = 5e-4  # of the budget: nearer than that is near enough
_BYTES, _SHARE = 12, 0.004  # and so are as many bytes, up to this share: the sizes of small arrays jump
_FARTHEST = 4.0  # octaves of step for one try
_MARGIN = 0.05  # of a bracket, so that both of its ends move
_NARROW = 2e-5  # octaves: a step of 16 bits knows no smaller change


def meet(
    encode: Callable[[float], Code], size: int, budget: float, start: float, finest: float, close: float = CLOSE
) -> Code:
    """The code of most bytes within ``budget``, by a secant search over the logarithm of the step.

    Parameters
    ----------
    encode : callable
        From a step to the stored code; about ``size / 8`` bytes less for every octave, in the long run.
    size : int
        Numbers that are coded.
    budget : float
        Bytes.
    start, finest : float
        The first step to try, and the smallest: if a code there still fits, it is taken.
    close : float
        Share of the budget that may stay unused.

    Returns
    -------
    Code
        If none fits, the smallest that was met; if what fits takes less than half of the budget, the finest step's.
    """
    spare = max(close * budget, min(_BYTES, _SHARE * budget))
    aim, expected = budget - spare / 2, -size / 8
    narrow = max(_NARROW, 4 / max(size, 1))  # half a byte
    lowest = math.log2(finest)
    at = max(math.log2(start), lowest)
    best: Code | None = None
    smallest: Code | None = None
    finest_fit: Code | None = None
    over: tuple[float, int] | None = None  # the largest step that took too many bytes, and how many
    under: tuple[float, int] | None = None  # the smallest that did not
    last: tuple[float, int] | None = None
    slope, move = expected, 0.0
    for _ in range(_TRIES):
        code = encode(2.0**at)
        here = at, code.nbytes
        smallest = code if smallest is None or code.nbytes < smallest.nbytes else smallest
        if code.nbytes <= budget:
            best = code if best is None or code.nbytes > best.nbytes else best
            finest_fit = code if under is None or at <= under[0] else finest_fit
            if code.nbytes >= budget - spare or at <= lowest:
                break
            under = here if under is None else min(under, here)
        else:
            over = here if over is None else max(over, here)
        if over is None or under is None:  # by the slope met so far; by twice the last move where that did not do
            if last is not None and last[0] != at:
                slope = min(max((here[1] - last[1]) / (at - last[0]), 2 * expected), expected / 8)
            newton = (aim - here[1]) / slope
            stuck = last is not None and abs(aim - here[1]) > abs(aim - last[1]) / 2
            move = math.copysign(min(max(abs(newton), 2 * abs(move) if stuck else 0.0), _FARTHEST), newton)
            last = here
            at += move
        else:
            at = _between(over, under, aim)
        at = max(at, lowest)
        close_by = abs(at - here[0]) < narrow or (over and under and under[0] - over[0] < narrow)
        if best is not None and close_by:  # else go on: a little less may do
            break
    if best is not None and finest_fit is not None and best.nbytes < budget / 2:
        return finest_fit  # sizes hardly tell steps apart, those of a constant array for one: errors do
    return best or smallest or encode(2.0**at)


def _between(over: tuple[float, int], under: tuple[float, int], aim: float) -> float:
    """Where the chord of the bracket meets the aim, inside of the bracket by a margin."""
    width = under[0] - over[0]
    chord = over[0] + width * (over[1] - aim) / max(over[1] - under[1], 1)
    return min(max(chord, over[0] + _MARGIN * width), under[0] - _MARGIN * width)

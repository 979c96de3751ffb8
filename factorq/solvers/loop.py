"""The one loop of the iterative solvers: step, keep the best, stop when it no longer pays, say how it ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import ArgumentError

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """What a callback is told: step ``step`` of at most ``steps`` reached ``objective`` (relative error)."""

    step: int
    steps: int
    objective: float


Callback = Callable[[Progress], object]


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """The best result of a loop, the objective after each step and a sentence on how it ended."""

    best: T
    history: tuple[float, ...]
    status: str


def iterate(
    step: Callable[[S], tuple[S, T, float]],
    state: S,
    *,
    max_iter: int,
    tol: float,
    patience: int = 3,
    callback: Callback | None = None,
) -> Outcome[T]:
    """Apply ``step`` until the best objective falls by less than ``tol`` (relative) in ``patience`` steps.

    Parameters
    ----------
    step : callable
        From a state to the next state, a result, and the result's objective.
    state : S
        The start.
    max_iter : int
        Most steps, at least 1.
    tol : float
        Least relative improvement that is worth ``patience`` more steps.
    callback : callable, optional
        Called with a :class:`Progress` after each step.

    Returns
    -------
    Outcome
        The result of the best step, whatever came after it.

    Raises
    ------
    ArgumentError
        If no step gives a finite objective.
    """
    best: tuple[T, float] | None = None
    history: list[float] = []
    milestone, since = math.inf, 0
    for count in range(1, max_iter + 1):
        state, result, objective = step(state)
        history.append(objective)
        if callback is not None:
            callback(Progress(count, max_iter, objective))
        if math.isfinite(objective) and (best is None or objective < best[1]):
            best = result, objective
        if best is None:
            continue
        if best[1] < milestone * (1 - tol):
            milestone, since = best[1], 0
        else:
            since += 1
        if best[1] == 0.0 or since >= patience:
            return Outcome(best[0], tuple(history), f"converged after {count} steps (tol={tol:g})")
    if best is None:
        raise ArgumentError("the solver met no finite objective; scale W toward 1 and check it for extreme values")
    advice = (
        "while still improving; raise max_iter for a smaller error" if since == 0 else f"gaining less than tol={tol:g}"
    )
    return Outcome(best[0], tuple(history), f"stopped at max_iter={max_iter} {advice}")

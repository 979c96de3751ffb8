"""Trellis-coded quantization: the path through a state machine of least distortion plus weighted rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import refuse
from .. import twin
from .machine import STATES, Machine, machine

__all__ = ["LARGEST", "STATES", "Machine", "machine", "search"]

LARGEST = 2.0**22
"""Magnitude of x in steps up to which float32 still resolves a quarter of a step."""


def search(
    x: NDArray[np.float32],
    classes: NDArray[np.uint8],
    rate: NDArray[np.float32],
    trellis: Machine,
    state: NDArray[np.int64],
) -> NDArray[np.int32]:
    """Integers k (L, T) of least ``sum((x - k)**2 + rate[class, k])`` along each row of x that the trellis allows.

    The Viterbi algorithm (Marcellin and Fischer 1990; with rates, Fischer and Wang 1992). Of each subset the nearest
    point and its neighbour toward 0 are candidates. Rows are independent; a path is decided every 512 samples.

    Parameters
    ----------
    x : NDArray, (L, T) float32
        Sequences in units of the step, below ``LARGEST``.
    classes : NDArray, (L, T) uint8
        Which row of ``rate`` holds for a sample.
    rate : NDArray, (C, 2 K + 1) float32
        Cost of the integers -K .. K in squared steps: a multiplier times bits. Beyond them the last one holds.
    trellis : Machine
        The states; with one of them every sample is decided alone.
    state : NDArray, (L,) int64
        The state in which each row starts; overwritten by the one in which it ends.

    Returns
    -------
    NDArray, (L, T) int32

    Raises
    ------
    ArgumentError
        If shapes do not fit, or a class or a state is out of range.
    """
    if x.ndim != 2 or classes.shape != x.shape or state.shape != x.shape[:1]:
        found = f"x {x.shape}, classes {classes.shape}, state {state.shape}"
        raise refuse("x", found=found, allowed="sequences (L, T) with classes (L, T) and states (L,)")
    if rate.ndim != 2 or rate.shape[1] % 2 == 0 or int(classes.max(initial=0)) >= len(rate):
        found = f"rates {rate.shape} for classes up to {int(classes.max(initial=0))}"
        raise refuse("rate", found=found, allowed="(C, 2 K + 1), a row for each class")
    if x.size and (int(state.min()) < 0 or int(state.max()) >= trellis.states):
        raise refuse("state", found=f"{int(state.min())}..{int(state.max())}", allowed=f"0..{trellis.states - 1}")
    k = np.empty(x.shape, np.int32)
    kernel = twin(__name__, x)
    if trellis.states == 1:
        kernel.deadzone(x, classes, rate, k)
    else:
        kernel.search(x, classes, rate, trellis.predecessor, trellis.subset, state, k)
    return k

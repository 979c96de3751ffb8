"""The integers of an array on a given step: the path of least distortion and rate, over all blocks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels import trellis as kernel
from ...kernels.threads import each
from ...measure import scaled
from .blocks import Block, alike, stacked

LANES = 64  # blocks searched side by side: 8 states 39 M weights/s, 64 states 25 M; alone 6 M and 2 M
_FINE = 100.0
_SAMPLE = 1 << 16
MOST = 1024  # integers beyond which rates are all alike
# Weight of one bit in squared steps. At the slope of the Gaussian bound, 2 ln 2 D, a point k * step is its own
# centroid to 0.1 % of D: at 0.5 to 4.4 bits the stored k * step lose .0005 bit against fitted points.
_TRELLIS_WEIGHT, _SCALAR_WEIGHT = 0.4, 0.11

Rates = NDArray[np.float32]
Classes = NDArray[np.uint8]


def first_rates(core: NDArray[np.float32], classes: Classes, states: int) -> Rates:
    """Bits (C, 2 K + 1) of the integers of each class by the histogram of rounded values: a start for the search."""
    count = int(classes.max(initial=0)) + 1
    if too_fine(core):
        return np.zeros((count, 1), np.float32)
    width = 2 * MOST + 1
    k = np.rint(np.clip(core, -MOST, MOST)).astype(np.int64) + MOST
    counts = np.bincount((classes * np.int64(width) + k).reshape(-1), minlength=count * width).reshape(count, width)
    smooth = counts + 0.1 / (1 + np.abs(np.arange(-MOST, MOST + 1)))
    bits = np.log2(smooth.sum(axis=1, keepdims=True)) - np.log2(smooth)
    return np.asarray(bits - (states > 1), np.float32)  # the trellis tells one of the bits


def too_fine(core: NDArray[np.float32]) -> bool:
    """Whether steps are so small that rates hardly differ from one integer to the next: no use in weighing them."""
    few = core.reshape(-1)[:: 1 + core.size // _SAMPLE]
    return bool(few.size) and float(np.median(np.abs(few))) > _FINE


def in_steps(x: NDArray[Any], step: float) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
    """``x`` (P, R, C) in steps; entries beyond what float32 resolves become 0 and outliers (2, n): place and value."""
    mantissa, exponent = math.frexp(step)
    with np.errstate(over="ignore"):  # infinite is far out, too
        if abs(exponent) < 100:
            ratio = np.divide(x, step, dtype=x.dtype)
        else:  # beyond what float32 can be scaled by
            ratio = scaled(x.astype(np.float64), -exponent) / mantissa
    if max(-float(ratio.min(initial=0)), float(ratio.max(initial=0))) < kernel.LARGEST:
        return np.ascontiguousarray(ratio, np.float32), None
    far = np.abs(ratio) >= kernel.LARGEST
    places = np.flatnonzero(far)
    values = x.reshape(-1)[places].astype(np.float64)
    return np.where(far, 0, ratio).astype(np.float32), np.stack([places.astype(np.float64), values])


def squared_steps(rates: Rates, states: int) -> Rates:
    """What ``rates`` bits weigh against squared errors in steps."""
    return np.float32(_TRELLIS_WEIGHT if states > 1 else _SCALAR_WEIGHT) * rates


def find(
    core: NDArray[np.float32], classes: Classes, rates: Rates, states: int, grid: list[Block]
) -> NDArray[np.int32]:
    """The integers (P, R, C), found block by block.

    Parameters
    ----------
    core : NDArray, (P, R, C) float32
        The array in steps.
    classes : NDArray, (P, R, C) uint8
        Which row of ``rates`` holds for an entry.
    rates : NDArray, (classes, 2 K + 1) float32
        Bits of the integers.
    """
    costs = squared_steps(rates, states)
    machine = kernel.machine(states)
    k = np.empty(core.shape, np.int32)

    def search(batch: list[Block]) -> None:
        x = stacked(core, batch)
        y = np.zeros(x.shape, np.uint8) if len(rates) == 1 else stacked(classes, batch)
        found = kernel.search(x, y, costs, machine, np.zeros(len(batch), np.int64))
        for (rows, columns), path in zip(batch, found, strict=True):
            part = k[:, rows, columns]
            part[...] = path.reshape(part.shape)

    each(search, list(alike(core.shape, grid, LANES)))
    return k

"""Stage after stage: candidates by the promise of their eigenvalues, then by measured cost, on a sample of W."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels import givens
from .candidates import channels, plain, positions
from .length import gaussian_cost, quantized_cost
from .transform import Reading, Stage, Transform

Floats = NDArray[np.float64]

SAMPLE = 1 << 17  # numbers of which a candidate is judged
VECTORS = 64  # per dimension, for second moments: with 2 the basis fits the sample 0.16 bit better than all of VGG's
SLICES = 64  # of an axis that are looked at, at least
TRIED = 3  # candidates whose cost is measured
STAGES = 2  # a third was never taken on the nine networks at hand
CLEAR = 0.004  # bits per number, with 64 bits: smaller savings are noise of the estimate
DRAFT_BITS = 8
ANGLE_BITS = (4, 5, 6, 7, 8, 9, 10, 12)


@dataclass(frozen=True, eq=False)
class Prospect:
    """A reading with its eigenbasis, and what that promises.

    Parameters
    ----------
    reading : Reading
        The axes.
    moments : NDArray, (planes, p, p)
        Second moment of the vectors along the axes, for each of the planes that the axes leave.
    vectors : NDArray, (p, p)
        Eigenvectors of the mean of the normalised moments as columns, descending.
    leading : int
        How many of them are worth their angles.
    promise : float
        Bits per number saved if the coefficients were Gaussian, the basis paid.
    """

    reading: Reading
    moments: Floats
    vectors: Floats
    leading: int
    promise: float


def search(X: NDArray[Any], step: float) -> Transform:
    """The transform of X (any shape) with the least bits for a quantizer of ``step``; none where that is not clear."""
    none = Transform(X.shape, (), plain(X.shape).layout)
    before = least = measured(X, Stage(plain(X.shape)), step)
    stages: tuple[Stage, ...] = ()
    best = none
    core, layout, paid = X, none.layout, 0.0
    for round_ in range(STAGES):
        kernels = list(positions(X.shape)) if round_ == 0 else []
        # Kernels are read as planes in any case: channels of a plane may pay where a basis of its positions does not.
        trials = drafts(core, kernels or channels(core.shape, layout), step) + [Stage(k) for k in kernels[:1]]
        costs = [measured(core, stage, step) for stage in trials]
        if not trials or (not kernels and paid + min(costs) > least - clear(X.size)):
            break
        stage = refined(core, trials[int(np.argmin(costs))], step)
        now = paid + measured(core, stage, step)
        stages, paid = (*stages, stage), paid + 8.0 * stage.cost / X.size
        if now < least - clear(X.size):
            least = now
            best = Transform(X.shape, stages, stage.reading.layout, (before - least) * X.size)
        if round_ + 1 < STAGES:
            core, layout = stage.apply(core), stage.reading.layout
    return best


def clear(size: int) -> float:
    """The saving in bits per number that counts as one."""
    return CLEAR + 64.0 / size


def drafts(X: NDArray[Any], readings: Iterable[Reading], step: float) -> list[Stage]:
    """The most promising of the ``readings`` of X with their bases."""
    found = sorted((prospect(X, reading, step) for reading in readings), key=lambda p: -p.promise)
    return [quantized(p, DRAFT_BITS) for p in found[:TRIED] if p.promise > CLEAR]


def prospect(X: NDArray[Any], reading: Reading, step: float) -> Prospect:
    """The eigenbasis of X along the axes of ``reading``, and how many of its vectors to keep."""
    moments = second_moments(X, reading)
    p = moments.shape[-1]
    water = step * step / 12.0
    energy = np.trace(moments, axis1=1, axis2=2) / p
    # Planes below the water cost nothing, whatever the basis: in the mean each counts as far as it is above.
    weight = 1.0 / np.maximum(energy, water)
    values, vectors = np.linalg.eigh(np.tensordot(weight, moments, 1) / max(float(weight @ energy), 1e-300))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    before = float(gaussian_cost(energy, step).mean())
    best = (-math.inf, 1)
    # Steps of 1.5 and 1.33; of 2 lose 0.005 bit per weight on VGG.
    counts = {m << e for m in (1, 3) for e in range(p.bit_length()) if m << e < p - 1} | {p - 1}
    for leading in sorted(counts):
        spectrum = np.append(values[:leading], values[leading:].mean())
        share = np.append(np.full(leading, 1.0 / p), (p - leading) / p)
        after = float((gaussian_cost(np.outer(energy, spectrum), step) @ share).mean())
        saved = before - after - givens.angle_count(p, leading) * DRAFT_BITS / X.size
        best = max(best, (saved, leading))
    return Prospect(reading, moments, vectors, best[1], best[0])


def quantized(prospect: Prospect, bits: int) -> Stage:
    """The stage of a prospect with ``bits`` per angle."""
    basis = np.ascontiguousarray(prospect.vectors[:, : prospect.leading])
    return Stage(prospect.reading, givens.encode(basis, bits), bits, prospect.leading)


def refined(X: NDArray[Any], stage: Stage, step: float) -> Stage:
    """The stage with the number of bits per angle that costs least."""
    if stage.codes is None:
        return stage
    draft = prospect(X, stage.reading, step)
    versions = [quantized(draft, bits) for bits in ANGLE_BITS]
    return min(versions, key=lambda s: predicted(draft.moments, s, step, X.size))


def predicted(moments: Floats, stage: Stage, step: float, size: int) -> float:
    """Bits per number of Gaussian coefficients with the energies that the stored basis gives them, the basis paid."""
    basis = stage.basis
    energy = np.einsum("jk,qkl,jl->qj", basis, moments, basis, optimize=True)
    return float(gaussian_cost(energy, step).mean()) + 8.0 * stage.cost / size


def measured(X: NDArray[Any], stage: Stage, step: float) -> float:
    """Bits per number of the planes that ``stage`` makes of X, the basis paid; on a sample."""
    sample, reading = sampled(X, stage.reading)
    core = replace(stage, reading=reading).apply(sample.astype(np.float64))
    return quantized_cost(core, reading.layout, step) / sample.size + 8.0 * stage.cost / X.size


def sampled(X: NDArray[Any], reading: Reading, size: int = SAMPLE) -> tuple[NDArray[Any], Reading]:
    """About ``size`` numbers of X: evenly spaced slices along axes that no basis acts on, the first ones first."""
    left = X.size // size
    slices = [slice(None)] * len(reading.split)
    for axis, length in enumerate(reading.split):
        stride = max(1, min(left, length // SLICES)) if axis not in reading.axes else 1
        slices[axis] = slice(None, None, stride)
        left //= stride
    piece = X.reshape(reading.split)[tuple(slices)]
    return piece, replace(reading, shape=piece.shape, split=piece.shape)


def second_moments(X: NDArray[Any], reading: Reading) -> Floats:
    """``M[q] = Y_q Y_q^T / n``: (planes that the axes leave, p, p) for Y_q (p, n), the vectors along the axes."""
    p = reading.count(reading.axes)
    sample, reading = sampled(X, reading, max(SAMPLE, VECTORS * p * p))
    others = [a for a in reading.planes if a not in reading.axes]
    rest = [a for a in range(len(reading.split)) if a not in (*others, *reading.axes)]
    cut = sample.astype(np.float64).reshape(reading.split).transpose(*others, *reading.axes, *rest)
    Y = cut.reshape(reading.count(others), p, -1)
    return np.asarray(np.matmul(Y, Y.transpose(0, 2, 1)) / Y.shape[2])

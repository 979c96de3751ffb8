"""Tables of the mixing coder: integers, so that every machine predicts the same probabilities.

Fixed point: a logit has 12 fractional bits, a probability 16 (22 inside a counter), the logarithm base 2 of a scale 20.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

LIMIT = 1 << 24
"""Largest |k|."""
CLASSES = 80
"""Scale classes: eighths of an octave of the expected magnitude, from 2**-8 up to 2**2."""
LABELS = 32
"""Scale classes that are told to an encoder: halves of an octave from 2**-8 up to 2**8."""
UNARY = 14
"""Magnitudes below this are coded in unary, one mixed decision each; the rest by an exponential Golomb escape."""
SHIFT = 22
"""Most low bits of a magnitude that go uncoded."""
SLOTS = 1024
"""Contexts per counter model, each with 16 counters."""
COUNTS = 256
RECIPROCALS = 1024
PROBABILITIES = 4096
WEIGHTS = (9830, 9830, 13107, 13107, 13107, 6554)
"""First weights of the Gaussian, the Laplacian and the counters: any of 0.1 to 0.3 cost the same within 0.001 bit."""
LEARNING = 48
"""Step of the mixer in 2**-14: half or twice as much costs up to 0.002 bits per weight."""
CONFIDENCE = 5
"""Observations that a counter's start is worth."""
DAMP_FIRST, DAMP_LEVEL, DAMP_LINE, DAMP_PLACE = 1 << 16, 4 << 16, 5 << 16, 8 << 16
"""Observations, 16 fractional bits, that the start of a factor is worth: level of plane 0 and of later planes, rows and
columns, places. Half or twice as much costs up to 0.002 bits per weight."""
CAP_LEVEL, CAP_FACTOR = 1023 << 14, 160 << 14
"""Observations over which a factor averages: forgetting after 40 is worth 0.005 bits on resnet20, 0.025 on VGG."""
DAMP_SIGN = 200 << 12
"""Curvature that the start of a sign bias is worth: 20 would cost 0.02 bits on resnet20."""
TRUST = 18
"""Step of the exponents of the factors, 2**-(TRUST - 12): worth 0.001 to 0.004 bits where a factor misleads."""
LARGEST_STEP = 4 << 16
_EDGE = 0.05  # a rate-aware quantizer rounds towards zero: cells end at (a + 0.5 + _EDGE) steps


class Tables(NamedTuple):
    """What both twins read.

    Parameters
    ----------
    stretch : NDArray, (PROBABILITIES,) int64
        ``ln(p / (1 - p))`` at p = (i + 1/2) / 4096.
    squash : NDArray, (PROBABILITIES,) int64
        ``1 / (1 + exp(-x))`` at x = (i + 1/2) / 128 - 16.
    prior : NDArray, (2, 2, CLASSES, UNARY + 1) int64
        Logit of "the magnitude is larger than j" given that it is at least j, by shape (Gaussian, Laplace), parity and
        scale class.
    mean : NDArray, (2, CLASSES) int64
        Expected magnitude M by parity and class, 16 fractional bits.
    damping, curvature : NDArray, (2, CLASSES) int64
        ``1 / (1 + M)`` and ``M / (1 + M)``.
    gain : NDArray, (CLASSES,) int64
        1 over the scale of a class, at most 1.4, 12 fractional bits.
    cost : NDArray, (PROBABILITIES + 1,) int64
        ``-log2(i / 4096)``, 16 fractional bits.
    rate : NDArray, (COUNTS,) int64
        ``1 / (n + 1)``, 16 fractional bits.
    newton : NDArray, (RECIPROCALS,) int64
        ``2**20 / ln(2) / d`` at d = (i + 1/2) / 4.
    """

    stretch: Ints
    squash: Ints
    prior: Ints
    mean: Ints
    damping: Ints
    curvature: Ints
    gain: Ints
    cost: Ints
    rate: Ints
    newton: Ints


@cache
def tables() -> Tables:
    """The tables, a part of the format: the decoder must build the same integers.

    Rounding hides the last digits of the platform's exp, log and erfc: no entry lies nearer to a tie than by 1.6e-9 of
    itself. A test holds their checksum.
    """
    prior = np.zeros((2, 2, CLASSES, UNARY + 1), np.int64)
    mean = np.zeros((2, CLASSES))
    for q in range(CLASSES):
        for shape, tail in enumerate((_gauss, _laplace)):
            scale = _scale_of(2.0 ** ((q - 63.5) / 8), tail)
            for parity in (0, 1):
                prior[shape, parity, q] = _logits(scale, parity, tail)
                mean[parity, q] += _mean(scale, parity, tail) / 2
    squash = [1 / (1 + math.exp(16 - (i + 0.5) / 128)) for i in range(PROBABILITIES)]
    return Tables(
        stretch=_fixed([math.log((i + 0.5) / (4095.5 - i)) for i in range(PROBABILITIES)], 12),
        squash=np.clip(_fixed(squash, 16), 4, 65532),
        prior=prior,
        mean=_fixed(mean, 16),
        damping=_fixed(1 / (1 + mean), 16),
        curvature=_fixed(mean / (1 + mean), 16),
        gain=_fixed([min(1.4, 2.0 ** ((63.5 - q) / 8)) for q in range(CLASSES)], 12),
        cost=_fixed([-math.log2(max(i, 0.5) / PROBABILITIES) for i in range(PROBABILITIES + 1)], 16),
        rate=_fixed([1 / (n + 1) for n in range(COUNTS)], 16),
        newton=_fixed([4 / math.log(2) / (i + 0.5) for i in range(RECIPROCALS)], 20),
    )


def _fixed(x: object, bits: int) -> Ints:
    return np.rint(np.asarray(x, np.float64) * 2.0**bits).astype(np.int64)


def _gauss(x: float) -> float:
    return math.erfc(x * math.sqrt(0.5))


def _laplace(x: float) -> float:
    return math.exp(-x * math.sqrt(2))


def _edges(parity: int) -> float:
    """Where the cell of magnitude 0 ends, in spacings of the union: odd points stand half a spacing off zero."""
    return (1.0 if parity else 0.5) + _EDGE


def _mean(scale: float, parity: int, tail: Callable[[float], float]) -> float:
    total, a = 0.0, 0
    while a < 4096:
        share = tail((a + _edges(parity)) / scale)
        total += share
        if share < 1e-12:
            break
        a += 1
    return total


def _scale_of(mean: float, tail: Callable[[float], float]) -> float:
    """The deviation, in spacings, at which the even union has this mean magnitude: bisection of its logarithm."""
    low, high = 2.0**-6, 2.0**6
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _mean(middle, 0, tail) < mean else (low, middle)
    return low


def _logits(scale: float, parity: int, tail: Callable[[float], float]) -> Ints:
    before, logits = 1.0, []
    for a in range(UNARY + 1):
        share = tail((a + _edges(parity)) / scale)
        p = min(max(share / before if before > 1e-200 else 0.0, 5e-4), 0.9995)
        logits.append(math.log(p / (1 - p)))
        before = share
    return _fixed(logits, 12)

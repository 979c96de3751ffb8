"""Integers along a trellis, entropy coded, at a number of stored bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..codecs import Dense, Encoded, Path
from ..codecs.path import preferred, strips
from ..errors import refuse
from ..kernels.trellis import STATES
from ..measure import binary_exponent, norm
from ..named import settle
from ..solvers.step import CLOSE, meet
from .base import Constraint
from .checks import check_rate

Model = Literal["auto", "static", "mixing"]
SAMPLE = 1 << 18  # weights on which the step is searched before all are coded
_FINEST = 2.0**-20  # of the median magnitude: finer steps than float32 tells apart
_MOST_EXPONENT = 1000  # of two, that a step may have
_TINY = 64  # bytes below which an array gets FIXED more: what every stream takes
FIXED = 16


@dataclass(frozen=True)
class Search:
    """How arrays become paths: states of the trellis, model of the probabilities, and a step or a number of bytes."""

    states: int
    model: Model
    step: float | None
    budget: float

    def path(self, planes: NDArray[Any], start: float | None = None) -> Path:
        """The path of an array (P, R, C), its step such that it takes the bytes, if none is given.

        ``start`` is a step near the one to find. Two arrays that differ by a power of two give the same path.
        """
        if self.step is not None or not planes.any():
            return self.encode(planes, self.step or 1.0)
        unit = min(binary_exponent(planes), _MOST_EXPONENT)
        scale = math.ldexp(norm(planes), -unit) / math.sqrt(planes.size)
        first = self._first_step(scale, planes.size) if start is None else math.ldexp(start, -unit)
        sample = strips(planes, SAMPLE)
        magnitudes = np.abs(sample[sample != 0])  # "lower": the mean of two may lie beyond the largest float
        median = float(np.quantile(magnitudes, 0.5, method="lower")) if magnitudes.size else math.ldexp(first, unit)
        finest = math.ldexp(_FINEST * median, -unit)

        def meeting(coder: Search, x: NDArray[Any], budget: float, start: float, close: float) -> Path:
            def encode(step: float) -> Path:
                nonlocal coder
                path = coder.encode(x, math.ldexp(step, unit))
                coder = replace(coder, model=path.model)  # the better one at one step is so at those near it
                return path

            return meet(encode, x.size, budget, start, finest, close)

        if sample.size == planes.size:
            return meeting(self, planes, self.budget, first, CLOSE)
        # The sample is given the bits of a share of the array, less or more by what its scale is off.
        off = math.log2(math.ldexp(norm(sample), -unit) / math.sqrt(sample.size) / scale) if sample.any() else 0.0
        share = (8 * self.budget / planes.size + off) * sample.size / 8
        step = math.ldexp(first, unit)
        fixed = replace(self, model=preferred(planes, step, self.states)) if self.model == "auto" else self
        near = math.ldexp(meeting(fixed, sample, share, first, 0.002).step, -unit)
        return meeting(fixed, planes, self.budget, near, 0.005)

    def encode(self, planes: NDArray[Any], step: float) -> Path:
        """The path of an array (P, R, C) at a step."""
        flat = planes.reshape(planes.shape[0], -1)
        return Path.encode(flat, step=step, states=self.states, layout=planes.shape, model=self.model)

    def _first_step(self, scale: float, size: int) -> float:
        """The step at which as many Gaussian numbers of this scale would take the bytes."""
        return scale * math.exp2((1.0 if self.states > 1 else 2.0) - 8 * self.budget / size)


@dataclass(frozen=True)
class Coded(Constraint):
    """Integers along a trellis times one step, entropy coded, in a number of stored bits: the least error for a size.

    The constraint of :class:`factorq.Trellis`, without its transform: a factor's rows or columns are no neighbours.

    Parameters
    ----------
    bits : float
        Stored bits per entry, 0.3 to 16, step, tables and directory counted; arrays that would take less than 64 bytes
        may take 16 bytes more.
    states : int
        States of the trellis: 1 (the entropy-coded uniform quantizer), 4, 8, 16, .. 256.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    >>> encoded = Coded(2.5).encode(x)
    >>> encoded.nbytes <= 5120, round(float(np.mean((x - encoded.decode()) ** 2)), 3)
    (True, 0.035)
    """

    id: ClassVar[str] = "coded"
    bits: float
    states: int = 8

    def __post_init__(self) -> None:
        settle(self)
        check_rate(self.bits)
        if type(self.states) is not int or self.states not in STATES:  # True is 1
            raise refuse("states", found=repr(self.states), allowed=", ".join(map(str, STATES)))

    def encode(self, x: NDArray[Any]) -> Encoded:
        if not x.size:
            return Dense.encode(x)
        path = self.search(x.size).path(np.ascontiguousarray(x).reshape(1, x.shape[0] if x.ndim > 1 else 1, -1))
        return Dense.encode(x) if path.nbytes >= x.nbytes else path.reshaped(x.shape)

    def search(self, size: int) -> Search:
        """The search for a path of ``size`` entries in these bits."""
        return Search(self.states, "auto", None, budget(self.bits, size))

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return int(budget(self.bits, math.prod(shape)))


def budget(bits: float, size: int) -> float:
    """Bytes that ``size`` numbers may take at ``bits`` each; few numbers get 16 more, which every stream takes."""
    found = bits * size / 8
    return found if found >= _TINY else found + FIXED


def water_filled(variances: list[NDArray[Any]], counts: list[int], bits: float) -> list[float]:
    """Shares of ``bits`` for sets of Gaussian numbers, all at one distortion: reverse water-filling.

    Parameters
    ----------
    variances : list of NDArray, (k_i,)
        Variances of the components of each set.
    counts : list of int
        How many numbers each component of a set has.
    bits : float
        For all of them.
    """
    exponents = [np.log2(np.maximum(v, np.finfo(np.float64).tiny)) for v in variances]

    def rates(level: float) -> list[float]:
        return [n * float(np.maximum(e - level, 0.0).sum()) / 2 for e, n in zip(exponents, counts, strict=True)]

    high = max(float(e.max()) for e in exponents)
    low = min(float(e.min()) for e in exponents) - 2 * bits / sum(map(len, exponents))
    for _ in range(60):
        level = (low + high) / 2
        low, high = (level, high) if sum(rates(level)) > bits else (low, level)
    found = rates(low)
    return [rate / sum(found) for rate in found]

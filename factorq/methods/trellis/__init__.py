"""Trellis-coded quantization: the smallest error for a number of stored bits."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...arrays import FLOATS
from ...codecs import Dense, Path
from ...constraints import check_rate
from ...constraints.checks import FEWEST_BITS, MOST_BITS
from ...constraints.coded import Model, budget
from ...errors import refuse, refuse_type
from ...forms import Leaf
from ...forms.mapped import mapped
from ...kernels import bitshift
from ...kernels.trellis import STATES
from ...measure import binary_exponent, scaled
from ...named import settle
from ...solvers.damping import explain_damping
from ...solvers.feedback import Metric
from ...solvers.karhunen_loeve import Transform, choose
from ...solvers.rotation import turn
from ..base import Method, Problem, Solution
from . import fixed_rate
from .entropy_coded import Coder, lesser, sampled_size

_TABLE = 40  # bytes of the tables of a few weights
_UNIFORM = 1.77  # times the step of a trellis: that of a uniform quantizer of the same error
# The bits that a transform saves make the error smaller, and more of it pays then: chosen for the error of Gaussian
# weights, it leaves resnet56's layer3.8.conv2 at .198 of error at one bit per weight; chosen again, .172.
_CHOICES, _WORTH = 2, 0.1
_EXTREME, _EXTREME_SINGLE = 900, 100  # binary exponent of the weights beyond which they are scaled for the search


@dataclass(frozen=True, repr=False)
class Trellis(Method):
    """``W ~ transform^T (step * k)``: integers along a trellis, entropy coded, of least error for the stored bits.

    Entropy-coded trellis-coded quantization (Marcellin and Fischer 1990, Fischer and Wang 1992): within 0.08 bit of the
    Shannon bound of a Gaussian source with 8 states, 0.054 with 64, 0.042 with 256; below it on real weights, whose
    scales and correlations the entropy coder and an orthonormal transform use.

    Parameters
    ----------
    bits : float or None
        Stored bits per weight, 0.3 to 16, every table counted; met within 0.5 % from below, less closely where
        few bytes are stored. Arrays that would take less than 64 bytes may take 16 bytes more (56 with the static
        model). None where ``step`` is given. With ``fixed_rate`` an integer from 1 to 8, to which a float16 scale per
        1,024 weights comes; with a gram perhaps one per column.
    states : int
        States of the trellis: 1 (the entropy-coded uniform quantizer, for speed), 4, 8, 16, .. 256. With ``fixed_rate``
        a power of two from ``max(4, 2**bits)`` to 65,536; 4,096 is a good one.
    step : float, optional
        The distance of the reproduction points instead of a size: tensors coded with one step have one slope of error
        against size, which is the best allocation of bits over them.
    transform : bool
        Whether to look for an orthonormal transform that saves more than its basis takes; ``fixed_rate`` has none.
    model : "auto", "static" or "mixing"
        Probabilities from stored tables (decoding 140 M weights/s) or adaptive ones from the neighbourhood of each
        weight (2 M/s); "auto" takes the smaller one, on arrays of over 65,536 weights mixing only if it is smaller by
        2 %. Codes of fixed rate have none: "auto".
    fixed_rate : bool
        A tail-biting bit-shift code instead of an entropy-coded one: every weight takes ``bits`` bits and is read by a
        look-up in the last ``log2(states)`` bits, without a stream to decode. With 4,096 states it costs about as
        much as the entropy-coded trellis of 8 on Gaussian weights at 2 bits, 0.05 bit more at 4, and on real ones what
        an entropy coder would gain from them.
    rotate : bool
        Random signs and a Hadamard transform of rows and columns before, undone on use: makes weights Gaussian-like,
        as codes of fixed rate need it. An entropy coder would lose by it.

    Examples
    --------
    >>> import factorq as fq
    >>> W = np.random.default_rng(0).standard_normal((256, 256)).astype("float32")
    >>> F = fq.decompose(W, method=Trellis(2.5))
    >>> round(F.bits_per_weight, 2), round(F.relative_error, 3)
    (2.5, 0.188)
    """

    id: ClassVar[str] = "trellis"
    drafts: ClassVar[Mapping[str, Any]] = {"bits": 3.0}
    bits: float | None = None
    states: int = 8
    step: float | None = None
    transform: bool = True
    model: Model = "auto"
    fixed_rate: bool = False
    rotate: bool = False

    def __post_init__(self) -> None:
        settle(self)
        if self.bits is not None and self.step is not None:
            raise refuse("Trellis", found=f"bits={self.bits} and step={self.step}", allowed="one of the two")
        for name in ("transform", "fixed_rate", "rotate"):
            if not isinstance(getattr(self, name), bool):
                raise refuse_type(name, found=repr(getattr(self, name)), allowed="True or False")
        if not isinstance(self.model, str) or self.model not in ("auto", "static", "mixing"):
            raise refuse("model", found=repr(self.model), allowed="'auto', 'static' or 'mixing'")
        if self.fixed_rate:
            self._check_fixed_rate()
            return
        if self.bits is not None:
            check_rate(self.bits)
        if self.step is not None and not (_is_number(self.step) and 0 < self.step <= sys.float_info.max):
            raise refuse("step", found=repr(self.step), allowed="a number above 0")
        if type(self.states) is not int or self.states not in STATES:  # True is 1
            allowed = f"{', '.join(map(str, STATES))}; more with fixed_rate=True"
            raise refuse("states", found=repr(self.states), allowed=allowed)

    def _check_fixed_rate(self) -> None:
        if self.step is not None:
            raise refuse("step", found=f"{self.step} with fixed_rate", allowed="bits, an integer from 1 to 8")
        if self.model != "auto":
            raise refuse("model", found=f"{self.model!r} with fixed_rate, which codes no entropy", allowed="'auto'")
        if not _is_number(self.bits) or self.bits not in range(1, bitshift.MOST_BITS + 1):
            raise refuse("bits", found=self.bits, allowed="an integer from 1 to 8 where the rate is fixed")
        bitshift.check_trellis(int(self.bits or 0), self.states)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        dense = math.prod(shape) * FLOATS[dtype].itemsize
        if self.bits is None:
            return dense
        if self.fixed_rate:
            return fixed_rate.nbytes((shape[0], math.prod(shape[1:])), int(self.bits), self.states)
        return min(dense, math.ceil(self._budget(math.prod(shape))))

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        if self.fixed_rate:
            matrix, least = (shape[0], math.prod(shape[1:])), max(1, self.states.bit_length() - 1)
            for bits in range(min(8, least, int(bits_per_weight)), 0, -1):
                if 8 * fixed_rate.plain_nbytes(matrix, bits, self.states) <= bits_per_weight * math.prod(shape):
                    yield replace(self, bits=bits)
        elif bits_per_weight >= FEWEST_BITS:
            yield replace(self, bits=min(bits_per_weight, MOST_BITS), step=None)

    def _budget(self, size: int) -> float:
        """Bytes for ``size`` weights; a few of them get more where they need a table of their own."""
        found = budget(self.bits or 0.0, size)
        return found + _TABLE if self.model == "static" and found < 2 * _TABLE else found

    def solve(self, problem: Problem) -> Solution:
        if self.bits is None and self.step is None:
            allowed = "one of the two, or bits_per_weight beside the method"
            raise refuse("Trellis", found="neither bits nor step", allowed=allowed)
        if self.rotate:
            W, gram, unturned = turn(problem.W, problem.gram, problem.rng, both=True)
            inner = replace(self, rotate=False).solve(replace(problem, W=W, gram=gram))
            return Solution(unturned(inner.form), f"{inner.status}; rotated")
        if self.fixed_rate:
            form, how = fixed_rate.encode(problem.W, int(self.bits or 0), self.states, problem.gram)
            return Solution(form, f"{self.states} states, tail-biting{how}")
        unit = binary_exponent(problem.W)
        extreme = _EXTREME if problem.W.dtype == np.float64 else _EXTREME_SINGLE
        if abs(unit) > extreme:  # near the ends of the range sums and steps would leave it
            solution = replace(self, step=self.step and _shifted(self.step, -unit)).solve(
                replace(problem, W=scaled(problem.W, -unit))
            )
            return replace(solution, form=mapped(solution.form, lambda factor: _rescaled(factor, unit)))
        W, gram = problem.W, problem.gram
        coder = Coder(self.states, self.model, self.step, self._budget(W.size))
        transform = self.transform_of(W)
        found = [coder.transformed(W, transform)]
        how = f"{self.states} states, {transform.explain()}"
        if gram is not None and W.any():
            metric = Metric.of(gram, reorder=False)
            found.append(coder.fed_back(W, metric))
            best = lesser([form for form, _ in found], W, gram)
            if best:
                how = f"{self.states} states, down the columns with error feedback; {explain_damping(metric.damping)}"
            found = [found[best]]
        form, path = found[0]
        if sum(leaf.factor.nbytes for leaf in form.leaves().values()) >= W.size * FLOATS[problem.dtype].itemsize:
            return Solution(Leaf(Dense.encode(W, problem.dtype)), "stored as it is: no code of it was smaller")
        return Solution(form, f"{path.model} model, {how}")

    def remarks(self, W: NDArray[Any], dtype: str) -> str:
        return "" if self.fixed_rate or self.rotate else self.transform_of(W).explain()

    def estimate(self, W: NDArray[Any]) -> float:
        """Bytes that W will take at ``step``: exact up to 524,288 weights, beyond that by a sample of half as many."""
        W = W.astype("float64" if W.dtype == np.float64 else "float32", copy=False)
        return sampled_size(Coder(self.states, self.model, self.step, 0.0), W, self.transform_of(W))

    def transform_of(self, W: NDArray[Any]) -> Transform:
        """The transform for W (the smaller the error aimed at, the more of them pay)."""
        if not self.transform or not W.any():
            return Transform(W.shape, (), (1, W.shape[0], math.prod(W.shape[1:])))
        if self.step is not None:
            return choose(W, step=self.step if self.states == 1 else _UNIFORM * self.step)
        bits = self.bits or 0.0
        found = choose(W, distortion=4.0**-bits)
        for _ in range(_CHOICES):
            saved = found.saving / W.size
            if saved < _WORTH:
                break
            found = choose(W, distortion=4.0 ** -(bits + saved))
        return found


def _rescaled(factor: Any, unit: int) -> Any:
    """A path or an array as it is, times ``2**unit``; a basis stays."""
    if isinstance(factor, Path):
        return factor.rescaled(unit)
    return Dense.encode(scaled(factor.decode(), unit), factor.stored) if isinstance(factor, Dense) else factor


def _shifted(step: float, exponent: int) -> float:
    """``step * 2**exponent``, kept from the ends of the range, where it is beyond all weights or below them anyway."""
    mantissa, own = math.frexp(step)
    return math.ldexp(mantissa, min(max(own + exponent, -_EXTREME), _EXTREME))


def _is_number(x: object) -> bool:
    return isinstance(x, int | float | np.floating | np.integer) and not isinstance(x, bool)

"""How an array is read as a matrix with few rows and many columns, by name; and which reading takes the fewest bytes.

The codebook costs ``rows * rank * bits`` bits, so that few rows are cheap, and what matters is how well they predict
each other. The positions of a convolution's kernel do so best: coding them together is worth about a bit per weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...constraints.checks import FEWEST_BITS
from ...constraints.coded import FIXED
from ...errors import refuse
from ...forms import Fold
from ...solvers.karhunen_loeve import step_for
from ...solvers.karhunen_loeve.length import quantized_cost

_GROUPS = (1, 2, 4, 8, 16, 32)  # input channels whose kernels are read together
_BLOCKS = (2, 4, 8, 16, 32, 64)  # neighbouring inputs or outputs
_MOST_CODE = 12  # bits of a code: a rank that would leave more is too low
_MOST_ROWS = 1024  # an eigenbasis beyond takes seconds
_SAMPLE = 1 << 17  # numbers on which a reading is judged
_STEPS, _CLOSE = 4, 4  # trials of a step, and folds that are followed beyond the first
_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)  # of the rows, as ranks
_ROUNDING = 0.35  # a number is rounded up from 0.65 of a step on: what a coder that weighs rate does at low rates
_SPARED = 0.02  # bits per weight that a larger rank may seem to cost: it costs less with a trellis


def named(shape: tuple[int, ...], name: str) -> Fold:
    """The fold called ``name`` of an array of ``shape``.

    ``"rows"``: the first axis by all others; ``"columns"``: all others by the first; ``"flat"``: one row;
    ``"positions"``: kernel positions by channel pairs, ``"positions*g"`` with those of g neighbouring inputs together;
    ``"inputs/g"``, ``"outputs/g"``: blocks of g neighbours along the second or the first axis.

    Raises
    ------
    ArgumentError
        If there is no such fold, or the sizes do not divide.
    """
    kind, _, digits = name.replace("/", "*").partition("*")
    numbered = digits.isascii() and digits.isdecimal()
    group = int(digits) if numbered else 1
    grouped = kind in ("positions", "inputs", "outputs") and numbered and group > 0
    if name not in ("rows", "columns", "flat", "positions") and not grouped:
        allowed = "'auto', 'rows', 'columns', 'flat', 'positions', 'positions*2', 'inputs/8', 'outputs/8' and the like"
        raise refuse("fold", found=repr(name), allowed=allowed)
    if kind in ("rows", "columns"):
        return Fold.matrix(shape) if kind == "rows" else Fold.transposed(shape)
    if kind == "flat":
        return Fold(shape, (1, *shape), (0,))
    axis = 0 if kind == "outputs" else 1
    if kind == "positions" and len(shape) < 3:
        raise refuse("fold", found=f"{name!r} for shape {shape}", allowed="'rows', 'inputs/8' and the like")
    if shape[axis] % group:
        divisors = [g for g in range(1, min(shape[axis], 64) + 1) if shape[axis] % g == 0]
        raise refuse("fold", found=f"{name!r} for shape {shape}", allowed=f"a divisor of {shape[axis]}: {divisors}")
    split = (*shape[:axis], shape[axis] // group, group, *shape[axis + 1 :])
    kernel = tuple(range(3, len(split))) if kind == "positions" else ()
    return Fold(shape, split, (axis + 1, *kernel))


def default(shape: tuple[int, ...], rank: int) -> str:
    """The fold for a given rank: the fewest rows that hold it, kernel positions first; the shorter side of a matrix."""
    rows, columns = shape[0], math.prod(shape[1:])
    if len(shape) > 2 and math.prod(shape[2:]) > 1:
        for group in _GROUPS:
            m = group * math.prod(shape[2:])
            if shape[1] % group == 0 and rank <= m <= math.prod(shape) // m:
                return f"positions*{group}" if group > 1 else "positions"
    return "rows" if rows <= columns else "columns"


def candidates(shape: tuple[int, ...]) -> Iterator[str]:
    """Names of the folds that are worth a look, for arrays whose rank is free."""
    kernel = math.prod(shape[2:])
    size = math.prod(shape)
    yield "flat"
    if kernel > 1:
        for group in _GROUPS:
            if shape[1] % group == 0 and (group * kernel) ** 2 <= size and group * kernel <= _MOST_ROWS:
                yield f"positions*{group}" if group > 1 else "positions"
    for kind, axis in (("inputs", 1), ("outputs", 0)):
        for block in _BLOCKS:
            if shape[axis] % block == 0 and shape[axis] > block and block * block <= size:
                yield f"{kind}/{block}"
    if min(shape[0], size // shape[0]) <= _MOST_ROWS:
        yield "rows" if shape[0] <= size // shape[0] else "columns"


@dataclass(frozen=True)
class Estimate:
    """A fold with a rank; bits per weight it is expected to take at one quantizer's step.

    ``rate`` is what is stored, basis included; ``bits`` counts what the error is worth, too.
    """

    fold: str
    rank: int
    bits: float
    rate: float


def estimates(W: NDArray[Any], bits_per_weight: float, only: str | None = None) -> list[Estimate]:
    """Every fold (or ``only`` one) with its best rank, the cheapest first.

    The rows are decorrelated (their Karhunen-Loeve transform stands for a dictionary), quantized with one step and
    counted as an adaptive coder would; the basis and what the error is worth at the slope of rate
    and distortion come to that. The step is the one at which the best fold takes ``bits_per_weight``.
    """
    cores = [_decorrelated(W, name) for name in (candidates(W.shape) if only is None else (only,))]
    step = step_for(W, 4.0**-bits_per_weight) or 1.0
    found: list[tuple[Estimate, _Core]] = []
    for _ in range(_STEPS):
        found = sorted(((core.estimate(step, bits_per_weight), core) for core in cores), key=lambda f: f[0].bits)
        cores = [core for _, core in found[:_CLOSE]]
        step *= 2.0 ** (found[0][0].rate - bits_per_weight)
    return [estimate for estimate, _ in found]


@dataclass(frozen=True, eq=False)
class _Core:
    """A sample of the decorrelated rows (m, n'), the energy of all rows, and how many samples make the whole."""

    fold: str
    rows: NDArray[np.float64]
    energy: NDArray[np.float64]
    places: tuple[int, int]
    whole: float

    def estimate(self, step: float, target: float) -> Estimate:
        """The best rank at a quantizer's step."""
        m, n = self.rows.shape
        size = m * n * self.whole
        slope = 6.0 / (math.log(2.0) * step * step)
        quantized = np.trunc(self.rows / step + np.copysign(_ROUNDING, self.rows)) * step
        lost = np.cumsum(((self.rows - quantized) ** 2).sum(axis=1)) * self.whole
        found = []
        for rank in sorted({max(1, math.ceil(share * m)) for share in _SHARES}):
            width = basis_bits(rank / (n * self.whole), target)
            basis = rank * (m * width + 16.0) if m > 1 else 0.0
            left = (target * size - basis - 8 * FIXED) / (rank * n * self.whole)
            if left < 1.05 * FEWEST_BITS or (left > _MOST_CODE and rank < min(m, size // m)):
                continue
            part = np.ascontiguousarray(quantized[:rank])
            rate = self.whole * quantized_cost(part, (rank, *self.places), step) + basis
            distortion = float(lost[rank - 1]) + float(self.energy[rank:].sum())
            found.append(Estimate(self.fold, rank, (rate + slope * distortion) / size, rate / size))
        if not found:
            return Estimate(self.fold, 1, math.inf, target)
        least = min(e.bits for e in found)
        return replace(next(e for e in reversed(found) if e.bits <= least + _SPARED), bits=least)


def _decorrelated(W: NDArray[Any], name: str) -> _Core:
    fold = named(W.shape, name)
    matrix = fold.apply(W)
    m, n = matrix.shape
    energy, U = np.array([float(np.vdot(matrix, matrix))]), np.ones((1, 1))
    if m > 1:
        values, vectors = np.linalg.eigh(np.asarray(matrix @ matrix.T, np.float64))
        energy, U = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    if matrix.size <= _SAMPLE:
        return _Core(name, U.T @ matrix.astype(np.float64), energy, layout(fold, m)[1:], 1.0)
    # Drawn, not every k-th: those of a fold that ends in kernel axes would be of one position.
    drawn = np.sort(np.random.default_rng(0).integers(0, n, max(1, _SAMPLE // m)))
    columns = matrix[:, drawn].astype(np.float64)
    return _Core(name, U.T @ columns, energy, (1, columns.shape[1]), n / columns.shape[1])


def basis_bits(share: float, bits_per_weight: float) -> int:
    """Bits per entry of a codebook that has ``share`` as many entries as the array: few where they are many."""
    bits = 3 if share > 0.3 else 4 if share > 0.1 else 6 if share > 0.01 else 8
    return min(bits + 2 * max(0, math.ceil(bits_per_weight) - 4), 16)


def layout(fold: Fold, rank: int) -> tuple[int, int, int]:
    """Planes, rows and columns of the codes (rank, n): an atom's codes lie as what the fold left of the array."""
    others = [n for axis, n in enumerate(fold.split) if axis not in fold.rows]
    others = [n for n in others if n > 1] or [1]
    rows = others[0] if len(others) > 1 else 1
    return rank, rows, fold.matrix_shape[1] // rows

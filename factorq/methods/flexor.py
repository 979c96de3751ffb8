"""Fractions of a bit per weight: signs that are the outputs of a small XOR network, times a scale per row."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..codecs import Grid, Mask, Xor
from ..codecs.base import normal_exponent
from ..codecs.xor.shadow import CODES, MOST_OUTPUTS, Plane, basis, suitable
from ..errors import refuse, refuse_type
from ..forms import Leaf, Sum
from ..kernels.bits import packed_size
from ..kernels.threads import one_thread
from ..measure import binary_exponent, scaled
from ..named import settle
from ..solvers.loop import Progress
from .base import Method, Problem, Solution
from .base.checks import check_steps

MOST_INPUTS = 12
"""Inputs of a slice, of which a start tries all values."""
_MOST_PLANES = 8
_BLOCK = 1 << 22  # scores at a time
_FEWEST = 4  # inputs that a size may choose
_TRIED = 3  # versions for a size


@dataclass(frozen=True, repr=False)
class FleXOR(Method):
    """``W ~ sum_p scale[p] * sign[p]``, the signs of ``n_out`` weights made of ``n_in`` stored bits by an XOR network.

    ``planes * n_in / n_out`` bits per weight and 16 for each scale, of which there is one per row and plane (Lee et al.
    2020, "FleXOR: Trainable Fractional Quantization", arXiv 2009.04126). Meant for training
    (:class:`factorq.Trainable`), where real numbers stand for the stored bits. What is solved here is a start: of all
    ``2**n_in`` inputs of a slice the one that is nearest to W.

    LeNet-300 on MNIST, the two large layers replaced, accuracy after 400 steps of Adam on 10,000 images (dense 97.8 %;
    signs with a scale per row, 1.02 bits per weight, 96.1): 8 of 10, .82 bits, 96.0; 12 of 20, .62 bits, 95.4; 8 of 16,
    .52 bits, 94.9; two planes of 8 of 10, 1.64 bits, 97.2.

    Parameters
    ----------
    n_in, n_out : int
        Stored bits and weights of a slice, 1 to 12 and ``n_in`` to 64. Of one rate, long slices are nearer to W.
    planes : int
        Such arrays of signs that add up, 1 to 8.
    seed : int or None
        Of the network, 0 to 2**64 - 1; None for the one of 2048 that suits training best, the same for all arrays.
    max_iter : int
        Most times that each of several planes is fitted to what the others leave.
    tol : float
        Least relative improvement of the error that is worth another time.

    Examples
    --------
    >>> import factorq as fq
    >>> W = np.random.default_rng(0).standard_normal((64, 576)).astype("float32")
    >>> F = fq.decompose(W, method=FleXOR(n_in=8, n_out=10))
    >>> round(F.bits_per_weight, 3), F.relative_error < 0.75
    (0.833, True)
    """

    id: ClassVar[str] = "flexor"
    takes_gram: ClassVar[bool] = False
    n_in: int = 8
    n_out: int = 10
    planes: int = 1
    seed: int | None = None
    max_iter: int = 8
    tol: float = 1e-3

    def __post_init__(self) -> None:
        settle(self)
        _check("n_in", self.n_in, 1, MOST_INPUTS)
        _check("n_out", self.n_out, self.n_in, MOST_OUTPUTS)
        _check("planes", self.planes, 1, _MOST_PLANES)
        check_steps(self.max_iter, self.tol)
        if self.seed is None:
            return
        _check("seed", self.seed, 0, (1 << 64) - 1)
        if basis(self.n_in, self.n_out, self.seed) is None:
            allowed = f"one whose network of {self.n_out} outputs makes use of all {self.n_in} inputs"
            raise refuse("seed", found=self.seed, allowed=allowed, remedy="leave it out, or take another one")

    def plane(self, shape: tuple[int, ...]) -> Plane:
        """How each plane of an array of ``shape`` is stored."""
        seed = suitable(self.n_in, self.n_out) if self.seed is None else self.seed
        return Plane(math.prod(shape), self.n_in, self.n_out, seed)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return self._nbytes(self.plane(shape), shape)

    def _nbytes(self, plane: Plane, shape: tuple[int, ...]) -> int:
        return self.planes * (plane.nbytes + 2 * shape[0])

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        if "bits" not in free:
            return (self,)
        size = math.prod(shape)
        planes = min(max(math.ceil(bits_per_weight - 16 * shape[0] / size), 1), _MOST_PLANES)
        tried = [
            replace(self, n_in=n_in, n_out=n_out, planes=planes, seed=None)
            for n_in in range(_FEWEST, MOST_INPUTS + 1)
            for n_out in range(n_in, MOST_OUTPUTS + 1)
        ]
        # a seed takes 1 or 2 bytes: which one is only looked for where it matters
        sizes = [(method._nbytes(Plane(size, method.n_in, method.n_out, 128), shape), method) for method in tried]
        under = sorted((pair for pair in sizes if 8 * pair[0] <= bits_per_weight * size), key=lambda pair: -pair[0])
        return [method for _, method in under[:_TRIED]]

    def outlook(self, shape: tuple[int, ...], dtype: str) -> str:
        plane = self.plane(shape)
        found = basis(plane.n_in, plane.n_out, plane.seed)
        of = f", of {found.products.mean():.3g} in the mean" if found is not None and found.products.size else ""
        return f"{self.n_out - self.n_in} of {self.n_out} signs are products of others{of}; meant for training"

    def remarks(self, W: NDArray[Any], dtype: str) -> str:
        return self.outlook(W.shape, dtype)

    def solve(self, problem: Problem) -> Solution:
        W, plane = problem.matrix, self.plane(problem.W.shape)
        exponent = binary_exponent(W)
        start = _Start(np.ascontiguousarray(scaled(W, -exponent)), plane, self.planes)
        history: list[float] = []
        status = "W is zero"
        with one_thread():
            for step in range(self.max_iter if W.any() else 0):
                history.append(start.round())
                if problem.callback is not None:
                    problem.callback(Progress(step + 1, self.max_iter, history[-1]))
                status = f"planes fitted in turn, {step + 1} times"
                if self.planes == 1 or (step and history[-2] - history[-1] <= self.tol * history[-1]):
                    break
        shape, dtype = problem.W.shape, str(problem.W.dtype)
        leaves = tuple(
            Leaf(_stored(plane, inputs, scales, exponent, shape, dtype))
            for inputs, scales in zip(start.inputs, start.scales, strict=True)
        )
        status = "the nearest input of every slice" if self.planes == 1 and history else status
        return Solution(
            leaves[0] if len(leaves) == 1 else Sum(leaves), f"a start for training: {status}", tuple(history)
        )


class _Start:
    """Inputs and scales of the planes of W (m, n), found in turn; no round makes the error larger.

    Rows weigh by their mean magnitudes: by the scales that were found, those that share slices with larger ones would
    lose more from round to round.
    """

    def __init__(self, W: NDArray[Any], plane: Plane, planes: int) -> None:
        self.W, self.plane, self.place = W, plane, plane.place()
        self.inputs = [np.zeros((plane.n_in, plane.slices), np.uint8) for _ in range(planes)]
        self.scales = [np.zeros(len(W)) for _ in range(planes)]
        self._values = [np.zeros(W.shape, W.dtype) for _ in range(planes)]
        self._words, self._codewords = _codewords(plane.n_in, plane.n_out, plane.seed)

    def round(self) -> float:
        """Every plane anew for what the others leave, where that is nearer; the relative error then."""
        left = self.W - sum(self._values[1:], self._values[0])
        for p, before in enumerate(self._values):
            own = left + before
            outputs = np.zeros(self.plane.n_out * self.plane.slices, np.float32)
            outputs[self.place] = (np.abs(own).mean(axis=1, keepdims=True) * own).reshape(-1)
            best = self._nearest(outputs.reshape(self.plane.n_out, -1))
            signs = self._codewords[best].T.reshape(-1)[self.place].reshape(own.shape)
            scales = (own * signs).mean(axis=1, dtype=np.float64)
            values = (scales[:, None] * signs).astype(own.dtype)
            if np.linalg.norm(own - values) < np.linalg.norm(left):
                self.inputs[p], self.scales[p] = np.ascontiguousarray(self._words[best].T), scales
                self._values[p], left = values, own - values
        return float(np.linalg.norm(left) / np.linalg.norm(self.W))

    def _nearest(self, outputs: NDArray[np.float32]) -> NDArray[np.int64]:
        """Of each slice (n_out, slices) the codeword that has the largest product with it."""
        step = max(_BLOCK // len(self._codewords), 1)
        blocks = (outputs[:, first : first + step] for first in range(0, outputs.shape[1], step))
        return np.concatenate([(block.T @ self._codewords.T).argmax(axis=1) for block in blocks])


@lru_cache(maxsize=8)
def _codewords(n_in: int, n_out: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """All inputs (2**n_in, n_in), and their outputs (2**n_in, n_out) as signs, bit 1 negative."""
    words = np.arange(1 << n_in, dtype="<u2").view(np.uint8).reshape(-1, 2)
    inputs = np.unpackbits(words, axis=1, count=n_in, bitorder="little")
    outputs = inputs @ Plane(0, n_in, n_out, seed).matrix().T % 2
    return inputs, (1 - 2 * outputs.astype(np.float32))


def _stored(
    plane: Plane, inputs: NDArray[np.uint8], scales: NDArray[Any], exponent: int, shape: tuple[int, ...], dtype: str
) -> Xor:
    """A mask that keeps everything, in no bytes, and a grid of one bit, whose codes are a stream of the XOR code."""
    gaps = 2 * scales  # between the two levels of a grid
    shift = normal_exponent(gaps)
    halves = scaled(gaps, -shift).astype(np.float16).reshape(1, -1)
    grid = Grid(
        shape=(plane.size,), dtype=dtype, bits=1, group=plane.size // shape[0], axis=None, exponent=exponent + shift,
        zero=0.5, codes=np.zeros(packed_size(plane.size, 1), np.uint8), scales=halves,
    )  # fmt: skip
    mask = Mask.encode(np.ones(shape, np.bool_), grid)
    parts = {**mask.buffers(), CODES: plane.stream(inputs)}
    return Xor(shape=shape, dtype=dtype, inner=mask.config(), coded=((CODES, "uint8", 1),), parts=parts)


def _check(name: str, value: object, low: int, high: int) -> None:
    allowed = f"an integer from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise refuse_type(name, found=repr(value), allowed=allowed)
    if not low <= value <= high:
        raise refuse(name, found=value, allowed=allowed)

"""Training behind an XOR network: real numbers whose signs are the bits that go in (FleXOR).

Lee, Kwon, Kim, Jeon, Park and Yun, "FleXOR: Trainable Fractional Quantization", NeurIPS 2020, arXiv 2009.04126. A slice
of ``n_out`` weights comes from ``n_in`` numbers: bit 1 is a negative one, so that the XOR of bits is the product of
signs, and the derivative of a sign is taken to be that of ``tanh(S x)``.

Outputs of the networks of :mod:`factorq.kernels.slices` are products of about ``n_in / 2`` signs, and where many are
multiplied a gradient says little. So training moves other numbers, the signs of ``n_in`` outputs, of which the rest are
products; :func:`basis` looks for outputs that make these short. It can be had that some are copies, products of one:
such networks are worse by far as codes. LeNet-300 on MNIST, its two large layers at 0.8 bit (8 of 10), 400 steps from
trained weights: the two products being of 1 and 1 factor, cross-entropy .160, of 2 and 2 .155, of 3 and 3 .149, of 4
and 5 .145; at 0.6 bit (6 of 10) of 1 each .180, of 2 each .162, of 3 each .161, of 2, 2, 4 and 5 .157. From random
weights, at 0.8 bit: .237, .242, .233, .235. So :func:`suitable` looks for three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...kernels import slices
from ...kernels.slices.network import WIDTH, network, tile_count, tile_width
from ...measure import scaled
from ..base import Encoded, Grouped, Masked, Ops, Shadow
from ..base.shadow import Arrays, Tensor, Tensors, halves, relative_scale
from .codes import Slices
from .contents import DTYPES, INVERTED
from .parts import Reader, Writer

if TYPE_CHECKING:
    from .store import Xor

Bits = NDArray[np.uint8]

CODES = "inner.codes"
"""The buffer that is coded."""
MOST_OUTPUTS = 64
"""Outputs of a slice up to which a basis is looked for."""
STEEPNESS = 10.0
"""S, as published."""
_START = 0.05  # size of the numbers at first: 50 steps of Adam at 1e-3 turn one, and .79 of the derivative is left
_CANDIDATES = 2048  # seeds among which one is looked for
_FACTORS = 3  # of products, wanted
_EXCHANGES = 64  # at most, of an input for another output
_NO = 1 << 20  # worse than any exchange


@dataclass(frozen=True)
class Plane:
    """One bit per weight of ``size`` weights, as outputs of the network of ``seed``: how it is stored.

    ``inputs`` are (n_in, slices) bits 0 or 1, of which ``place`` gives those of each weight.
    """

    size: int
    n_in: int
    n_out: int
    seed: int

    @property
    def slices(self) -> int:
        """Slices of all tiles, those that only pad the last tile included."""
        tiles = tile_count(self.size, self.n_out)
        return (tiles - 1) * WIDTH + tile_width(self.size, self.n_out, tiles - 1) if tiles else 0

    def place(self) -> NDArray[np.int64]:
        """Where each weight stands in an array (n_out, slices) of outputs, as an index into its C order: (size,)."""
        tile, rest = np.divmod(np.arange(self.size), WIDTH * self.n_out)
        width = np.full(self.size, WIDTH)
        last = tile_count(self.size, self.n_out) - 1
        width[last * WIDTH * self.n_out :] = tile_width(self.size, self.n_out, last)
        return np.asarray(rest // width * self.slices + tile * WIDTH + rest % width)

    def matrix(self) -> Bits:
        """M, (n_out, n_in): the outputs of a slice are ``M @ inputs`` modulo 2."""
        return _matrix(self.n_in, self.n_out, self.seed)

    @property
    def nbytes(self) -> int:
        """Bytes of the stream."""
        return int(self._head().stream().nbytes) + slices.stream_size(self.size, self.n_in, self.n_out)

    def stream(self, inputs: Bits) -> Bits:
        """The stream of :mod:`.contents` for ``inputs``: without patches, since every output is what is wanted."""
        whole = self.slices // WIDTH * WIDTH
        tiles = inputs[:, :whole].reshape(self.n_in, -1, WIDTH).transpose(1, 0, 2), inputs[None, :, whole:]
        writer = self._head()
        for tile in tiles:
            writer.raw(np.packbits(tile, axis=2, bitorder="little"))
        return writer.stream()

    def _head(self) -> Writer:
        writer, dtype = Writer(), DTYPES.index(np.dtype(np.uint8))
        writer.numbers(dtype, 0, 1, self.size, self.size, self.seed, Slices.number, INVERTED, self.n_in, self.n_out, 0)
        return writer

    @classmethod
    def read(cls, stream: Bits) -> tuple[Plane, Bits] | None:
        """The plane and the inputs of a ``stream`` that was checked; None if it is another kind of stream."""
        reader = Reader(stream)
        head = tuple(reader.number(1 << 64) for _ in range(8))
        if head[:3] != (DTYPES.index(np.dtype(np.uint8)), 0, 1) or head[6:] != (Slices.number, INVERTED):
            return None
        size, count, seed = head[3:6]
        n_in, n_out, patches = (reader.number(1 << 64) for _ in range(3))
        if not size or count != size or patches or not 0 < n_in <= n_out <= MOST_OUTPUTS:
            return None
        self = cls(size, n_in, n_out, seed)
        inputs, whole = np.empty((n_in, self.slices), np.uint8), self.slices // WIDTH * WIDTH
        found = np.unpackbits(reader.raw(slices.stream_size(size, n_in, n_out)), bitorder="little")
        tiles, last = found[: n_in * whole].reshape(-1, n_in, WIDTH), found[n_in * whole :]
        inputs[:, :whole] = tiles.transpose(1, 0, 2).reshape(n_in, whole)
        inputs[:, whole:] = last.reshape(n_in, -1)
        return self, inputs


@dataclass(frozen=True, eq=False)
class Basis:
    """Inputs ``x = back @ z`` of a network M in terms of ``z = (M @ x)[free]``, modulo 2; ``M @ x = taps @ z``.

    Parameters
    ----------
    free : NDArray of int64, (n_in,)
        The outputs that are inputs now.
    taps : NDArray, (n_out, n_in)
        Of which of them an output is the sum; of itself alone where it is among them.
    back : NDArray, (n_in, n_in)
    """

    free: NDArray[np.int64]
    taps: Bits
    back: Bits

    @property
    def products(self) -> NDArray[np.int64]:
        """Of how many each of the other outputs is the sum, ascending: (n_out - n_in,)."""
        return np.sort(np.delete(self.taps.sum(axis=1, dtype=np.int64), self.free))


@lru_cache(maxsize=64)
def basis(n_in: int, n_out: int, seed: int) -> Basis | None:
    """A basis with short products for one network; None if its inputs are not independent."""
    rows, free, whole = _bases(_matrix(n_in, n_out, seed)[None])
    if not whole[0]:
        return None
    return Basis(free[0], np.ascontiguousarray(rows[0, :, :n_out].T), np.ascontiguousarray(rows[0, :, n_out:].T))


@lru_cache(maxsize=64)
def suitable(n_in: int, n_out: int) -> int:
    """The first of all candidates whose products are nearest to three factors; for up to ``MOST_OUTPUTS`` outputs."""
    rows, _, whole = _bases(np.stack([_matrix(n_in, n_out, seed) for seed in range(_CANDIDATES)]))
    taps = rows[:, :, :n_out].sum(axis=1, dtype=np.int64)
    return int(np.argmin(np.where(whole, np.square(taps - _FACTORS).sum(axis=1), _NO)))


def _matrix(n_in: int, n_out: int, seed: int) -> Bits:
    rows = network(n_in, n_out, seed).astype("<u8").view(np.uint8)
    return np.unpackbits(rows, axis=1, count=n_in, bitorder="little")


def _bases(M: Bits) -> tuple[Bits, NDArray[np.int64], NDArray[np.bool_]]:
    """Bases of many networks M (S, n_out, n_in), found side by side.

    Rows (S, n_in, n_out + n_in) of ``[taps^T | back^T]``, which begin as ``[M^T | 1]`` and are added to each other
    until each has an output of its own; these outputs (S, n_in); and whether there are so many.
    """
    many, n_out, n_in = M.shape
    unit = np.broadcast_to(np.eye(n_in, dtype=np.uint8), (many, n_in, n_in))
    rows, each = np.concatenate([M.transpose(0, 2, 1), unit], axis=2), np.arange(many)
    free, whole = np.zeros((many, n_in), np.int64), np.ones(many, np.bool_)
    for k in range(n_in):
        whole &= rows[:, k, :n_out].any(axis=1)
        free[:, k] = rows[:, k, :n_out].argmax(axis=1)
        _pivot(rows, each, np.full(many, k), free[:, k])
    for _ in range(_EXCHANGES):  # the one that leaves the fewest ones, as long as there is one
        left = rows[:, :, :n_out].astype(np.float32)
        common = left @ left.transpose(0, 2, 1)
        change = np.einsum("skk->sk", common)[:, None, :] - 2 * common  # [j, k]: of ones in row j, if k is added to it
        change[:, np.arange(n_in), np.arange(n_in)] = 0
        change = change.transpose(0, 2, 1) @ left  # [k, c]: of all ones, if output c takes the place of free[k]
        change[left == 0] = _NO
        np.put_along_axis(change, np.broadcast_to(free[:, None, :], (many, n_in, n_in)), _NO, axis=2)
        best = change.reshape(many, -1).argmin(axis=1)
        better = np.flatnonzero(np.take_along_axis(change.reshape(many, -1), best[:, None], axis=1)[:, 0] < 0)
        if not better.size:
            break
        k, c = np.divmod(best[better], n_out)
        _pivot(rows, better, k, c)
        free[better, k] = c
    return rows, free, whole


def _pivot(rows: Bits, which: NDArray[np.int64], k: NDArray[np.int64], c: NDArray[np.int64]) -> None:
    """Add row k to the others that have a one in column c, in each of the systems ``which``."""
    marked = rows[which, :, c]
    marked[np.arange(which.size), k] = 0
    rows[which] ^= marked[:, :, None] * rows[which, k][:, None, :]


class Products(Shadow):
    """``value = scale / 2 * product of the signs of a weight's inputs``, 0 counting as positive.

    The gradient of a sign is ``S (1 - tanh(S x)**2)``. Scales, one per row, learn as those of grids do.
    """

    encoded: Xor

    def __init__(self, encoded: Xor, plane: Plane, inputs: Bits, found: Basis, grid: Grouped) -> None:
        super().__init__(encoded)
        self._plane, self._inputs, self._basis, self._grid = plane, inputs, found, grid

    def parameters(self, start: NDArray[Any] | None = None) -> Arrays:
        bits = (self._plane.matrix()[self._basis.free] @ self._inputs) % 2
        signs = (_START - 2 * _START * bits).astype(self.encoded.dtype)
        return {"signs": signs, "scales": np.ones(self._scales.shape, self.encoded.dtype)}

    def constants(self) -> Arrays:
        taps = self._basis.taps
        most = int(taps.sum(axis=1).max())
        order = np.argsort(taps == 0, axis=1, kind="stable")[:, :most].T  # of each output, its inputs first
        used = np.take_along_axis(taps, order.T, axis=1).T
        return {
            "inputs": np.ascontiguousarray(order.astype(np.int64)),
            "used": np.ascontiguousarray(used[:, :, None].astype(self.encoded.dtype)),
            "place": self._plane.place().reshape(self.encoded.matrix),
            "first": scaled(self._scales.astype(self.encoded.dtype), self._grid.exponent),
        }

    def value(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Tensor:
        xp, x = ops.xp, parameters["signs"]
        fixed = ops.stopped(x)
        one = xp.ones_like(fixed)
        signs = ops.through(xp.where(fixed < 0, -one, one), xp.tanh(STEEPNESS * x))
        inputs, used = constants["inputs"], constants["used"]
        made = signs[inputs[0]]
        for k in range(1, inputs.shape[0]):
            made = made * (1 + used[k] * (signs[inputs[k]] - 1))
        scale, first, count = parameters["scales"], constants["first"], self.encoded.matrix[1] // 2
        scales = relative_scale(ops, scale, first, self._grid.exponent, count)
        return (made.reshape(-1)[constants["place"]] * (scales / 2)[:, None]).reshape(self.encoded.shape)

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Encoded:
        bits = (parameters["signs"] < 0).astype(np.uint8)
        inputs = (self._basis.back @ bits) % 2
        scales = parameters["scales"].astype(self.encoded.dtype) * self._scales.astype(self.encoded.dtype)
        parts = {**self.encoded.parts, "inner.scales": halves(scales).reshape(1, -1)}
        return replace(self.encoded, parts={**parts, CODES: self._plane.stream(inputs)})

    @property
    def _scales(self) -> NDArray[np.float16]:
        return np.asarray(self.encoded.parts["inner.scales"]).reshape(-1)


def products(encoded: Xor) -> Products | None:
    """The shadow of an array whose every weight is a bit of :class:`Plane` times the scale of its row; None if not."""
    blank = encoded.rebuilt(encoded.blanks())
    if encoded.coded != ((CODES, "uint8", 1),) or not isinstance(blank, Masked) or not blank.mask().all():
        return None
    grid = blank.inner
    if not isinstance(grid, Grouped) or not _balanced(grid, encoded.matrix[1]):
        return None
    read = Plane.read(encoded.parts[CODES])
    if read is None or read[0].size != encoded.size:
        return None
    found = basis(read[0].n_in, read[0].n_out, read[0].seed)
    return Products(encoded, *read, found, grid) if found else None


def _balanced(grid: Grouped, n: int) -> bool:
    """Whether its values are plus and minus half a scale per row of n."""
    levels = getattr(grid, "zero", None) == 0.5 and getattr(grid, "minima", None) is None
    return grid.id == "grid" and levels and grid.bits == 1 and grid.group == n and grid.axis is None

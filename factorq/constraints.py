"""What the numbers of a factor may be: precision, sparsity, grids, codebooks, and their intersections.

The primitive of a constraint is ``encode(x)``, the stored form of the nearest allowed array; ``project(x)`` is
``encode(x).decode()`` by definition, so that every solver projects onto exactly what will be stored. Constraints meet
with ``&``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from .arrays import FLOATS
from .codecs import Codebook, Dense, Encoded, Grid, Mask, OneHot
from .codecs.base import matrix_shape, normal_exponent, to_matrix
from .errors import refuse, refuse_type
from .kernels import levels as levels_kernel
from .kernels.bits import packed_size
from .measure import scaled
from .named import Named, settle

Axis = Literal[0, 1] | None
DEFAULT_GROUP = 128
_ROUNDS = 8  # refits of scale and support in turn; two or three are the rule
_SAMPLE = 1 << 18  # entries on which a kind of grid is chosen; whole arrays up to this size


class Constraint(Named):
    """A set of arrays that can be stored."""

    kind: ClassVar[str] = "constraints"

    @abstractmethod
    def encode(self, x: NDArray[Any]) -> Encoded:
        """The nearest allowed array to ``x`` (float32 or float64, finite), as it is stored."""

    @abstractmethod
    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        """Bytes that ``encode`` stores for an array of ``shape``; an upper bound where that depends on the values."""

    def project(self, x: NDArray[Any]) -> NDArray[Any]:
        """``encode(x).decode()``."""
        return self.encode(x).decode()

    def __and__(self, other: Constraint) -> Constraint:
        return intersect(self, other)


@dataclass(frozen=True)
class Real(Constraint):
    """Floating numbers, in ``dtype`` or in the precision they come in.

    Examples
    --------
    >>> Real("float16").project(np.array([[1 / 3]], np.float32))
    array([[0.33325195]], dtype=float32)
    """

    id: ClassVar[str] = "real"
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in FLOATS:
            raise refuse("dtype", found=repr(self.dtype), allowed=", ".join(FLOATS))

    def encode(self, x: NDArray[Any]) -> Encoded:
        return Dense.encode(x, self.dtype)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return math.prod(shape) * FLOATS[self.dtype or dtype].itemsize


@dataclass(frozen=True)
class Sparse(Constraint):
    """At most ``floor((1 - sparsity) * size)`` nonzero entries: the largest magnitudes, ties to the lowest index.

    Parameters
    ----------
    sparsity : float
        Share of zeros, 0 <= sparsity < 1.

    Examples
    --------
    >>> Sparse(0.5).project(np.array([[1.0, -3.0, 2.0, 0.5]], np.float32))
    array([[ 0., -3.,  2.,  0.]], dtype=float32)
    """

    id: ClassVar[str] = "sparse"
    sparsity: float

    def __post_init__(self) -> None:
        settle(self)
        check_sparsity(self.sparsity)

    def count(self, size: int) -> int:
        """How many of ``size`` entries may be nonzero."""
        return math.floor((1.0 - self.sparsity) * size * (1 + 2**-50))  # what should be whole may be an ulp short

    def mask(self, weight: NDArray[Any]) -> NDArray[np.bool_]:
        """Which entries to keep by their nonnegative ``weight``; entries of weight 0 are never kept."""
        return largest(weight, self.count(weight.size))

    def encode(self, x: NDArray[Any]) -> Encoded:
        return (self & Real()).encode(x)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return (self & Real()).nbytes(shape, dtype)


@dataclass(frozen=True)
class Quantized(Constraint):
    """Evenly spaced values in groups with a float16 scale each, chosen for least squared error.

    Parameters
    ----------
    bits : int
        Bits per value, 1 to 16.
    group : int or None
        At most so many entries share a scale, evenly: rows of 144 in groups of 128 become groups of 72. None for a
        whole row (or column, or array, by ``axis``).
    axis : 0, 1 or None
        Direction of the groups: along the inputs (1), down the columns (0), through the flattened array (None).
    grid : "auto", "midrise", "midtread", "asymmetric" or "nonzero"
        Whether levels lie around 0 symmetrically, include 0, cover a fitted interval, or are the integers without 0
        (for values under a mask); "auto" takes the better of the first two.

    Examples
    --------
    >>> Quantized(2, group=4).project(np.array([[-3.0, -1.1, 1.0, 2.9]], np.float32)).round(2)
    array([[-2.97, -0.99,  0.99,  2.97]], dtype=float32)
    """

    id: ClassVar[str] = "quantized"
    bits: int
    group: int | None = DEFAULT_GROUP
    axis: Axis = 1
    grid: Literal["auto", "midrise", "midtread", "asymmetric", "nonzero"] = "auto"

    def __post_init__(self) -> None:
        settle(self)
        check_bits(self.bits)
        check_group(self.group)
        check_axis(self.axis)
        kinds = ("auto", "midrise", "midtread", "asymmetric", "nonzero")
        if self.grid not in kinds:
            raise refuse("grid", found=repr(self.grid), allowed=" or ".join(map(repr, kinds)))

    def encode(self, x: NDArray[Any]) -> Encoded:
        if self.grid == "nonzero":
            run = self.group or max(matrix_shape(x.shape, self.axis)[1], 1)
            return Codebook.encode(x, bits=self.bits, group=run, axis=self.axis, levels="nonzero")
        midtread = 2.0 ** (self.bits - 1)
        zeros: dict[str, tuple[float | None, ...]] = {
            "auto": (midtread - 0.5, midtread) if self.bits > 1 else (midtread - 0.5,),
            "midrise": (midtread - 0.5,), "midtread": (midtread,), "asymmetric": (None,),
        }  # fmt: skip
        kinds = zeros[self.grid]
        if len(kinds) == 1:
            return self._encode(x, kinds[0])
        sample = _sample(x)
        tried = [self._encode(sample, zero) for zero in kinds]
        best = int(np.argmin([_loss(sample, encoded) for encoded in tried]))
        return tried[best] if sample is x else self._encode(x, kinds[best])

    def _encode(self, x: NDArray[Any], zero: float | None) -> Grid:
        group = even_group(self.group, matrix_shape(x.shape, self.axis)[1])
        return Grid.encode(x, bits=self.bits, group=group, axis=self.axis, zero=zero)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return Grid.predict(shape, self.bits, self.group, self.axis, self.grid == "asymmetric")


@dataclass(frozen=True)
class Clustered(Constraint):
    """Values from a scalar codebook of ``2**bits`` levels, times a float16 scale per group.

    Parameters
    ----------
    bits : int
        Bits per value, 1 to 16.
    group : int or None
        Entries that share a scale; None for no scales: the levels are the values.
    axis : 0, 1 or None
        Direction of the groups, as in :class:`Quantized`.
    levels : "lloyd" or "nf4"
        Levels of least squared error for this array (Lloyd 1982, Max 1960), stored with it; or the 16 quantiles of a
        normal distribution (Dettmers et al. 2023), not stored.

    Examples
    --------
    >>> Clustered(1, group=None).project(np.array([[0.0, 0.2, 5.0, 5.2]], np.float32))
    array([[0.1, 0.1, 5.1, 5.1]], dtype=float32)
    """

    id: ClassVar[str] = "clustered"
    bits: int
    group: int | None = DEFAULT_GROUP
    axis: Axis = 1
    levels: Literal["lloyd", "nf4"] = "lloyd"

    def __post_init__(self) -> None:
        settle(self)
        check_bits(self.bits)
        check_group(self.group)
        check_axis(self.axis)
        if self.levels not in ("lloyd", "nf4"):
            raise refuse("levels", found=repr(self.levels), allowed="'lloyd' or 'nf4'")
        if self.levels == "nf4" and (self.bits != 4 or self.group is None):
            found = f"levels 'nf4' with bits={self.bits}, group={self.group}"
            raise refuse("levels", found=found, allowed="bits=4 and a group size, for example bits=4, group=64")

    def encode(self, x: NDArray[Any]) -> Encoded:
        levels: NDArray[Any] | str = self.levels
        if levels == "lloyd":
            levels = self._fit(x)
        group = even_group(self.group, matrix_shape(x.shape, self.axis)[1])
        return Codebook.encode(x, bits=self.bits, group=group, axis=self.axis, levels=levels)

    def _fit(self, x: NDArray[Any]) -> NDArray[Any]:
        count = 2**self.bits
        if x.size == 0:
            return np.zeros(count)
        if self.group is None:
            return np.asarray(levels_kernel.lloyd_max(np.ascontiguousarray(x).reshape(-1), count))
        matrix = np.ascontiguousarray(scaled(to_matrix(x, self.axis), -normal_exponent(x)))
        return np.asarray(levels_kernel.lloyd_max_grouped(matrix, count, even_group(self.group, matrix.shape[1]) or 1))

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        level_bytes = (8 if dtype == "float64" else 4) if self.levels == "lloyd" else 0  # in the compute dtype
        return Codebook.predict(shape, self.bits, self.group, self.axis, level_bytes)


@dataclass(frozen=True)
class OneHotRows(Constraint):
    """One entry of 1 in each row, at its largest value, zeros elsewhere: the assignments of vector quantization."""

    id: ClassVar[str] = "onehot"

    def encode(self, x: NDArray[Any]) -> Encoded:
        if x.ndim != 2 or x.shape[1] == 0:
            raise refuse("x", found=f"shape {x.shape}", allowed="a matrix (n, K) with at least one column")
        return OneHot.encode(x.argmax(axis=1), x.shape[1], str(x.dtype))

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return packed_size(shape[0], max(1, (shape[1] - 1).bit_length()))


@dataclass(frozen=True)
class Intersection(Constraint):
    """Sparse, with the kept entries in ``values``: the joint projection.

    On a fixed grid the exact projection keeps the entries with the largest gain ``z**2 - (z - q(z))**2``, where
    ``q(z)`` is the nearest allowed nonzero value. With one scale the gain grows with the magnitude of z, so the largest
    magnitudes are kept, as long as their gain is positive; entries of no gain are dropped and the scale is fitted again
    to those that stay.
    """

    id: ClassVar[str] = "intersection"
    sparse: Sparse
    values: Constraint

    def encode(self, x: NDArray[Any]) -> Encoded:
        keep = self.sparse.mask(np.abs(x))
        inner = self.values.encode(np.ascontiguousarray(x[keep]))
        # New levels at every round would go on for long to gain little; a grid must end without zeros among the kept.
        for _ in range(_ROUNDS if isinstance(self.values, Clustered) else x.size):
            z, q = x[keep], inner.decode()
            gains = ((q > 0) & (z > q / 2)) | ((q < 0) & (z < q / 2))  # q (2 z - q) > 0, without its overflow
            if gains.all():
                break
            keep[keep] = gains
            inner = self.values.encode(np.ascontiguousarray(x[keep]))
        return Mask.encode(keep, inner)

    def encode_weighted(self, x: NDArray[Any], weight: NDArray[Any]) -> Encoded:
        """An allowed array near ``x`` in the metric ``sum((weight * (x - z))**2)``, for values with one scale near 1.

        Support and scale are fitted in turn: the support exactly, by the weighted gains on the grid; the scale to the
        kept entries without their weights.
        """
        keep = self.sparse.mask(np.abs(x) * weight)
        inner = self.values.encode(np.ascontiguousarray(x[keep]))
        for _ in range(_ROUNDS):
            better = self.sparse.mask(_gains(x, inner) * weight**2)
            if np.array_equal(better, keep):
                break
            keep = better
            inner = self.values.encode(np.ascontiguousarray(x[keep]))
        return Mask.encode(keep, inner)

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        size = math.prod(shape)
        return packed_size(size, 1) + self.values.nbytes((self.sparse.count(size),), dtype)


def _gains(x: NDArray[Any], inner: Encoded) -> NDArray[Any]:
    """``max(z**2 - (z - q(z))**2, 0)`` for every entry z of ``x`` and its nearest nonzero point q(z) of ``inner``."""
    points = inner.points()
    if points.levels is None:
        return np.asarray(x * x)
    q = np.unique(points.levels * (1.0 if points.scale is None else np.max(points.scale, initial=0.0)))
    q = q[q != 0.0]
    if not q.size:
        return np.zeros_like(x)
    nearest = q[np.searchsorted((q[1:] + q[:-1]) / 2, x)]
    return np.asarray(np.maximum(nearest * (2 * x - nearest), 0.0))


def intersect(a: Constraint, b: Constraint) -> Constraint:
    """The arrays that satisfy both: a share of zeros, and how the others are written.

    Raises
    ------
    ArgumentError
        If both say how values are written, or both say how many are zero.
    """
    for sparse, values in ((a, b), (b, a)):
        if isinstance(sparse, Sparse) and isinstance(values, Real | Quantized | Clustered):
            return Intersection(sparse, values)
    found = f"{type(a).__name__} & {type(b).__name__}"
    raise refuse("constraint", found=found, allowed="Sparse & Real, Sparse & Quantized or Sparse & Clustered")


def largest(weight: NDArray[Any], count: int) -> NDArray[np.bool_]:
    """Mask of the ``count`` largest positive entries of ``weight``, ties to the lowest index in C order."""
    flat = weight.reshape(-1)
    keep = flat > 0
    if int(np.count_nonzero(keep)) > count:
        if count == 0:
            return np.zeros(weight.shape, np.bool_)
        threshold = np.partition(flat, flat.size - count)[flat.size - count]
        keep = flat > threshold
        ties = np.flatnonzero(flat == threshold)
        keep[ties[: count - int(np.count_nonzero(keep))]] = True
    return keep.reshape(weight.shape)


def even_group(group: int | None, n: int) -> int | None:
    """The least group size that cuts ``n`` entries into as many groups as ``group`` does; None stays None."""
    return -(-n // -(-n // group)) if group and n else group


def check_bits(bits: object, name: str = "bits") -> None:
    """Raise unless ``bits`` is an integer from 1 to 16."""
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer):
        raise refuse_type(name, found=repr(bits), allowed="an integer from 1 to 16")
    if not 1 <= bits <= 16:
        raise refuse(name, found=bits, allowed="an integer from 1 to 16")


def check_sparsity(sparsity: object, name: str = "sparsity") -> None:
    """Raise unless ``sparsity`` is a share of zeros in [0, 1)."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float | np.floating):
        raise refuse_type(name, found=repr(sparsity), allowed="a share of zeros, 0 <= sparsity < 1")
    if not 0 <= sparsity < 1:
        raise refuse(name, found=sparsity, allowed="a share of zeros, 0 <= sparsity < 1")


def check_group(group: object) -> None:
    """Raise unless ``group`` is a positive integer or None."""
    if group is None:
        return
    if isinstance(group, bool) or not isinstance(group, int | np.integer):
        raise refuse_type("group", found=repr(group), allowed="an integer of at least 1, or None")
    if group < 1:
        raise refuse("group", found=group, allowed="an integer of at least 1, or None")


def check_axis(axis: object) -> None:
    """Raise unless ``axis`` is 0, 1 or None."""
    if axis not in (None, 0, 1) or isinstance(axis, bool):
        raise refuse("axis", found=repr(axis), allowed="0, 1 or None")


def _sample(x: NDArray[Any]) -> NDArray[Any]:
    """Rows of ``x`` evenly spaced, about ``_SAMPLE`` entries; all of a smaller array."""
    if x.size <= _SAMPLE or x.ndim < 2:
        return x[:_SAMPLE] if x.ndim == 1 else x
    return np.ascontiguousarray(x[:: -(-x.size // _SAMPLE)])


def _loss(x: NDArray[Any], encoded: Encoded) -> float:
    lost = np.asarray(x - encoded.decode(), np.float64)
    return float(np.vdot(lost, lost))

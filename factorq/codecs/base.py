"""The contract of codecs: an :class:`Encoded` is one array as it is stored.

A codec file defines one dataclass. Its plain fields are the configuration that goes into the file's JSON, the fields
made with :func:`buffer` are the stored arrays; sizes, equality, JSON and the split into buffers come from here.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, ArtifactError
from ..kernels import bits as bits_kernel
from ..measure import binary_exponent, scaled
from ..named import Named, find

COMPUTE_DTYPES = ("float32", "float64")
MAX_DIMS = 32
_BLOCK = 1 << 16  # entries coded at a time: values, codes and packed bytes of a block stay in the second-level cache


def buffer(default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is stored as an array (or as another ``Encoded``), not in the JSON."""
    return dataclasses.field(default=default, metadata={"buffer": True})


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """The values that entry (i, j) of a matrix may take: ``scale[i, j] * levels + offset[i, j]``, 0 where not kept.

    Parameters
    ----------
    levels : NDArray, (K,) ascending, or None
        None if any number is allowed.
    scale, offset : NDArray, (m, n), or None
        None for 1 and 0.
    keep : NDArray of bool, (m, n), or None
        None if every entry is kept.
    """

    levels: NDArray[Any] | None = None
    scale: NDArray[Any] | None = None
    offset: NDArray[Any] | None = None
    keep: NDArray[np.bool_] | None = None


@dataclasses.dataclass(frozen=True)
class Packed:
    """How packed codes lie in a buffer: ``size`` codes of ``bits`` bits each.

    ``columns`` are widths, each dividing ``size``, of matrices whose rows or columns may differ in their statistics.
    """

    bits: int
    size: int
    columns: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Encoded(Named):
    """An array of ``shape`` and logical ``dtype`` as it is stored.

    Parameters
    ----------
    shape : tuple of int
        Shape of the decoded array.
    dtype : str
        Dtype of the decoded array, in which factors are contracted: ``"float32"`` or ``"float64"``.
    """

    kind: ClassVar[str] = "codecs"
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if len(self.shape) > MAX_DIMS or not all(_is_count(n) for n in self.shape):
            raise ArtifactError(f"{self.id}: shape {self.shape} is not a tuple of at most {MAX_DIMS} sizes")
        if self.dtype not in COMPUTE_DTYPES:
            raise ArtifactError(f"{self.id}: dtype {self.dtype!r} is none of {', '.join(COMPUTE_DTYPES)}")
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise :class:`ArtifactError` unless the buffers have the dtypes and sizes that the configuration implies."""

    @abstractmethod
    def decode(self) -> NDArray[Any]:
        """The array: ``shape``, ``dtype``."""

    @abstractmethod
    def nearest(self, x: NDArray[Any]) -> Self:
        """``x`` (``shape``) at the same mask, scales and levels: only the codes are new."""

    @abstractmethod
    def points(self) -> Points:
        """Where the values of each entry may lie, the mask, scales and levels being what they are."""

    def reshaped(self, shape: tuple[int, ...]) -> Self:
        """The same entries in C order under another shape, with the same first axis."""
        return dataclasses.replace(self, shape=shape)

    @property
    def size(self) -> int:
        """Number of entries of the decoded array."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Stored bytes: the sum over all buffers."""
        return sum(array.nbytes for array in self.buffers().values())

    def buffers(self) -> dict[str, NDArray[Any]]:
        """The stored arrays by name; those of a nested ``Encoded`` as ``field.name``."""
        found: dict[str, NDArray[Any]] = {}
        for field in _buffer_fields(type(self)):
            value = getattr(self, field.name)
            if isinstance(value, Encoded):
                found |= {f"{field.name}.{name}": array for name, array in value.buffers().items()}
            elif value is not None:
                found[field.name] = value
        return found

    def packed(self) -> dict[str, Packed]:
        """The buffers that hold packed codes, by name, for a store that writes codes in fewer bits."""
        return {}

    def versions(self) -> tuple[Encoded, ...]:
        """The same array written in other ways, larger here but perhaps smaller in such a store."""
        return ()

    def config(self) -> dict[str, Any]:
        """The configuration as JSON, with that of a nested ``Encoded`` under its field's name."""
        nested = {f.name: getattr(self, f.name) for f in _buffer_fields(type(self))}
        return super().config() | {k: v.config() for k, v in nested.items() if isinstance(v, Encoded)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **extra: Any) -> Self:
        """The object of ``config`` and its ``buffers``, a mapping from names to arrays."""
        buffers: Mapping[str, NDArray[Any]] = extra.pop("buffers")
        plain = dict(config)
        values: dict[str, Any] = {}
        left = dict(buffers)
        for field in _buffer_fields(cls):
            if field.name in plain:
                inner = f"{field.name}."
                own = {name.removeprefix(inner): left.pop(name) for name in list(left) if name.startswith(inner)}
                values[field.name] = decode_config(plain.pop(field.name), own)
            elif field.name in left:
                values[field.name] = left.pop(field.name)
        if left:
            raise ArtifactError(f"{cls.id}: buffers {', '.join(left)} do not belong to it")
        return super().from_config(plain, **values)

    def expect(self, name: str, dtype: str, shape: tuple[int, ...] | None) -> None:
        """Check that buffer ``name`` is a C-contiguous array of ``dtype`` and ``shape`` (any 1-D one if None)."""
        array = getattr(self, name)
        if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or not array.flags.c_contiguous:
            found = f"{array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
            raise ArtifactError(f"{self.id}: buffer {name} is {found}, expected contiguous {dtype}")
        if array.shape != shape and (shape is not None or array.ndim != 1):
            raise ArtifactError(
                f"{self.id}: buffer {name} has shape {array.shape}, expected {shape or 'one dimension'}"
            )

    def require(self, condition: bool, what: str) -> None:
        """Raise :class:`ArtifactError` saying ``what`` unless ``condition`` holds."""
        if not condition:
            raise ArtifactError(f"{self.id}: {what}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()}, {self.nbytes:,} bytes)"

    def summary(self) -> str:
        """Shape and settings in a few words."""
        return "x".join(map(str, self.shape))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Grouped(Encoded):
    """An array stored as packed codes in groups, each group with a float16 scale: what grids and codebooks share.

    The array is read as a matrix (rows, n) whose rows are cut into groups of ``group`` entries, the last one ragged.

    Parameters
    ----------
    bits : int
        Bits per code, 1 to 16.
    group : int or None
        Entries that share a scale; None for the whole row.
    axis : int or None
        1 reads the array as (shape[0], the rest), so that groups run along the input axes of a weight; 0 as (the rest,
        shape[0]), so that they run down its columns; None as one long row.
    exponent : int
        All values are scaled by ``2**exponent``, which keeps float16 scales in range whatever the weights' magnitude.
    codes : NDArray, (ceil(size * bits / 8),) uint8
        The packed codes.
    scales : NDArray, (rows, ceil(n / group)) float16, or None
        One scale per group.
    """

    bits: int
    group: int | None
    axis: int | None
    exponent: int
    codes: NDArray[Any] = buffer()
    scales: NDArray[Any] | None = buffer(None)

    def check(self) -> None:
        self.require(isinstance(self.bits, int) and 1 <= self.bits <= 16, f"bits {self.bits!r} not in 1..16")
        group_ok = self.group is None or (_is_count(self.group) and self.group > 0)
        self.require(group_ok, f"group {self.group!r} is no positive integer")
        self.require(self.axis in (None, 0, 1), f"axis {self.axis!r} is none of None, 0, 1")
        exponent_ok = isinstance(self.exponent, int) and -1200 <= self.exponent <= 1200
        self.require(exponent_ok, f"exponent {self.exponent!r} is out of range")
        self.expect("codes", "uint8", (bits_kernel.packed_size(self.size, self.bits),))
        if self.scales is not None:
            self.expect("scales", "float16", self.scales_shape)
            self.require(bool(np.isfinite(self.scales).all()), "scales that are not finite")

    def packed(self) -> dict[str, Packed]:
        rows = matrix_shape(self.shape, self.axis)[1]
        return {"codes": Packed(self.bits, self.size, widths(self.shape, rows))}

    @property
    def scales_shape(self) -> tuple[int, int]:
        """Rows and groups per row."""
        return groups_shape(self.shape, self.axis, self.group)

    def summary(self) -> str:
        group = f", groups of {self.group}" if self.group else ""
        return f"{super().summary()}, {self.bits} bits{group}"

    def decode(self) -> NDArray[Any]:
        rows, n = matrix_shape(self.shape, self.axis)
        out = np.empty((rows, n), self.dtype)
        for start, stop in row_blocks(rows, n):
            codes = unpack_rows(self.codes, self.bits, start, stop, n)
            scales = None if self.scales is None else self.scales[start:stop]
            out[start:stop] = scaled(self.decode_block(codes, slice(start, stop), scales), self.exponent)
        return from_matrix(out, self.shape, self.axis)

    def points(self) -> Points:
        scale = None if self.scales is None else self.spread(self.scales)
        return Points(
            levels=self.table_levels() * (1.0 if self.scales is not None else 2.0**self.exponent), scale=scale
        )

    def spread(self, per_group: NDArray[Any]) -> NDArray[Any]:
        """A number per group (rows, groups), times ``2**exponent``, for every entry: ``shape``, float64."""
        n = matrix_shape(self.shape, self.axis)[1]
        wide = np.repeat(np.ldexp(per_group.astype(np.float64), self.exponent), self.group or max(n, 1), axis=1)
        return from_matrix(wide[:, :n], self.shape, self.axis)

    @abstractmethod
    def table_levels(self) -> NDArray[Any]:
        """The values of the codes at scale 1, ascending: (2**bits,) float64."""

    @abstractmethod
    def decode_block(self, codes: NDArray[Any], rows: slice, scales: NDArray[Any] | None) -> NDArray[Any]:
        """The values of some rows (k, n) from their codes, before ``exponent`` is applied."""


def normal_exponent(x: NDArray[Any]) -> int:
    """The e for which ``max|x| * 2**-e`` lies in [2**12, 2**13), with 26 binades of normal float16 scales below."""
    return binary_exponent(x) - 13 if x.any() else 0


def matrix_shape(shape: tuple[int, ...], axis: int | None) -> tuple[int, int]:
    """Rows and columns of the matrix in which groups run along the columns."""
    size = math.prod(shape)
    if axis is None or not shape:
        return 1, size
    rest = math.prod(shape[1:])
    return (shape[0], rest) if axis == 1 else (rest, shape[0])


def groups_shape(shape: tuple[int, ...], axis: int | None, group: int | None) -> tuple[int, int]:
    """Rows and groups per row of an array that is cut along ``axis`` into groups of ``group`` (None: whole rows)."""
    rows, n = matrix_shape(shape, axis)
    return rows, -(-n // (group or max(n, 1)))


def widths(shape: tuple[int, ...], *others: int) -> tuple[int, ...]:
    """Up to 4 widths in which an array of ``shape`` can be read: those of its first axis and of its first two."""
    found = dict.fromkeys((*others, math.prod(shape[1:]), math.prod(shape[2:])))
    return tuple(n for n in found if 1 < n < math.prod(shape))[:4]


def to_matrix(x: NDArray[Any], axis: int | None) -> NDArray[Any]:
    """``x`` as the matrix of :func:`matrix_shape`; a view where memory order allows it."""
    matrix = x.reshape(x.shape[0], -1).T if axis == 0 else x
    return matrix.reshape(matrix_shape(x.shape, axis))


def from_matrix(matrix: NDArray[Any], shape: tuple[int, ...], axis: int | None) -> NDArray[Any]:
    """The inverse of :func:`to_matrix`, C-contiguous."""
    return np.ascontiguousarray(matrix.T if axis == 0 else matrix).reshape(shape)


def row_blocks(rows: int, n: int) -> list[tuple[int, int]]:
    """Ranges of rows of about ``_BLOCK`` entries; each starts at a multiple of 8: packed blocks meet at bytes."""
    step = max(8, _BLOCK // max(n, 1) // 8 * 8)
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def packed_rows(
    x: NDArray[Any],
    axis: int | None,
    bits: int,
    exponent: int,
    codes_of: Callable[[NDArray[Any], slice], NDArray[Any]],
) -> NDArray[Any]:
    """The packed codes of ``x * 2**-exponent``: ``codes_of(block (k, n), its rows)`` gives those of a block of rows."""
    matrix = to_matrix(x, axis)
    rows, n = matrix.shape
    packed = np.empty(bits_kernel.packed_size(x.size, bits), np.uint8)
    for start, stop in row_blocks(rows, n):
        block = np.ascontiguousarray(scaled(matrix[start:stop], -exponent))
        piece = bits_kernel.pack(codes_of(block, slice(start, stop)).reshape(-1), bits)
        first = start * n * bits // 8
        packed[first : first + piece.size] = piece
    return packed


def unpack_rows(packed: NDArray[Any], bits: int, start: int, stop: int, n: int) -> NDArray[Any]:
    """The codes (stop - start, n) of some rows; ``start`` is a multiple of 8."""
    count = (stop - start) * n
    first = start * n * bits // 8
    block = packed[first : first + bits_kernel.packed_size(count, bits)]
    return np.asarray(bits_kernel.unpack(block, bits, count)).reshape(stop - start, n)


def decode_config(config: Any, buffers: Mapping[str, NDArray[Any]]) -> Encoded:
    """The ``Encoded`` that ``config`` and ``buffers`` describe; any misfit is an :class:`ArtifactError`."""
    try:
        encoded = find("codecs", config["id"]).from_config(config, buffers=buffers)
    except ArtifactError:
        raise
    except (ArgumentError, KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ArtifactError(f"codec: malformed description ({error})") from None
    if not isinstance(encoded, Encoded):
        raise ArtifactError(f"codec: {config['id']!r} is no codec")
    return encoded


def _buffer_fields(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(cls) if f.metadata.get("buffer")]


def _is_count(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 48

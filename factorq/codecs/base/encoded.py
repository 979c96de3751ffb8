"""The contract of codecs: an :class:`Encoded` is one array as it is stored.

A codec file defines one dataclass. Its plain fields are the configuration that goes into the file's JSON, the fields
made with :func:`buffer` are the stored arrays; sizes, equality, JSON and the split into buffers come from here.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import ArgumentError, ArtifactError
from ...forms.axes import Axes
from ...named import Named, find
from . import products
from .shadow import Frozen, Shadow

Read = Callable[[int, int], NDArray[Any]]
"""What gives the entries from one number to another of a stored array."""

COMPUTE_DTYPES = ("float32", "float64")
MAX_DIMS = 32


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
        if len(self.shape) > MAX_DIMS or not all(is_count(n) for n in self.shape):
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

    def shadow(self, reselect: bool = False) -> Shadow:
        """The float numbers that training moves behind it; with ``reselect``, those a mask leaves out, too."""
        return Frozen(self)

    def cuts(self) -> Sequence[tuple[slice, slice]]:
        """Ranges of rows and of columns of the array as a matrix (shape[0], the rest) that :meth:`cut` decodes alone.

        Row after row of ranges: all cuts of some rows follow each other.
        """
        return [(slice(0, self.matrix[0]), slice(0, self.matrix[1]))]

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        """The entries of one of :meth:`cuts`: (k, l), ``dtype``; not to be changed."""
        return self.decode().reshape(self.matrix)

    def multiply(self, rows: slice, columns: slice, x: NDArray[Any], out: NDArray[Any], transposed: bool) -> None:
        """Add one of :meth:`cuts`, or its transpose, times x to out: both C-contiguous, of the dtype of the product."""
        cut = self.cut(rows, columns)
        out += (cut.T if transposed else cut) @ x

    def matmul(self, x: NDArray[Any]) -> NDArray[Any]:
        """``self @ x`` for the array as a matrix (shape[0], n) and x (n, b): by cuts, the whole is never there."""
        return products.matmul(self, x)

    def rmatmul(self, x: NDArray[Any]) -> NDArray[Any]:
        """``x @ self`` for the array as a matrix (m, the rest) and x (b, m)."""
        return products.rmatmul(self, x)

    def contract(self, x: NDArray[Any], axes: Axes) -> NDArray[Any]:
        """The sum over some axes of the matrix times x: (entries summed over, b) gives (entries kept, b).

        ``axes`` multiply to the size in C order, and none lies across rows and columns.
        """
        return products.contract(self, x, axes)

    @property
    def streamed(self) -> str | None:
        """The buffer of which :meth:`part` asks ``read`` for pieces; None if it must have all buffers as they are."""
        return None

    @property
    def transposed(self) -> bool:
        """Whether entries are stored column after column of the matrix (shape[0], the rest), not row after row."""
        return False

    def part(self, first: int, stop: int, read: Read | None = None) -> NDArray[Any]:
        """Entries ``first`` to ``stop`` in the order in which they are stored: (stop - first,), ``dtype``.

        ``read(first, stop)`` gives a piece of the buffer :attr:`streamed` in place of the buffer itself: its entries,
        or codes packed from the first one on.
        """
        return self.decode().reshape(-1)[first:stop]

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the array as (shape[0], the rest)."""
        return (self.shape[0], math.prod(self.shape[1:])) if self.shape else (1, 1)

    def reshaped(self, shape: tuple[int, ...]) -> Self:
        """The same entries in C order under another shape, with the same first axis."""
        return dataclasses.replace(self, shape=shape)

    @property
    def size(self) -> int:
        """Number of entries of the decoded array."""
        return math.prod(self.shape)

    def altered(self, **fields: Any) -> Self:
        """The same with other values in some fields, which are not checked again."""
        other = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(other, field.name, fields.get(field.name, getattr(self, field.name)))
        return other

    @property
    def on_gpu(self) -> bool:
        """Whether :meth:`placed` can be asked; other codecs decode on the host."""
        return False

    def placed(self, put: Callable[[NDArray[Any]], Any]) -> Any:
        """The same with ``put(buffer)``, a CuPy array, for every buffer: for :meth:`decode_on_gpu` and its products."""
        stored = {field.name: getattr(self, field.name) for field in _buffer_fields(type(self))}
        there = {
            name: x.placed(put) if isinstance(x, Encoded) else put(x) for name, x in stored.items() if x is not None
        }
        return self.altered(**there)  # what was checked once is not checked there

    def decode_on_gpu(self) -> Any:
        """The array as a CuPy array, all buffers being such: ``shape``, ``dtype``."""
        raise NotImplementedError(f"{self.id} is decoded on the host")

    def matmul_on_gpu(self, x: Any) -> Any:
        """:meth:`matmul` for CuPy arrays."""
        return self.decode_on_gpu().reshape(self.matrix) @ x

    def rmatmul_on_gpu(self, x: Any) -> Any:
        """:meth:`rmatmul` for CuPy arrays."""
        return x @ self.decode_on_gpu().reshape(self.matrix)

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

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what products keep at hand is made again."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()}, {self.nbytes:,} bytes)"

    def summary(self) -> str:
        """Shape and settings in a few words."""
        return "x".join(map(str, self.shape))


def widths(shape: tuple[int, ...], *others: int) -> tuple[int, ...]:
    """Up to 4 widths in which an array of ``shape`` can be read: those of its first axis and of its first two."""
    found = dict.fromkeys((*others, math.prod(shape[1:]), math.prod(shape[2:])))
    return tuple(n for n in found if 1 < n < math.prod(shape))[:4]


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


def is_count(n: object) -> bool:
    """Whether n is a number of entries that an array could have."""
    return isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 1 << 48

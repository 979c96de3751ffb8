"""One-hot rows as indices: the assignment of vector quantization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import namespace
from ..errors import ArtifactError
from ..kernels import bits as bits_kernel
from .base import Encoded, Packed, Points, buffer

_CUT = 1 << 16
"""Rows, or entries, that are dealt with at a time."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class OneHot(Encoded):
    """``x[i, index[i]] = 1`` and 0 elsewhere: ``ceil(log2 K)`` bits per row of an (n, K) array.

    Parameters
    ----------
    indices : NDArray, (ceil(n * bits / 8),) uint8
        The packed indices.

    Examples
    --------
    >>> OneHot.encode(np.array([2, 0]), 3).decode()
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """

    id: ClassVar[str] = "onehot"
    indices: NDArray[Any] = buffer()

    @classmethod
    def encode(cls, index: NDArray[Any], width: int, dtype: str = "float32") -> OneHot:
        """Store ``index`` (n,) of integers below ``width``, at most 65536."""
        bits = _bits(width)
        codes = np.ascontiguousarray(index, np.uint8 if bits <= 8 else np.uint16)
        return cls(shape=(len(index), width), dtype=dtype, indices=bits_kernel.pack(codes, bits))

    def check(self) -> None:
        self.require(
            len(self.shape) == 2 and 1 <= self.shape[1] <= 1 << 16, f"shape {self.shape} is not (n, K <= 65536)"
        )
        self.expect("indices", "uint8", (bits_kernel.packed_size(self.shape[0], _bits(self.shape[1])),))

    def packed(self) -> dict[str, Packed]:
        return {"indices": Packed(_bits(self.shape[1]), self.shape[0])}

    def index(self, first: int = 0, stop: int | None = None) -> NDArray[Any]:
        """The position of the one in the rows ``first`` to ``stop``, or all, (n,) unsigned."""
        index = self.codes(first, self.shape[0] if stop is None else stop)
        if index.size and int(index.max()) >= self.shape[1]:
            raise ArtifactError(f"onehot: index {int(index.max())} in rows of {self.shape[1]}")
        return index

    def codes(self, first: int, stop: int) -> NDArray[Any]:
        """The same as they are stored, for a reader who checks them: a view where they are whole bytes."""
        bits = _bits(self.shape[1])
        if bits in (8, 16):
            return self.indices[first * bits // 8 : stop * bits // 8].view("<u2" if bits == 16 else np.uint8)
        start = first // 8 * 8  # where codes begin with a byte
        packed = self.indices[start * bits // 8 : bits_kernel.packed_size(stop, bits)]
        return np.asarray(bits_kernel.unpack(packed, bits, max(stop - start, 0)))[first - start :]

    def decode(self) -> NDArray[Any]:
        return self._rows(0, self.shape[0])

    def cuts(self) -> Sequence[tuple[slice, slice]]:
        return [(rows, slice(0, self.shape[1])) for rows in self._runs(max(1, _CUT // self.shape[1]))]

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        return self._rows(rows.start, rows.stop)

    def matmul(self, x: NDArray[Any]) -> NDArray[Any]:
        out = np.empty((self.shape[0], x.shape[1]), np.result_type(self.dtype, x.dtype))
        for rows in self._runs(_CUT):
            out[rows] = x[self.index(rows.start, rows.stop)]
        return out

    def rmatmul(self, x: NDArray[Any]) -> NDArray[Any]:
        sums = np.zeros((x.shape[0], self.shape[1]))
        for rows in self._runs(_CUT):
            index = self.index(rows.start, rows.stop)
            for total, weights in zip(sums, x[:, rows], strict=True):
                total += np.bincount(index, weights, self.shape[1])
        return sums.astype(np.result_type(self.dtype, x.dtype))

    def _runs(self, step: int) -> list[slice]:
        return [slice(i, min(i + step, self.shape[0])) for i in range(0, self.shape[0], step)]

    def _rows(self, first: int, stop: int) -> NDArray[Any]:
        out = np.zeros((stop - first, self.shape[1]), self.dtype)
        out[np.arange(stop - first), self.index(first, stop)] = 1
        return out

    def placed(self, put: Callable[[NDArray[Any]], Any]) -> Any:
        self.index()  # a GPU would look for what is not there
        return super().placed(put)

    def index_on_gpu(self) -> Any:
        """The position of the one in each row, a CuPy array (n,) unsigned."""
        return bits_kernel.unpack(self.indices, _bits(self.shape[1]), self.shape[0])

    @property
    def on_gpu(self) -> bool:
        return True

    def decode_on_gpu(self) -> Any:
        index = self.index_on_gpu()
        return (index[:, None] == namespace(index).arange(self.shape[1])).astype(self.dtype)

    def nearest(self, x: NDArray[Any]) -> OneHot:
        return self.encode(x.argmax(axis=1), self.shape[1], self.dtype)

    def points(self) -> Points:
        return Points(levels=np.array([0.0, 1.0]))


def _bits(width: int) -> int:
    return max(1, (width - 1).bit_length())

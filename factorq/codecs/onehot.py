"""One-hot rows as indices: the assignment of vector quantization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError
from ..kernels import bits as bits_kernel
from .base import Encoded, Packed, Points, buffer


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

    def index(self) -> NDArray[Any]:
        """The position of the one in each row, (n,) unsigned."""
        index = bits_kernel.unpack(self.indices, _bits(self.shape[1]), self.shape[0])
        if index.size and int(index.max()) >= self.shape[1]:
            raise ArtifactError(f"onehot: index {int(index.max())} in rows of {self.shape[1]}")
        return np.asarray(index)

    def decode(self) -> NDArray[Any]:
        out = np.zeros(self.shape, self.dtype)
        out[np.arange(self.shape[0]), self.index()] = 1
        return out

    def nearest(self, x: NDArray[Any]) -> OneHot:
        return self.encode(x.argmax(axis=1), self.shape[1], self.dtype)

    def points(self) -> Points:
        return Points(levels=np.array([0.0, 1.0]))


def _bits(width: int) -> int:
    return max(1, (width - 1).bit_length())

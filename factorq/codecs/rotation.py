"""Orthonormal matrices as quantized angles: the bases of transform coding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..kernels import bits as bits_kernel
from ..kernels import givens as kernel
from .base import Encoded, Points, buffer


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Rotation(Encoded):
    """An orthonormal matrix (m, m), its columns the basis vectors, as ``leading * (2 m - leading - 1) / 2`` angles.

    The first ``leading`` columns are free, the others complete them; ``leading = m - 1`` gives any basis, up to the
    signs of its vectors. What is decoded is orthonormal to rounding whatever the angles are. In ``W = A @ core`` the
    core is ``A.T @ W``.

    Parameters
    ----------
    bits : int
        Bits per angle, 1 to 16; an angle is off by at most ``pi / 2**(bits + 1)``.
    leading : int
        Columns that are free, 1 to m - 1.
    codes : NDArray, (ceil(angles * bits / 8),) uint8
        The packed angles.

    Examples
    --------
    >>> r = Rotation.encode(np.array([[0.6, -0.8], [0.8, 0.6]]))
    >>> r.nbytes, np.round(r.decode(), 2)
    (1, array([[ 0.6, -0.8],
           [ 0.8,  0.6]]))
    """

    id: ClassVar[str] = "rotation"
    bits: int
    leading: int
    codes: NDArray[Any] = buffer()

    @classmethod
    def encode(cls, A: NDArray[Any], bits: int = 8, leading: int | None = None) -> Rotation:
        """Write A (m, m), float32 or float64, with orthonormal columns; the sign of each column is lost.

        Parameters
        ----------
        A : NDArray, (m, m)
            The basis vectors as columns, the most important ones first.
        bits : int
            Bits per angle.
        leading : int or None
            Columns to write; the others are replaced by some that complete them. None: all.
        """
        m = A.shape[0]
        first = m - 1 if leading is None else leading
        codes = kernel.encode(np.array(A[:, :first], np.float64, order="C"), bits)
        return cls.from_codes(codes, m, bits, first, str(A.dtype))

    @classmethod
    def from_codes(cls, codes: NDArray[np.uint16], m: int, bits: int, leading: int, dtype: str = "float32") -> Rotation:
        """The matrix (m, m) of given angles (n,), as :func:`factorq.kernels.givens.encode` writes them."""
        packed = bits_kernel.pack(codes.astype(np.uint8 if bits <= 8 else np.uint16), bits)
        return cls(shape=(m, m), dtype=dtype, bits=bits, leading=leading, codes=packed)

    @staticmethod
    def predict(m: int, bits: int, leading: int) -> int:
        """Stored bytes of a matrix (m, m)."""
        return bits_kernel.packed_size(kernel.angle_count(m, leading), bits)

    def check(self) -> None:
        self.require(isinstance(self.bits, int) and 1 <= self.bits <= kernel.MAX_BITS, f"bits {self.bits!r}")
        m = self.shape[0] if self.shape else 0
        self.require(self.shape == (m, m) and 2 <= m <= kernel.MAX_ORDER, f"shape {self.shape} is not square")
        # At least one column: angles that cost no bytes could ask for a large matrix.
        leading_ok = isinstance(self.leading, int) and 1 <= self.leading < m
        self.require(leading_ok, f"leading {self.leading!r} is not in 1..{m - 1}")
        self.expect("codes", "uint8", (self.predict(m, self.bits, self.leading),))

    def decode(self) -> NDArray[Any]:
        return kernel.decode(self._angles(), self.shape[0], self.leading, self.bits).astype(self.dtype)

    def matmul(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._turned(x, False) if x.shape[1] <= self.shape[0] else super().matmul(x)

    def rmatmul(self, x: NDArray[Any]) -> NDArray[Any]:
        return self._turned(x.T, True).T if len(x) <= self.shape[0] else super().rmatmul(x)

    @property
    def on_gpu(self) -> bool:
        return True

    def placed(self, put: Callable[[NDArray[Any]], Any]) -> Any:
        return self.altered(codes=put(self.decode()))  # the matrix in place of its angles, read on the host, once

    def decode_on_gpu(self) -> Any:
        return self.codes.copy()  # not what further products read

    def matmul_on_gpu(self, x: Any) -> Any:
        return self.codes @ x

    def rmatmul_on_gpu(self, x: Any) -> Any:
        return x @ self.codes

    def _turned(self, x: NDArray[Any], transposed: bool) -> NDArray[Any]:
        """The product by the rotations themselves: up to m columns they take no longer than to decode the matrix."""
        product = kernel.apply(self._angles(), x.astype(np.float64), self.leading, self.bits, transposed)
        return product.astype(np.result_type(x.dtype, self.dtype))

    def _angles(self) -> NDArray[np.uint16]:
        count = kernel.angle_count(self.shape[0], self.leading)
        return np.asarray(bits_kernel.unpack(self.codes, self.bits, count), np.uint16)

    def nearest(self, x: NDArray[Any]) -> Rotation:
        return self.encode(x, self.bits, self.leading)

    def points(self) -> Points:
        return Points()

    def summary(self) -> str:
        return f"{super().summary()}, {kernel.angle_count(self.shape[0], self.leading)} angles of {self.bits} bits"

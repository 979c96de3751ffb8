"""Integers or half-integers as packed codes, without a scale: the factors whose scale stands elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..kernels import bits as bits_kernel
from .base import Grouped, packed_rows


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Integers(Grouped):
    """``x = 2**exponent * (code - zero)``: evenly spaced numbers of spacing ``2**exponent``.

    Parameters
    ----------
    zero : float
        The code that stands for 0: ``2**(bits - 1)`` for integers, ``(2**bits - 1) / 2`` for half-integers.

    Examples
    --------
    >>> x = Integers.encode(np.array([[-1.5, 0.5], [1.5, -0.5]]), bits=2, zero=1.5)
    >>> x.decode(), x.nbytes  # 4 codes of 2 bits
    (array([[-1.5,  0.5],
           [ 1.5, -0.5]]), 1)
    """

    id: ClassVar[str] = "integers"
    zero: float

    @classmethod
    def encode(cls, x: NDArray[Any], *, bits: int, zero: float) -> Integers:
        """Write ``x`` (float32 or float64) as the nearest numbers ``code - zero``."""
        return cls(
            shape=x.shape, dtype=str(x.dtype), bits=bits, group=None, axis=None, exponent=0,
            zero=zero, codes=_codes(x, bits, zero, 0),
        )  # fmt: skip

    @staticmethod
    def predict(size: int, bits: int) -> int:
        """Stored bytes of ``size`` numbers."""
        return bits_kernel.packed_size(size, bits)

    def check(self) -> None:
        super().check()
        plain = self.scales is None and self.group is None and self.axis is None
        self.require(plain, "scales, groups or an axis")
        self.require(abs(self.exponent) <= 1000, f"exponent {self.exponent!r} is out of range")
        self.require(
            isinstance(self.zero, float | int) and 0 <= self.zero < 1 << 16, f"zero {self.zero!r} is out of range"
        )

    def nearest(self, x: NDArray[Any]) -> Integers:
        return replace(self, codes=_codes(x, self.bits, self.zero, self.exponent))

    def times(self, exponent: int) -> Integers:
        """The same codes for numbers ``2**exponent`` times as large."""
        return replace(self, exponent=self.exponent + exponent)

    def table_levels(self) -> NDArray[Any]:
        return np.arange(2.0**self.bits) - self.zero

    def affine(self) -> dict[str, Any]:
        return {"zero": float(self.zero)}

    def values_on_gpu(self, codes: Any) -> Any:
        return codes.astype(self.dtype) - self.zero

    def decode_block(self, codes: NDArray[Any], rows: slice, scales: NDArray[Any] | None) -> NDArray[Any]:
        return codes.astype(self.dtype) - self.zero


def _codes(x: NDArray[Any], bits: int, zero: float, exponent: int) -> NDArray[Any]:
    whole = np.uint8 if bits <= 8 else np.uint16
    top = 2.0**bits - 1
    return packed_rows(x, None, bits, exponent, lambda block, _: np.clip(np.rint(block + zero), 0, top).astype(whole))

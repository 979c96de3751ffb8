"""Grouped integers: codes of 1 to 16 bits on an evenly spaced grid, with a float16 scale per group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import contiguous, is_cupy, to_host
from ..kernels import bits as bits_kernel
from ..kernels import grid as kernel
from ..measure import scaled
from .base import Grouped, Points, buffer, groups_shape, normal_exponent, packed_rows, to_matrix


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Grid(Grouped):
    """``x = 2**exponent * scale * (code - zero)``; with minima, ``x = 2**exponent * (scale * code + minimum)``.

    ``zero = (2**bits - 1) / 2`` is the mid-rise grid (symmetric, without 0), ``zero = 2**(bits - 1)`` the mid-tread
    grid (with 0 and one more level on one side). Scales minimise the squared error of their group.

    Parameters
    ----------
    zero : float
        The code that stands for 0, common to all groups.
    minima : NDArray, as ``scales``, or None
        The value of code 0 in each group of an asymmetric grid.

    Examples
    --------
    >>> W = np.array([[-3.0, -1.0, 1.0, 3.0]], np.float32)
    >>> g = Grid.encode(W, bits=2, group=4, axis=1, zero=1.5)
    >>> g.decode(), g.nbytes  # 4 codes of 2 bits, one float16 scale
    (array([[-3., -1.,  1.,  3.]], dtype=float32), 3)
    """

    id: ClassVar[str] = "grid"
    zero: float
    minima: NDArray[Any] | None = buffer(None)

    @classmethod
    def encode(cls, x: NDArray[Any], *, bits: int, group: int | None, axis: int | None, zero: float | None) -> Grid:
        """Write ``x`` (float32 or float64) on the grid of least squared error.

        Parameters
        ----------
        x : NDArray, any shape
            The array; groups run along ``axis`` as in :class:`Grouped`.
        zero : float or None
            The code of 0; None fits a minimum to each group (an asymmetric grid).

        A CuPy array is coded on its GPU, and what is stored comes to the host.
        """
        exponent = normal_exponent(x)
        if is_cupy(x):
            matrix = contiguous(scaled(to_matrix(x, axis), -exponent))
            run = group or max(matrix.shape[1], 1)
            found: Sequence[Any] = (
                kernel.fit_encode_asymmetric(matrix, bits, run)
                if zero is None
                else kernel.fit_encode(matrix, bits, run, zero)
            )
            stored = dict(zip(("scales", "minima"), map(to_host, found[1:]), strict=False))
            packed = to_host(bits_kernel.pack(found[0].reshape(-1), bits))
            return cls(
                shape=tuple(x.shape), dtype=str(x.dtype), bits=bits, group=group, axis=axis, exponent=exponent,
                zero=zero or 0.0, codes=packed, **stored,
            )  # fmt: skip
        scales = np.empty(groups_shape(x.shape, axis, group), np.float16)
        minima = np.empty_like(scales) if zero is None else None

        def fit(block: NDArray[Any], rows: slice) -> NDArray[Any]:
            run = group or max(block.shape[1], 1)
            if minima is not None:
                codes, scales[rows], minima[rows] = kernel.fit_encode_asymmetric(block, bits, run)
            else:
                codes, scales[rows] = kernel.fit_encode(block, bits, run, zero or 0.0)
            return codes

        codes = packed_rows(x, axis, bits, exponent, fit)
        return cls(
            shape=x.shape, dtype=str(x.dtype), bits=bits, group=group, axis=axis, exponent=exponent,
            zero=zero or 0.0, codes=codes, scales=scales, minima=minima,
        )  # fmt: skip

    @classmethod
    def of_integers(
        cls, k: NDArray[Any], scales: NDArray[Any], *, bits: int, axis: int | None, dtype: str, exponent: int = 0
    ) -> Grid:
        """Write ``scales * k * 2**exponent`` for half-integers ``k`` within the mid-rise grid of ``bits``.

        Parameters
        ----------
        scales : NDArray, (rows,) float64
            One per row of the matrix of ``axis``: per column of k for axis 0. Rounded to float16, whatever their size.
        """
        zero = 2.0 ** (bits - 1) - 0.5
        shift = normal_exponent(scales)
        codes = packed_rows(
            k, axis, bits, 0, lambda block, _: (block + zero).astype(np.uint8 if bits <= 8 else np.uint16)
        )
        return cls(
            shape=k.shape, dtype=dtype, bits=bits, group=None, axis=axis, exponent=exponent + shift, zero=zero,
            codes=codes, scales=scaled(scales, -shift).astype(np.float16).reshape(-1, 1),
        )  # fmt: skip

    def nearest(self, x: NDArray[Any]) -> Grid:
        scales, minima = np.asarray(self.scales), self.minima

        def codes_of(block: NDArray[Any], rows: slice) -> NDArray[Any]:
            run = self.group or max(block.shape[1], 1)
            if minima is None:
                return np.asarray(kernel.encode(block, scales[rows], self.bits, run, self.zero))
            return np.asarray(kernel.encode_asymmetric(block, scales[rows], minima[rows], self.bits, run))

        return replace(self, codes=packed_rows(x, self.axis, self.bits, self.exponent, codes_of))

    def table_levels(self) -> NDArray[Any]:
        return np.arange(2.0**self.bits) - self.zero

    def points(self) -> Points:
        points = super().points()
        return points if self.minima is None else replace(points, offset=self.spread(self.minima))

    @staticmethod
    def predict(
        shape: tuple[int, ...], bits: int, group: int | None, axis: int | None, asymmetric: bool = False
    ) -> int:
        """Stored bytes of an array of ``shape``, known without its values."""
        rows, groups = groups_shape(shape, axis, group)
        return bits_kernel.packed_size(math.prod(shape), bits) + 2 * rows * groups * (2 if asymmetric else 1)

    def check(self) -> None:
        super().check()
        self.require(self.scales is not None, "no scales")
        if self.minima is not None:
            self.expect("minima", "float16", self.scales_shape)
            self.require(bool(np.isfinite(self.minima).all()), "minima that are not finite")
        self.require(
            isinstance(self.zero, float | int) and 0 <= self.zero < 1 << 16, f"zero {self.zero!r} is out of range"
        )

    def affine(self) -> dict[str, Any]:
        return {"zero": float(self.zero)} if self.minima is None else {"minima": self.minima}

    def values_on_gpu(self, codes: Any) -> Any:
        run = self.group or max(codes.shape[1], 1)
        if self.minima is None:
            return kernel.decode(codes, self.scales, run, float(self.zero), self.dtype)
        return kernel.decode_asymmetric(codes, self.scales, self.minima, run, self.dtype)

    def decode_block(self, codes: NDArray[Any], rows: slice, scales: NDArray[Any] | None) -> NDArray[Any]:
        run = self.group or max(codes.shape[1], 1)
        if self.minima is None:
            return np.asarray(kernel.decode(codes, scales, run, float(self.zero), self.dtype))
        return np.asarray(kernel.decode_asymmetric(codes, scales, self.minima[rows], run, self.dtype))

"""Scalar codebooks: codes that point to levels shared by the whole array, with or without a scale per group."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import beside, is_cupy, namespace
from ..errors import ArtifactError
from ..kernels import bits as bits_kernel
from ..kernels import levels as kernel
from ..measure import scaled
from .base import Grouped, buffer, groups_shape, normal_exponent, packed_rows

SHIFTS = {"nonzero": 0.0, "nonzero+1/4": 0.25, "nonzero+1/2": 0.5}
"""Names of the integers without 0, with what is added to their magnitudes."""

TABLES = ("nf4", *SHIFTS)
"""Names of levels that need not be stored."""


def table_levels(table: str, bits: int) -> NDArray[Any]:
    """The (2**bits,) levels of a standard table, ascending, float64.

    ``"nf4"``: 16 quantiles of a normal distribution with an exact 0 (Dettmers et al. 2023, arXiv 2305.14314).
    ``"nonzero"``: the integers -2**(bits-1) .. 2**(bits-1) without 0, for values whose zeros a mask already stores;
    ``"nonzero+1/4"`` and ``"nonzero+1/2"`` with magnitudes larger by so much.
    """
    if table == "nf4" and bits == 4:
        return kernel.NF4
    if table in SHIFTS:
        positive = np.arange(1.0, 2 ** (bits - 1) + 1) + SHIFTS[table]
        return np.concatenate([-positive[::-1], positive])
    raise ArtifactError(f"codebook: table {table!r} is not known for {bits} bits")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Codebook(Grouped):
    """``x = 2**exponent * scale * levels[code]``; without scales, ``2**exponent * levels[code]``.

    Parameters
    ----------
    table : str or None
        The name of a standard table, as in :func:`table_levels`; None if the levels are stored.
    levels : NDArray, (2**bits,) float32 or float64, or None
        The stored levels, ascending.

    Examples
    --------
    >>> x = np.array([[0.0, 0.0, 1.0, 5.0]], np.float32)
    >>> Codebook.encode(x, bits=2, group=None, axis=None, levels=np.array([0.0, 1, 5, 5])).decode()
    array([[0., 0., 1., 5.]], dtype=float32)
    """

    id: ClassVar[str] = "codebook"
    table: str | None = None
    levels: NDArray[Any] | None = buffer(None)

    @classmethod
    def encode(
        cls, x: NDArray[Any], *, bits: int, group: int | None, axis: int | None, levels: NDArray[Any] | str
    ) -> Codebook:
        """Write ``x`` (float32 or float64) with given levels.

        Parameters
        ----------
        levels : NDArray (2**bits,) or str
            Ascending levels, or the name of a standard table. Levels without group scales are in the units of ``x``;
            with them they are relative.
        group : int or None
            Entries that share a scale; None for no scales at all.
        """
        table = levels if isinstance(levels, str) else None
        exponent = normal_exponent(x)
        values = np.asarray(table_levels(levels, bits) if isinstance(levels, str) else levels, dtype=x.dtype)
        if group is None:
            values = scaled(values, -exponent)
        scales = np.empty(groups_shape(x.shape, axis, group), np.float16) if group else None

        def fit(block: NDArray[Any], rows: slice) -> NDArray[Any]:
            if scales is None or group is None:
                return kernel.encode(block, values, None, None)
            codes, scales[rows] = kernel.fit_encode(block, values, group)
            return codes

        codes = packed_rows(x, axis, bits, exponent, fit)
        return cls(
            shape=x.shape, dtype=str(x.dtype), bits=bits, group=group, axis=axis, exponent=exponent, table=table,
            codes=codes, scales=scales, levels=None if table else values,
        )  # fmt: skip

    @classmethod
    def of_integers(cls, k: NDArray[Any], *, bits: int, shift: float, dtype: str) -> Codebook:
        """Write ``sign(k) (|k| + shift)`` for integers ``k`` (n,) without 0, at most ``2**(bits - 1)`` in magnitude."""
        table = next(name for name, offset in SHIFTS.items() if offset == shift)
        codes = np.where(k < 0, k + 2 ** (bits - 1), k + 2 ** (bits - 1) - 1)
        packed = bits_kernel.pack(codes.astype(np.uint8 if bits <= 8 else np.uint16), bits)
        return cls(
            shape=k.shape, dtype=dtype, bits=bits, group=None, axis=None, exponent=0, table=table, codes=packed
        )  # fmt: skip

    def nearest(self, x: NDArray[Any]) -> Codebook:
        values = self.table_levels().astype(x.dtype)

        def codes_of(block: NDArray[Any], rows: slice) -> NDArray[Any]:
            scales = None if self.scales is None else self.scales[rows]
            return kernel.encode(block, values, scales, self.group)

        return replace(self, codes=packed_rows(x, self.axis, self.bits, self.exponent, codes_of))

    def table_levels(self) -> NDArray[Any]:
        return np.asarray(table_levels(self.table, self.bits) if self.table else self.levels, np.float64)

    @property
    def even(self) -> bool:
        return False

    @staticmethod
    def predict(shape: tuple[int, ...], bits: int, group: int | None, axis: int | None, level_bytes: int) -> int:
        """Stored bytes of an array of ``shape`` with levels of ``level_bytes`` each (0 for a standard table)."""
        scales = math.prod(groups_shape(shape, axis, group)) if group else 0
        return int(bits_kernel.packed_size(math.prod(shape), bits) + 2 * scales + level_bytes * 2**bits)

    def check(self) -> None:
        super().check()
        self.require((self.scales is None) == (self.group is None), "scales without a group, or a group without scales")
        if self.table is None:
            self.expect("levels", self.dtype, (2**self.bits,))
            levels = self.levels
            sound = levels is not None and bool(np.all(levels[1:] >= levels[:-1])) and np.abs(levels).max() <= 2.0**15
            self.require(bool(sound), "levels out of order or out of range")
        else:
            self.require(
                self.levels is None and len(table_levels(self.table, self.bits)) == 2**self.bits, "levels stored"
            )

    def affine(self) -> dict[str, Any]:
        levels = self._levels_on_gpu if is_cupy(self.codes) else self.table_levels()
        return {"levels": levels.astype(np.float32)}

    def values_on_gpu(self, codes: Any) -> Any:
        values = self._levels_on_gpu[codes]
        if self.scales is None:
            return values
        scales = namespace(codes).repeat(self.scales.astype(self.dtype), self.group, axis=1)
        return scales[:, : codes.shape[1]] * values

    @cached_property
    def _levels_on_gpu(self) -> Any:
        if self.levels is not None:
            return self.levels.astype(self.dtype)
        return beside(self.table_levels().astype(self.dtype), self.codes)

    def decode_block(self, codes: NDArray[Any], rows: slice, scales: NDArray[Any] | None) -> NDArray[Any]:
        levels = self.table_levels().astype(self.dtype)
        return kernel.decode(codes, levels, scales, self.group, self.dtype)

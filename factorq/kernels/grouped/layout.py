"""What a grouped matrix is, and which of them can be multiplied as they are packed."""

from __future__ import annotations

from typing import Any, NamedTuple

LANES = 8
"""Codes of a step: 8 codes of b bits are b bytes."""
SEGMENT = 1024
"""Codes that are summed before the scale is applied, where a row has only one."""
MOST_LEVELS = 16
"""Levels of a codebook that fit in registers."""


class Matrix(NamedTuple):
    """``M = scales * (codes - zero) + minima``, or ``scales * levels[codes]``: (rows, n), packed.

    Parameters
    ----------
    codes : (ceil(rows * n * bits / 8),) uint8
        Row after row, as :mod:`factorq.kernels.bits` packs them.
    bits : int, 1..16
    shape : (rows, n)
    scales : (rows or 1, ceil(n / group)) float16, or None
        A single row of them stands for all rows; None for scales of 1.
    group : int or None
        Entries of a row that share a scale; None for the whole row.
    zero : float
        The code that stands for 0; 0 where there are minima or levels.
    minima : as ``scales``, or None
    levels : (2**bits,) float32, or None
    """

    codes: Any
    bits: int
    shape: tuple[int, int]
    scales: Any = None
    group: int | None = None
    zero: float = 0.0
    minima: Any = None
    levels: Any = None

    @property
    def per_row(self) -> int:
        """Scales of a row."""
        return 1 if self.scales is None else int(self.scales.shape[1])

    @property
    def segment(self) -> int:
        """Codes of a row that are summed before a scale is applied; the last ones may be fewer."""
        return SEGMENT if self.per_row == 1 else int(self.group or self.shape[1])


def covers(bits: int, n: int, group: int | None, levels: int = 0) -> bool:
    """Whether rows of ``n`` codes start at bytes, groups are made of whole steps, and levels are few.

    Examples
    --------
    >>> covers(3, 4096, 128), covers(3, 4095, 128), covers(3, 4096, 20), covers(5, 4096, None, levels=32)
    (True, False, False, False)
    """
    whole = group is None or group >= n or group % LANES == 0
    return 1 <= bits <= 16 and n % LANES == 0 and whole and levels <= MOST_LEVELS

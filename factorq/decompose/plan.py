"""What the front door would do: the method, the reason, the size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..measure import bits_per_weight as per_weight
from ..methods import Method
from ..methods.base import most_bytes


@dataclass(frozen=True)
class Plan:
    """What :func:`decompose` would do: the method, the reason, and what it is expected to store.

    Attributes
    ----------
    method : Method
        The method with its settings.
    reason : str
        Why this one.
    nbytes : int
        Stored bytes, an upper bound where they depend on the values.
    bits_per_weight : float
        The same per weight.
    """

    method: Method
    reason: str
    shape: tuple[int, ...]
    dtype: str
    draft: Method | None = None
    free: frozenset[str] = frozenset()
    store: str | None = None

    @property
    def nbytes(self) -> int:
        """Stored bytes that the method predicts."""
        return most_bytes(self.method, self.shape, self.dtype, self.store)

    @property
    def bits_per_weight(self) -> float:
        """``8 * nbytes / W.size`` as predicted."""
        return per_weight(self.nbytes, math.prod(self.shape))

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        size = f"at most {self.bits_per_weight:.4g} bits per weight ({self.nbytes:,} bytes)"
        return f"{self.method} for a {shape} {self.dtype} array: {self.reason}; {size}"

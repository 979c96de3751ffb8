"""A 0/1 mask around any inner codec: only the kept entries are coded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError
from ..kernels import gaps
from ..kernels.bits import packed_size
from .base import Encoded, Masked, Packed, buffer, widths


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Mask(Masked):
    """``x[mask] = inner, x[~mask] = 0``, the mask as a bitmap or as Golomb-coded gaps, whichever is smaller.

    Parameters
    ----------
    parameter : int or None
        The parameter of the gap code; None for a bitmap of one bit per entry.
    positions : NDArray, (k,) uint8
        The coded mask.
    inner : Encoded, shape (count,)
        The kept entries in C order.

    Examples
    --------
    >>> from factorq.codecs import Dense
    >>> x = np.array([0.0, 2.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0], np.float32)
    >>> m = Mask.encode(x != 0, Dense.encode(x[x != 0]))
    >>> m.decode(), m.nbytes  # 2 float32 values and 1 byte of gaps
    (array([0., 2., 0., 0., 0., 3., 0., 0., 0.], dtype=float32), 9)
    """

    id: ClassVar[str] = "mask"
    parameter: int | None
    positions: NDArray[Any] = buffer()
    inner: Encoded = buffer()

    @classmethod
    def encode(cls, mask: NDArray[np.bool_], inner: Encoded) -> Mask:
        """Store ``mask`` (any shape) around the coded kept entries ``inner`` (count,)."""
        flat = np.ascontiguousarray(mask).reshape(-1)
        parameter: int | None
        parameter, nbytes = gaps.plan(flat)
        if nbytes < packed_size(flat.size, 1):
            positions, parameter = gaps.encode(flat)
        else:
            positions, parameter = np.packbits(flat, bitorder="little"), None
        return cls(shape=mask.shape, dtype=inner.dtype, parameter=parameter, positions=positions, inner=inner)

    def check(self) -> None:
        super().check()
        if self.parameter is None:
            self.expect("positions", "uint8", (packed_size(self.size, 1),))
        else:
            sound = type(self.parameter) is int and 2 <= self.parameter < 1 << 50
            self.require(sound, f"parameter {self.parameter!r} is no integer of at least 2")
            self.expect("positions", "uint8", None)

    def packed(self) -> dict[str, Packed]:
        bitmap = {} if self.parameter is not None else {"positions": Packed(1, self.size, widths(self.shape))}
        return bitmap | super().packed()

    def versions(self) -> tuple[Encoded, ...]:
        if self.parameter is None:
            return ()
        positions = np.packbits(self.mask().reshape(-1), bitorder="little")
        return (replace(self, parameter=None, positions=positions),)

    def mask(self) -> NDArray[np.bool_]:
        """Which entries are kept: ``shape``, bool."""
        count = self.inner.size
        if self.parameter is None:
            flat = np.unpackbits(self.positions, count=self.size, bitorder="little").view(np.bool_)
            if int(np.count_nonzero(flat)) != count:
                raise ArtifactError(f"mask: {int(np.count_nonzero(flat))} bits set, expected {count}")
        else:
            flat = gaps.decode(self.positions, self.parameter, self.size, count)
        return flat.reshape(self.shape)

    def summary(self) -> str:
        how = "bitmap" if self.parameter is None else "gaps"
        return f"{super().summary()}, {self.density:.1%} kept ({how}), {self.inner!r}"

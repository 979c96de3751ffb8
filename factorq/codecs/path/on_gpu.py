"""Streams of static tables on a GPU: parsed on the host once, all blocks decoded side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError
from ...kernels import path as kernel
from ...kernels.trellis.machine import Machine
from ...measure import scaled
from .blocks import Block, Layout, cut, extent, joined
from .static import Static

Put = Callable[[NDArray[Any]], Any]


@dataclass(frozen=True, eq=False)
class OnGpu:
    """A parsed stream whose words are in the memory of a GPU.

    Parameters
    ----------
    step : float
        Distance of the reproduction points.
    blocks : tuple
        Words, offsets, places, classes and rows, as :func:`factorq.kernels.path.decode_blocks` takes them.
    coder : Coder
        The tables on the host.
    tables : tuple
        The tables and the trellis on the GPU.
    """

    step: float
    layout: Layout
    grid: list[Block]
    blocks: tuple[Any, Any, Any, Any, Any]
    coder: kernel.Coder
    tables: tuple[Any, Any, Any, Any, Any]

    @classmethod
    def of(cls, parsed: Static, step: float, layout: Layout, grid: list[Block], trellis: Machine, put: Put) -> OnGpu:
        """Put all that decoding reads where ``put`` puts it, and read it once to see whether it can be read.

        Raises
        ------
        ArtifactError
            If a block is damaged.
        """
        sizes = np.array([extent(layout, block) for block in grid])
        per_block = sizes[:, 0] * sizes[:, 1]
        places = np.concatenate([[0], np.cumsum(sizes.prod(axis=1))])
        classes = np.concatenate([cut(parsed.classes[:, :, None], (rows, slice(1))) for rows, _ in grid])
        rows = np.stack([np.cumsum(per_block) - per_block, sizes[:, 2], np.zeros_like(per_block)])
        coder = parsed.coder
        made = cls(
            step, layout, grid,
            (put(parsed.words.astype(np.uint16)), put(parsed.offsets), put(places), put(classes), put(rows)),
            coder,
            (put(coder.frequency), put(coder.start), put(coder.slots), put(trellis.parity), put(trellis.successor)),
        )  # fmt: skip
        if not bool(made._decoded()[1].all()):
            raise ArtifactError("trellis: a damaged stream")
        return made

    def numbers(self, dtype: str) -> Any:
        """``step`` times the integers, a CuPy array (P, R, C) of ``dtype``: the bits that the host gives."""
        k = joined(self._decoded()[0], self.layout, self.grid)
        mantissa, exponent = math.frexp(self.step)
        far = abs(exponent) > 100
        out = k.astype(dtype)
        out *= out.dtype.type(mantissa if far else self.step)
        return scaled(out, exponent) if far else out

    def _decoded(self) -> tuple[Any, Any]:
        return kernel.decode_blocks(*self.blocks, self.coder, self.tables, math.prod(self.layout))


def outliers_on_gpu(outliers: NDArray[Any] | None, dtype: str, put: Put) -> tuple[Any, Any] | None:
    """Places (n,) int64 and values (n,) of ``dtype``; of several at one place the last, as on the host."""
    if outliers is None:
        return None
    place, last = np.unique(outliers[0, ::-1].astype(np.int64), return_index=True)
    return put(place), put(np.ascontiguousarray(outliers[1, ::-1][last], dtype))

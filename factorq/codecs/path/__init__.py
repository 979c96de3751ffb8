"""Paths through a trellis: integers times one step, entropy coded in blocks that decode on their own."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import refuse
from ...kernels import trellis as kernel
from ...kernels.threads import each
from ...kernels.trellis.machine import machine
from ...measure import scaled
from ..base import Encoded, Points, Shadow, buffer
from . import mixed, static
from .blocks import Block, Layout, blocks, strips
from .on_gpu import OnGpu, outliers_on_gpu
from .search import Classes, Rates, in_steps
from .shadow import Walked

__all__ = ["Path", "grid", "preferred", "rounded", "strips"]

_STEP = struct.Struct("<Hh")
_ALL = 1 << 20  # weights up to which both models are written out and compared
_SAMPLE = 1 << 16  # weights on which they are compared beyond
_PIECE = 1 << 15  # integers that become numbers at a time
_PAYS = 0.98  # share of the static size under which arrays beyond that are coded by mixing, 20 times slower
_MODELS = {"static": static, "mixing": mixed}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Path(Encoded):
    """``x = step * k``: integers k along a path of a trellis, of least distortion plus weighted rate.

    Entropy-coded trellis-coded quantization (Marcellin and Fischer 1990, Fischer and Wang 1992). The array is read as
    planes (P, R, C), whose blocks of rows and columns are decoded independently of each other.

    Parameters
    ----------
    states : int
        States of the trellis: 1 (every weight alone), 4, 8, .. 256.
    layout : tuple of int
        P, R, C: planes (coefficients of a transform), rows and columns, P * R * C entries.
    model : "static" or "mixing"
        Probabilities from stored tables, or adaptive ones from the neighbourhood of each weight.
    stream : NDArray, (n,) uint8
        The step, tables, directory and code words.
    outliers : NDArray, (2, n) float64, or None
        Places and values of entries that are too far out to be counted in steps.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    >>> path = Path.encode(x, step=0.25, states=8)
    >>> round(8 * path.nbytes / x.size, 1), round(float(np.mean((x - path.decode()) ** 2)), 3)
    (3.0, 0.017)
    """

    id: ClassVar[str] = "path"
    states: int
    layout: Layout
    model: Literal["static", "mixing"]
    stream: NDArray[Any] = buffer()
    outliers: NDArray[Any] | None = buffer(None)

    @classmethod
    def encode(
        cls,
        x: NDArray[Any],
        *,
        step: float,
        states: int,
        layout: Layout | None = None,
        model: Literal["auto", "static", "mixing"] = "auto",
    ) -> Path:
        """Write ``x`` (float32 or float64) with reproduction points ``step`` apart.

        Parameters
        ----------
        layout : tuple of int, optional
            How to read ``x`` as planes (P, R, C); by default as the one plane (shape[0], the rest).
        model : "auto", "static" or "mixing"
            "auto" takes the smaller one; beyond 65,536 entries "mixing" only if it is smaller by 2 %.
        """
        layout = layout or (1, x.shape[0] if x.shape else 1, math.prod(x.shape[1:]))
        stored = _pack_step(step)
        core, outliers = in_steps(x.reshape(layout), _unpack_step(stored))
        if model == "auto" and core.size > _ALL:
            model = _preferred(core, states)
        models = [m for m in _MODELS if model in ("auto", m)]
        streams = {m: _MODELS[m].encode(core, states) for m in models}
        pays = 1.0 if core.size <= _SAMPLE else _PAYS
        best = min(streams, key=lambda m: len(streams[m]) / (pays if m == "mixing" else 1.0))
        return cls(
            shape=x.shape, dtype=str(x.dtype), states=states, layout=layout,
            model=cast(Literal["static", "mixing"], best),
            stream=np.frombuffer(stored + streams[best], np.uint8), outliers=outliers,
        )  # fmt: skip

    @classmethod
    def of_integers(
        cls, k: NDArray[np.int32], *, step: float, states: int, model: Literal["static", "mixing"], dtype: str
    ) -> Path:
        """Write the integers ``k`` (R, C): paths from state 0 through each block of :func:`grid` as they are."""
        stream = _pack_step(step) + _MODELS[model].write_path(k[None], states)
        layout = (1, *k.shape)
        return cls(
            shape=k.shape, dtype=dtype, states=states, layout=layout, model=model,
            stream=np.frombuffer(stream, np.uint8),
        )  # fmt: skip

    def check(self) -> None:
        self.require(type(self.states) is int and self.states in kernel.STATES, f"{self.states!r} states")
        sound = isinstance(self.layout, tuple) and len(self.layout) == 3 and all(type(n) is int for n in self.layout)
        self.require(sound and min(self.layout) > 0 and math.prod(self.layout) == self.size, f"layout {self.layout!r}")
        self.require(self.model in _MODELS, f"model {self.model!r}")
        self.expect("stream", "uint8", None)
        self.require(len(self.stream) >= _STEP.size, f"a stream of {len(self.stream)} bytes")
        mantissa, exponent = _STEP.unpack(self.stream[: _STEP.size].tobytes())
        self.require(mantissa >= 1 << 15 and -1100 <= exponent <= 1024, "a step out of range")
        most = len(self.stream) * _MODELS[self.model].WEIGHTS  # every block of as many or twice as many takes 4 bytes
        self.require(self.size <= most, f"{self.size} entries in a stream of {len(self.stream)} bytes")
        if self.outliers is not None:
            self.require(self.outliers.ndim == 2, "outliers that are no pairs")
            self.expect("outliers", "float64", (2, self.outliers.shape[1]))
            place = self.outliers[0]
            inside = bool(np.all((place >= 0) & (place < self.size) & (place == np.rint(place))))
            self.require(inside and bool(np.isfinite(self.outliers).all()), "outliers out of range")

    @property
    def step(self) -> float:
        """Distance of the reproduction points."""
        return _unpack_step(self.stream[: _STEP.size].tobytes())

    @property
    def blocks(self) -> int:
        """How many blocks decode independently."""
        return len(self.grid)

    def integers(self, block: int) -> NDArray[np.int32]:
        """The integers k (n,) of one block, read without the others.

        Raises
        ------
        ArgumentError
            If there is no such block.
        """
        if block not in range(self.blocks):
            raise refuse("block", found=block, allowed=f"0 to {self.blocks - 1}")
        path: NDArray[np.int32] = self._parsed.block(block, self.grid[block], self.layout, self.states)
        return path

    def decode(self) -> NDArray[Any]:
        return self.numbers(self.all_integers(), self.outliers)

    def all_integers(self) -> NDArray[np.int32]:
        """The integers k (P, R, C) of all blocks."""
        k = np.empty(self.layout, np.int32)

        def read(index: int) -> None:
            rows, columns = self.grid[index]
            part = k[:, rows, columns]
            part[...] = self.integers(index).reshape(part.shape)

        each(read, range(self.blocks))
        return k

    def numbers(self, k: NDArray[np.int32], outliers: NDArray[np.float64] | None) -> NDArray[Any]:
        """The array of the integers ``k`` (P, R, C), which may be overwritten, and of ``outliers``."""
        out = self._values(k).reshape(-1)
        if outliers is not None:
            out[outliers[0].astype(np.int64)] = outliers[1]
        return out.reshape(self.shape)

    def written(self, k: NDArray[np.int32]) -> NDArray[np.uint8]:
        """The stream of other integers ``k`` (P, R, C), paths through each block of :attr:`grid`."""
        return np.frombuffer(_pack_step(self.step) + _MODELS[self.model].write_path(k, self.states), np.uint8)

    def prices(self, k: NDArray[np.int32]) -> tuple[Classes, Rates]:
        """The class of each of the stored integers ``k`` (P, R, C), and the bits of all integers of each class."""
        priced: tuple[Classes, Rates] = _MODELS[self.model].prices(self._parsed, k, self.states, self.grid)
        return priced

    def cuts(self) -> Sequence[tuple[slice, slice]]:
        return self._cuts or super().cuts()

    def cut(self, rows: slice, columns: slice) -> NDArray[Any]:
        if not self._cuts:
            return super().cut(rows, columns)
        k = self.integers(self._numbers[rows.start, columns.start])
        out = self._values(k.reshape(rows.stop - rows.start, columns.stop - columns.start))
        if self.outliers is not None:
            i, j = np.divmod(self.outliers[0].astype(np.int64), self.matrix[1])
            here = (i >= rows.start) & (i < rows.stop) & (j >= columns.start) & (j < columns.stop)
            out[i[here] - rows.start, j[here] - columns.start] = self.outliers[1][here]
        return out

    @cached_property
    def _cuts(self) -> list[tuple[slice, slice]]:
        """The blocks, if they are ranges of rows and columns of the matrix (shape[0], the rest); else none."""
        planes, rows, columns = self.layout
        if planes == 1 and self.matrix == (rows, columns):
            return self.grid
        if self.matrix[0] != planes or any(r.stop - r.start > 1 and c != slice(0, columns) for r, c in self.grid):
            return []
        at = [slice(r.start * columns + c.start, (r.stop - 1) * columns + c.stop) for r, c in self.grid]
        return [(slice(0, planes), place) for place in at]

    @cached_property
    def _numbers(self) -> dict[tuple[int, int], int]:
        """The block that begins at a row and a column."""
        return {(rows.start, columns.start): index for index, (rows, columns) in enumerate(self._cuts)}

    def _values(self, k: NDArray[np.int32]) -> NDArray[Any]:
        """``step * k``; ``k`` may be overwritten."""
        mantissa, exponent = math.frexp(self.step)
        if abs(exponent) > 100:
            return np.asarray(scaled(np.multiply(k, mantissa, dtype=self.dtype), exponent))
        if self.dtype != "float32" or not k.flags.c_contiguous:
            return np.multiply(k, self.step, dtype=self.dtype)
        out = k.view(np.float32).reshape(-1)  # in the memory of the integers, which nobody needs any more
        for at in range(0, k.size, _PIECE):
            out[at : at + _PIECE] = np.multiply(k.reshape(-1)[at : at + _PIECE], self.step, dtype=np.float32)
        return out.reshape(k.shape)

    @property
    def on_gpu(self) -> bool:
        return self.model == "static"

    def placed(self, put: Callable[[NDArray[Any]], Any]) -> Any:
        stream = OnGpu.of(self._parsed, self.step, self.layout, self.grid, machine(self.states), put)
        return self.altered(stream=stream, outliers=outliers_on_gpu(self.outliers, self.dtype, put))

    def decode_on_gpu(self) -> Any:
        stream: Any = self.stream
        if not isinstance(stream, OnGpu):
            return super().decode_on_gpu()
        out = stream.numbers(self.dtype).reshape(-1)
        if self.outliers is not None:
            out[self.outliers[0]] = self.outliers[1]
        return out.reshape(self.shape)

    def nearest(self, x: NDArray[Any]) -> Path:
        return self.encode(x, step=self.step, states=self.states, layout=self.layout)

    def shadow(self, reselect: bool = False) -> Shadow:
        return Walked(self)

    def rescaled(self, exponent: int) -> Path:
        """The same path with everything times ``2**exponent``."""
        mantissa, old = _STEP.unpack(self.stream[: _STEP.size].tobytes())
        stream = self.stream.copy()
        stream[: _STEP.size] = np.frombuffer(_STEP.pack(mantissa, old + exponent), np.uint8)
        outliers = self.outliers
        if outliers is not None:
            outliers = np.stack([outliers[0], scaled(outliers[1], exponent)])
        return replace(self, stream=stream, outliers=outliers)

    def points(self) -> Points:
        return Points()

    def reshaped(self, shape: tuple[int, ...]) -> Path:
        return replace(self, shape=shape)

    def summary(self) -> str:
        how = f"{self.states} states" if self.states > 1 else "no trellis"
        return f"{super().summary()}, step {self.step:.3g}, {how}, {self.model} model"

    @cached_property
    def grid(self) -> list[Block]:
        """The blocks: ranges of rows and columns of all planes with a path of their own."""
        return grid(self.layout, self.model)

    @cached_property
    def _parsed(self) -> Any:
        return _MODELS[self.model].parse(self.stream[_STEP.size :], self.layout, self.states)


def grid(layout: Layout, model: str) -> list[Block]:
    """The blocks of an array of planes (P, R, C): ranges of rows and columns with a path of their own."""
    return blocks(layout, _MODELS[model].WEIGHTS)


def preferred(planes: NDArray[Any], step: float, states: int) -> Literal["static", "mixing"]:
    """The model for an array (P, R, C) of more weights than are worth writing with both, by a sample."""
    return _preferred(in_steps(strips(planes, _SAMPLE), step)[0], states)


def _preferred(core: NDArray[np.float32], states: int) -> Literal["static", "mixing"]:
    sample = strips(core, _SAMPLE)
    return "mixing" if len(mixed.encode(sample, states)) < _PAYS * len(static.encode(sample, states)) else "static"


def rounded(step: float) -> float:
    """``step`` as it is stored, to 16 bits."""
    return _unpack_step(_pack_step(step))


def _pack_step(step: float) -> bytes:
    """``step`` rounded to 16 significant bits: cut, 2**log2 of a stored step would be the next lower one or not."""
    mantissa, exponent = math.frexp(step)
    return _STEP.pack(min(round(mantissa * 65536), 65535), exponent)


def _unpack_step(stored: bytes) -> float:
    mantissa, exponent = _STEP.unpack(stored)
    return math.ldexp(mantissa / 65536, exponent)

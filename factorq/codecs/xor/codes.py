"""The three XOR codes: which network, and how the stream that goes into it is found and laid out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError, refuse
from ...kernels import banded, sequential, slices
from . import pace
from .parts import Reader, Writer

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """How to read streams of ``nbytes`` bytes a plane.

    ``outputs(streams, start, stop)`` are bitmaps (planes, bytes) of positions from ``first <= start`` to at least
    ``stop``, and ``first``.
    """

    nbytes: int
    outputs: Callable[[Bytes, int, int], tuple[Bytes, int]]


class Code(ABC):
    """An XOR network with a way to find its inputs."""

    number: ClassVar[int]

    @abstractmethod
    def write(
        self, care: NDArray[np.bool_], values: NDArray[np.uint64], planes: int, seed: int, writer: Writer
    ) -> tuple[Bytes, Layout]:
        """The streams (planes, bytes) for the bits ``values`` at ``care`` (n,), and how to read them.

        What :meth:`read` needs for that goes to the writer.
        """

    def crowds(self, care: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
        """How many of the positions that share inputs matter, here and there, and how many positions those are."""
        return pace.counts_of(care)[: care.size // 512 * 8].reshape(-1, 8).sum(axis=1), 512

    @staticmethod
    @abstractmethod
    def read(reader: Reader, size: int, seed: int) -> Layout:
        """How to read the streams that :meth:`write` made for ``size`` positions."""

    @abstractmethod
    def __str__(self) -> str: ...


@dataclass(frozen=True)
class Slices(Code):
    """Each slice of ``n_out`` positions from ``n_in`` bits by one network (arXiv 1905.10138).

    A slice has a random number of positions that matter; those with more than ``n_in`` cannot all be met, and patches
    mend them. Their share falls like ``1 / sqrt(n_in)``: at the rate of the entropy and sparsity S it is about
    ``sqrt(S / (8 pi n_in))``. Inputs up to 12 are found by trying all of them, longer ones by elimination.

    Parameters
    ----------
    n_in : int
        Bits of a slice's input, 1 to 512.
    n_out : int or None
        Positions of a slice; None for ``0.97 n_in`` positions that matter in the mean, where inputs and patches are
        fewest before patches alone are cheaper than inputs, or for ``1.4 n_in`` for n_in up to 12.

    Examples
    --------
    >>> import factorq as fq
    >>> rng = np.random.default_rng(0)
    >>> care, bits = rng.random(100_000) < 0.1, rng.integers(0, 2, 100_000, dtype=np.uint8)
    >>> coded = fq.xor.encode(bits, care, bits=1, code=fq.xor.Slices(20, 180))
    >>> bool((coded.decode()[care] == bits[care]).all()), coded.efficiency > 0.96
    (True, True)
    """

    number: ClassVar[int] = 1
    n_in: int = 20
    n_out: int | None = None

    def __post_init__(self) -> None:
        _check("n_in", self.n_in, 1, slices.MOST_INPUTS)
        if self.n_out is not None:
            _check("n_out", self.n_out, 1, slices.MOST_OUTPUTS)

    def write(
        self, care: NDArray[np.bool_], values: NDArray[np.uint64], planes: int, seed: int, writer: Writer
    ) -> tuple[Bytes, Layout]:
        n_out = self._outputs(care)
        writer.numbers(self.n_in, n_out)
        streams = slices.solve(care, values, planes, self.n_in, n_out, seed)
        return streams, _of_slices(care.size, self.n_in, n_out, seed)

    def _outputs(self, care: NDArray[np.bool_]) -> int:
        wanted = (1.4 if self.n_in <= 12 else 0.97) * self.n_in
        return self.n_out or _outputs(wanted, care, slices.MOST_OUTPUTS)

    def crowds(self, care: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
        n_out = self._outputs(care)
        width = min(512, -(-care.size // (8 * n_out)) * 8)  # of a tile
        tiles = care[: care.size // (n_out * width) * n_out * width].reshape(-1, n_out, width)
        return tiles[:: max(len(tiles) // 16, 1)].sum(axis=1).reshape(-1), n_out  # about 16 tiles tell

    @staticmethod
    def read(reader: Reader, size: int, seed: int) -> Layout:
        n_in, n_out = reader.number(slices.MOST_INPUTS), reader.number(slices.MOST_OUTPUTS)
        if not n_in or not n_out:
            raise ArtifactError("xor: a slice without inputs or outputs")
        return _of_slices(size, n_in, n_out, seed)

    def published_bits(self, patches: NDArray[np.int64], size: int, block: int | None = None) -> int:
        """Bits of a plane in the format of the paper: inputs, a number of patches per slice, patch positions.

        Parameters
        ----------
        patches : NDArray of int64, (slices,)
            Patches of each slice.
        size : int
            Positions.
        block : int or None
            Slices that share the width of their numbers, which then takes 5 bits per block; None for one width.

        Returns
        -------
        int
            ``l n_in + l ceil(lg(p + 1)) + ceil(lg n_out) sum p`` for l slices, p the most patches of a slice.

        Raises
        ------
        ArgumentError
            If there is no size or ``n_out``, or the numbers do not fit them.
        """
        if self.n_out is None or size < 1:
            raise refuse("size", found=f"{size}, n_out {self.n_out}", allowed="at least 1, with a given n_out")
        n_out = self.n_out
        if block is not None:
            _check("block", block, 1, 1 << 48)
        many = -(-size // n_out)
        if patches.size != many:
            raise refuse("patches", found=f"{patches.size} numbers", allowed=f"one for each of {many} slices")
        groups = [patches] if block is None else [patches[i : i + block] for i in range(0, many, block)]
        widths = sum(group.size * int(group.max()).bit_length() + (0 if block is None else 5) for group in groups)
        return many * self.n_in + widths + (n_out - 1).bit_length() * int(patches.sum())

    def __str__(self) -> str:
        return f"slices of {self.n_out or 'some'} bits from {self.n_in}"


@dataclass(frozen=True)
class Sequential(Code):
    """A step of ``n_out`` positions from the last ``registers + 1`` inputs of ``n_in`` bits (arXiv 2105.01869).

    A convolutional code whose encoder is the Viterbi algorithm: optimal for its network, and slow, since a step has
    ``2**(n_in * (registers + 1))`` pairs of states, of which a search by the Hamming distance visits about a tenth.

    Parameters
    ----------
    n_in : int
        Bits of an input, 1 to 8.
    registers : int
        Former inputs that a step looks at: 0, 1 or 2.
    n_out : int or None
        Positions of a step; None for ``n_in`` positions that matter in the mean, the rate of the entropy.

    Examples
    --------
    >>> import factorq as fq
    >>> rng = np.random.default_rng(0)
    >>> care, bits = rng.random(4_000) < 0.2, rng.integers(0, 2, 4_000, dtype=np.uint8)
    >>> coded = fq.xor.encode(bits, care, bits=1, code=fq.xor.Sequential(8, 1))
    >>> bool((coded.decode()[care] == bits[care]).all()), coded.efficiency > 0.97
    (True, True)
    """

    number: ClassVar[int] = 2
    n_in: int = 8
    registers: int = 2
    n_out: int | None = None

    def __post_init__(self) -> None:
        _check("n_in", self.n_in, 1, sequential.MOST_INPUTS)
        _check("registers", self.registers, 0, sequential.MOST_REGISTERS)
        if self.n_out is not None:
            _check("n_out", self.n_out, 1, sequential.MOST_OUTPUTS)

    def write(
        self, care: NDArray[np.bool_], values: NDArray[np.uint64], planes: int, seed: int, writer: Writer
    ) -> tuple[Bytes, Layout]:
        n_out = self.n_out or _outputs(self.n_in, care, sequential.MOST_OUTPUTS)
        writer.numbers(self.n_in, n_out, self.registers)
        streams = sequential.solve(care, values, planes, self.n_in, n_out, self.registers, seed)
        return streams, _of_steps(care.size, self.n_in, n_out, self.registers, seed)

    @staticmethod
    def read(reader: Reader, size: int, seed: int) -> Layout:
        most = sequential.MOST_INPUTS, sequential.MOST_OUTPUTS, sequential.MOST_REGISTERS
        n_in, n_out, registers = map(reader.number, most)
        if not n_in or not n_out:
            raise ArtifactError("xor: a step without inputs or outputs")
        return _of_steps(size, n_in, n_out, registers, seed)

    def __str__(self) -> str:
        return f"{self.n_in} bits a step, {self.registers} registers"


@dataclass(frozen=True)
class Banded(Code):
    """Each position from a window of the stream that moves along: one large system instead of many small ones.

    Solved by elimination within the window (ribbon retrieval, arXiv 2103.02515 and 2109.01892): faster than
    :class:`Sequential` with two registers by two orders of magnitude, and with fewer patches. The network depends on
    the share of positions that matter in the whole array; where parts of it differ much, it is less even.

    Parameters
    ----------
    window : int
        Bits that a position depends on, 8 to 128. What is lost falls like 1 / window, time grows like it.
    slack : float or None
        Stream bits beyond one for each position that matters, as a share of those, 0 to 1; None for the smallest total
        of stream and patches, or where the windows are paced for none.
    paced : bool
        The windows move at a rate of their own in each block of some tens of thousands of positions, stored as a number
        per block; else at one rate throughout, and every address is known from the position alone. The whole array is
        then one system, which takes 24 bytes of memory on the way for each position that matters.

    Examples
    --------
    >>> import factorq as fq
    >>> rng = np.random.default_rng(0)
    >>> care, bits = rng.random(1 << 20) < 0.1, rng.integers(0, 2, 1 << 20, dtype=np.uint8)
    >>> coded = fq.xor.encode(bits, care, bits=1, code=fq.xor.Banded(128))
    >>> bool((coded.decode()[care] == bits[care]).all())
    True
    >>> round(float(coded.nbytes * 8 / care.sum()), 3)
    1.006
    """

    number: ClassVar[int] = 3
    window: int = 128
    slack: float | None = None
    paced: bool = True

    def __post_init__(self) -> None:
        _check("window", self.window, 8, 128)
        number = isinstance(self.slack, int | float) and not isinstance(self.slack, bool)
        if self.slack is not None and not (number and 0 <= self.slack <= 1):
            raise refuse("slack", found=repr(self.slack), allowed="None, or a share from 0 to 1")
        if not isinstance(self.paced, bool):
            raise refuse("paced", found=repr(self.paced), allowed="True or False")

    def write(
        self, care: NDArray[np.bool_], values: NDArray[np.uint64], planes: int, seed: int, writer: Writer
    ) -> tuple[Bytes, Layout]:
        counts = pace.counts_of(care)
        density = int(counts.sum()) / max(care.size, 1)
        step = 256 if 256 * density <= 128 else 128
        while step * density < 2 and step < min(1 << 14, care.size):
            step *= 2
        network = banded.Network(self.window, step, min(round(step * density), 128), seed)
        writer.numbers(network.window, step.bit_length() - 1, network.advance, int(self.paced))
        if self.paced:
            found = pace.followed(counts, care.size, network, self.slack or 0.0, writer)
        else:
            found = pace.steady(counts, care.size, network, self.slack, writer)
        streams, before = [np.zeros((planes, 0), np.uint8)], 0
        for part, starts, slots in _segments(found, care.size, step):
            count = int(counts[part.start // pace.RUN : -(-part.stop // pace.RUN)].sum())
            chosen = values[before : before + count]
            streams.append(banded.solve(network, care[part], chosen, planes, starts, slots))
            before += count
        return np.concatenate(streams, axis=1), _of_windows(care.size, network, found)

    @staticmethod
    def read(reader: Reader, size: int, seed: int) -> Layout:
        window, power, advance = reader.number(128), reader.number(14), reader.number(128)
        if window < 1 or power < 6:
            raise ArtifactError("xor: a network without a window")
        network = banded.Network(window, 1 << power, advance, seed)
        found = (pace.read_followed if reader.number(1) else pace.read_steady)(reader, size, network)
        return _of_windows(size, network, found)

    def __str__(self) -> str:
        return f"windows of {self.window} bits, {'paced' if self.paced else 'at one rate'}"


CODES: dict[int, type[Code]] = {code.number: code for code in (Slices, Sequential, Banded)}


def _of_slices(size: int, n_in: int, n_out: int, seed: int) -> Layout:
    tile = 512 * n_out

    def outputs(streams: Bytes, start: int, stop: int) -> tuple[Bytes, int]:
        tiles = start // tile, -(-stop // tile)
        return slices.outputs(streams, size, n_in, n_out, seed, tiles), tiles[0] * tile

    return Layout(slices.stream_size(size, n_in, n_out), outputs)


def _of_steps(size: int, n_in: int, n_out: int, registers: int, seed: int) -> Layout:
    def outputs(streams: Bytes, start: int, stop: int) -> tuple[Bytes, int]:
        steps = start // n_out, -(-stop // n_out)
        return sequential.outputs(streams, size, n_in, n_out, registers, seed, steps), steps[0] * n_out

    return Layout(sequential.stream_size(size, n_in, n_out), outputs)


def _of_windows(size: int, network: banded.Network, found: pace.Pace) -> Layout:
    step = network.step
    segments = _segments(found, size, step)
    begins = np.cumsum([0, *(-(-slots // 8) for slots in found.slots)]).tolist()

    def outputs(streams: Bytes, start: int, stop: int) -> tuple[Bytes, int]:
        first, whole = start // step * step, found.steps * step
        pieces = []
        for k in range(first // whole, -(-stop // whole)):
            part, starts, slots = segments[k]
            own = np.ascontiguousarray(streams[:, begins[k] : begins[k + 1]])
            steps = max(first - part.start, 0) // step, min(-(-(stop - part.start) // step), starts.size)
            pieces.append(banded.outputs(network, own, part.stop - part.start, starts, slots, steps))
        return np.concatenate(pieces or [np.zeros((len(streams), 0), np.uint8)], axis=1), first

    return Layout(found.nbytes, outputs)


def _segments(found: pace.Pace, size: int, step: int) -> list[tuple[slice, NDArray[np.int64], int]]:
    """Positions, where their windows start, and bits of the stream of each segment."""
    whole = found.steps * step
    return [
        (slice(k * whole, min((k + 1) * whole, size)), found.starts[k * found.steps : (k + 1) * found.steps], slots)
        for k, slots in enumerate(found.slots)
    ]


def _outputs(wanted: float, care: NDArray[np.bool_], most: int) -> int:
    """Positions among which ``wanted`` matter in the mean, at most ``most``."""
    density = np.count_nonzero(care) / max(care.size, 1)
    return int(min(max(wanted / max(density, 1e-7), 1), max(care.size, 1), most))


def _check(name: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise refuse(name, found=repr(value), allowed=f"an integer from {low} to {high}")

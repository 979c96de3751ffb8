"""What the stream of an XOR code holds, and how it is written and read.

A stream is one string of bytes (:mod:`.parts`): a checksum; numbers that say what it holds; the pace of a banded code;
of each XOR plane the patches, as gaps between their ranks among the positions that matter; entropy-coded planes; and
the inputs of the networks.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...arrays import FLOATS
from ...errors import ArtifactError
from ...kernels import bits as bits_kernel
from ...kernels import deposit, gaps, rans
from .codes import CODES, Code, Layout
from .order import order
from .parts import Reader, Writer

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]

_INTEGERS = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
DTYPES = (*map(np.dtype, _INTEGERS), *FLOATS.values())
PLAIN, INVERTED, ENTROPY, CONTINUED = range(4)  # what became of a plane
_WORTH = 0.98  # of one bit per number: entropy coding takes planes that it brings under this


class Contents:
    """What a stream holds, about the flattened mask ``care``."""

    def __init__(
        self, care: NDArray[np.bool_], dtype: np.dtype[Any], signed: bool, permuted: NDArray[np.int64] | None
    ) -> None:
        self.care, self.dtype, self.signed, self.order = care, dtype, signed, permuted
        self.size, self.count = care.size, int(np.count_nonzero(care))
        self.placed = care if permuted is None else care[permuted]  # the mask in the order of coding
        self.tags: list[int] = []
        self.patches: list[NDArray[np.int64]] = []  # of each XOR plane, ranks among the positions that matter
        self.groups: list[tuple[int, NDArray[Any]]] = []  # lowest plane and numbers, in C order
        self.streams: Bytes = np.zeros((0, 0), np.uint8)
        self.layout = Layout(0, lambda streams, start, stop: (streams, start))

    # --- writing ---

    def written(self, words: Words, planes: int, code: Code, seed: int) -> Bytes:
        """The stream of the numbers ``words`` (count,) that matter, of ``planes`` bits."""
        self.tags = [PLAIN] * planes
        floating = self.dtype in FLOATS.values()
        digits = ml_dtypes.finfo(self.dtype).nmant if floating else planes  # type: ignore[no-untyped-call]
        exponent = range(digits, planes - 1)
        sections = [
            self._try(words, exponent if j in exponent else range(j, j + 1))
            for j in range(planes)
            if j not in exponent or j == exponent.start
        ]
        plain = [j for j in range(planes) if self.tags[j] == PLAIN]
        chosen, inverse = self._in_order(words), np.uint64(0)
        for j in plain:
            ones = int(np.count_nonzero(chosen & np.uint64(1 << j)))
            if 2 * ones > self.count:
                self.tags[j], inverse = INVERTED, inverse | np.uint64(1 << j)
        chosen = _gathered(chosen ^ inverse, plain)
        writer = Writer()
        flags = int(self.signed) | 2 * (self.order is not None)
        writer.numbers(DTYPES.index(self.dtype), flags, planes, self.size, self.count, seed, code.number, *self.tags)
        if plain:
            streams, layout = code.write(self.placed, chosen, len(plain), seed, writer)
            for ranks in _wrong(layout, streams, self.placed, chosen):  # patches are what a reader would get wrong
                _write_patches(writer, ranks, self.count)
        for section in sections:
            if section is not None:
                writer.section(section)
        if plain:
            writer.raw(streams)
        return writer.stream()

    def _try(self, words: Words, planes: range) -> Bytes | None:
        """The entropy-coded planes if that is smaller, then tagged so."""
        wide = np.uint8 if len(planes) <= 8 else np.uint16
        codes = ((words >> np.uint64(planes.start)) & np.uint64((1 << len(planes)) - 1)).astype(wide)
        if len(planes) == 1 and abs(2 * int(np.count_nonzero(codes)) - self.count) < 0.1 * self.count:
            return None  # an entropy of at least .992
        stream = rans.pack(codes, len(planes))
        if 8 * stream.nbytes >= _WORTH * len(planes) * self.count:
            return None
        for j in planes:
            self.tags[j] = ENTROPY if j == planes.start else CONTINUED
        return stream

    @cached_property
    def _ranks(self) -> NDArray[np.int64]:
        """Of the positions that matter, in the order of coding, their ranks in C order."""
        ranks = np.cumsum(self.care) - 1
        return np.asarray(ranks[self.order[self.placed]]) if self.order is not None else ranks[self.care]

    def _in_order(self, words: Words) -> Words:
        return words if self.order is None else words[self._ranks]

    # --- reading ---

    @classmethod
    def read(cls, reader: Reader, mask: NDArray[np.bool_]) -> Contents:
        care = np.ascontiguousarray(mask).reshape(-1)
        place, flags, planes = (reader.number(most) for most in (len(DTYPES) - 1, 3, 64))
        size, count, seed, number = (reader.number(most) for most in (1 << 48, 1 << 48, (1 << 64) - 1, 1 << 16))
        if size != care.size or count != int(np.count_nonzero(care)):
            found = f"{count} numbers of {size}, the mask keeps {np.count_nonzero(care)} of {care.size}"
            raise ArtifactError(f"xor: the stream is of {found}")
        most, least, signed = _limits(DTYPES[place])
        if number not in CODES or not least <= planes <= most or flags & 1 > signed:
            raise ArtifactError(f"xor: no code {number} of {planes} planes of {DTYPES[place]}")
        self = cls(care, DTYPES[place], bool(flags & 1), order(size, seed) if flags & 2 else None)
        self.tags = [reader.number(3) for _ in range(planes)]
        plain = sum(tag in (PLAIN, INVERTED) for tag in self.tags)
        if plain:
            self.layout = CODES[number].read(reader, size, seed)
            self.patches = [_read_patches(reader, count) for _ in range(plain)]
        for group in _entropy_groups(self.tags):
            self.groups.append((group.start, rans.unpack(reader.section(), len(group), count)))
        if plain:
            self.streams = reader.raw(plain * self.layout.nbytes).reshape(plain, self.layout.nbytes)
        reader.end()
        return self

    @property
    def unsigned(self) -> np.dtype[Any]:
        """That of a number's bits."""
        return np.dtype(f"uint{8 * self.dtype.itemsize}")

    def kept(self) -> NDArray[Any]:
        """The numbers that matter, in C order, as unsigned bits."""
        narrow = self.unsigned.type
        chosen = np.zeros(self.count, narrow)
        for j, plane, ranks in zip(self._plain, self._kept_bits(), self.patches, strict=True):
            ones = np.unpackbits(plane, count=self.count, bitorder="little")
            ones[ranks] ^= 1
            chosen |= ones.astype(narrow) << narrow(j)
        return self._finished(chosen ^ narrow(self._inverse), slice(None))

    def everywhere(self) -> NDArray[Any]:
        """All numbers, 0 where they do not matter, as unsigned bits."""
        if self.tags == [PLAIN] and self.order is None and self.unsigned.itemsize == 1 and not self.signed:
            bits, _ = self.layout.outputs(self.streams, 0, self.size)  # one plane of bytes needs no ranks
            found = np.unpackbits(bits[0] & _packed(self.care), count=self.size, bitorder="little")
            if self.patches[0].size:
                found[np.flatnonzero(self.care)[self.patches[0]]] ^= 1
            return found
        found = np.zeros(self.size, self.unsigned)
        found[np.flatnonzero(self.care)] = self.kept()  # half the time of a mask as index
        return found

    def _kept_bits(self) -> Bytes:
        """What the networks say of the positions that matter, in the order of coding: (XOR planes, bytes)."""
        if not self.patches:
            return np.zeros((0, 0), np.uint8)
        bits, _ = self.layout.outputs(self.streams, 0, self.size)
        return deposit.extract(np.ascontiguousarray(bits), _packed(self.placed), self.size)

    def part(self, start: int, stop: int) -> NDArray[Any]:
        """Numbers ``start`` to ``stop`` as unsigned bits."""
        care = self.care[start:stop]
        before = int(np.count_nonzero(self.care[:start]))
        ranks = slice(before, before + int(np.count_nonzero(care)))
        narrow = self.unsigned.type
        chosen = np.zeros(ranks.stop - ranks.start, narrow)
        bits, first = self.layout.outputs(self.streams, start, stop) if self.patches else (np.zeros((0, 0)), 0)
        for j, plane, wrong in zip(self._plain, bits, self.patches, strict=True):
            ones = np.unpackbits(plane, bitorder="little")[start - first : stop - first][care]
            low, high = np.searchsorted(wrong, (ranks.start, ranks.stop))
            ones[wrong[low:high] - ranks.start] ^= 1
            chosen |= ones.astype(narrow) << narrow(j)
        found = np.zeros(stop - start, self.unsigned)
        found[care] = self._finished(chosen ^ narrow(self._inverse), ranks)
        return found

    @property
    def _plain(self) -> list[int]:
        return [j for j, tag in enumerate(self.tags) if tag in (PLAIN, INVERTED)]

    @property
    def _inverse(self) -> int:
        return sum(1 << j for j, tag in enumerate(self.tags) if tag == INVERTED)

    def _finished(self, chosen: NDArray[Any], ranks: slice) -> NDArray[Any]:
        """Numbers in C order from their XOR planes in the order of coding: entropy-coded planes, signs."""
        words = chosen
        if self.order is not None:
            words = np.empty_like(chosen)
            words[self._ranks] = chosen
        narrow = self.unsigned.type
        for lowest, codes in self.groups:
            words = words | codes[ranks].astype(narrow) << narrow(lowest)
        if self.signed:
            top = narrow(1 << (len(self.tags) - 1))
            words = (words ^ top) - top  # wraps
        return words


def _limits(dtype: np.dtype[Any]) -> tuple[int, int, bool]:
    """The most and the least planes of numbers of ``dtype``, and whether they can have a sign plane of their own."""
    full = 1 if dtype == np.bool_ else 8 * dtype.itemsize
    return full, 1 if dtype.kind in "iu" else full, dtype.kind == "i"


def _packed(mask: NDArray[np.bool_]) -> Bytes:
    return np.packbits(mask, bitorder="little")


def _gathered(words: Words, planes: list[int]) -> Words:
    """The bits ``planes`` of each word, side by side."""
    if planes == list(range(len(planes))):
        return words & np.uint64((1 << len(planes)) - 1)
    found = np.zeros_like(words)
    for k, j in enumerate(planes):
        found |= ((words >> np.uint64(j)) & np.uint64(1)) << np.uint64(k)
    return found


def _wrong(layout: Layout, streams: Bytes, care: NDArray[np.bool_], values: Words) -> Iterable[NDArray[np.int64]]:
    """Of each plane, the ranks of the positions that matter whose output is not the bit of ``values``."""
    bits, _ = layout.outputs(streams, 0, care.size)
    for k, found in enumerate(deposit.extract(np.ascontiguousarray(bits), _packed(care), care.size)):
        wanted = bits_kernel.pack((values >> np.uint64(k)).astype(np.uint8), 1)
        yield np.flatnonzero(np.unpackbits(found ^ wanted, count=values.size, bitorder="little"))


def _write_patches(writer: Writer, ranks: NDArray[np.int64], count: int) -> None:
    writer.numbers(ranks.size)
    if ranks.size:
        marks = np.zeros(count, np.bool_)
        marks[ranks] = True
        stream, parameter = gaps.encode(marks)
        writer.numbers(parameter)
        writer.section(stream)


def _read_patches(reader: Reader, count: int) -> NDArray[np.int64]:
    many = reader.number(count)
    if not many:
        return np.zeros(0, np.int64)
    parameter = reader.number(1 << 50)
    return np.flatnonzero(gaps.decode(reader.section(), parameter, count, many))


def _entropy_groups(tags: list[int]) -> list[range]:
    """The runs of planes that are entropy-coded together."""
    groups: list[range] = []
    for j, tag in enumerate(tags):
        if tag == ENTROPY:
            groups.append(range(j, j + 1))
        elif tag == CONTINUED:
            if not groups or groups[-1].stop != j or len(groups[-1]) == 16:
                raise ArtifactError("xor: a plane that continues nothing")
            groups[-1] = range(groups[-1].start, j + 1)
    return groups

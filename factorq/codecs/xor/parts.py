"""Numbers and byte strings one after another: the outer layer of a stream."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError

_CHECK = 4  # bytes of the checksum


class Writer:
    """Numbers of seven bits a byte, lowest first, the highest bit telling that more follow; then all sections."""

    def __init__(self) -> None:
        self._numbers = bytearray()
        self._sections: list[NDArray[np.uint8]] = []

    def numbers(self, *values: int) -> None:
        """Append integers of at least 0."""
        for value in values:
            left = int(value)
            while left > 127:
                self._numbers.append(left & 127 | 128)
                left >>= 7
            self._numbers.append(left)

    def section(self, stream: NDArray[np.uint8]) -> None:
        """Append bytes, whose number is written among the numbers."""
        self.numbers(stream.size)
        self.raw(stream)

    def raw(self, stream: NDArray[np.uint8]) -> None:
        """Append bytes whose number the reader knows."""
        self._sections.append(np.ascontiguousarray(stream).reshape(-1))

    def stream(self) -> NDArray[np.uint8]:
        """All of it, a checksum (CRC-32) in front."""
        head = np.frombuffer(bytes(self._numbers), np.uint8)
        size = np.array([head.size], "<u2").view(np.uint8)
        body = np.concatenate([size, head, *self._sections])
        return np.concatenate([_checksum(body), body])


class Reader:
    """The inverse of :class:`Writer`, safe on any bytes."""

    def __init__(self, stream: NDArray[np.uint8]) -> None:
        if stream.size < _CHECK + 2 or not np.array_equal(_checksum(stream[_CHECK:]), stream[:_CHECK]):
            raise ArtifactError(f"xor: {stream.size} bytes whose checksum is another one: truncated or corrupted")
        size = int(stream[_CHECK]) | int(stream[_CHECK + 1]) << 8
        begin = _CHECK + 2 + size
        self._numbers = stream[_CHECK + 2 : begin].tolist()
        self._rest = stream[begin:]
        self._at = 0
        if len(self._numbers) != size:
            raise ArtifactError("xor: the header is longer than the stream")

    def number(self, most: int) -> int:
        """The next integer, at most ``most``."""
        value, shift = 0, 0
        while True:
            if self._at >= len(self._numbers) or shift > 63:
                raise ArtifactError("xor: the header ends in the middle of a number")
            byte = int(self._numbers[self._at])
            self._at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if value > most:
            raise ArtifactError(f"xor: found {value} where at most {most} is allowed")
        return value

    def section(self) -> NDArray[np.uint8]:
        """The bytes of the next section."""
        return self.raw(self.number(1 << 48))

    def raw(self, size: int) -> NDArray[np.uint8]:
        """The next ``size`` bytes."""
        if size > self._rest.size:
            raise ArtifactError(f"xor: {self._rest.size} bytes left, expected {size}")
        found, self._rest = self._rest[:size], self._rest[size:]
        return found

    def end(self) -> None:
        """Raise unless everything was read."""
        if self._rest.size or self._at != len(self._numbers):
            raise ArtifactError("xor: bytes are left over")


def _checksum(body: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array([zlib.crc32(body.tobytes())], "<u4").view(np.uint8)

"""The binary arithmetic coder of the reference: an interval [low, high] of 32-bit numbers, cut in proportion."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_FULL = 0xFFFFFFFF


class _Interval:
    """Bits of probability p / 2**16 narrow the interval; first bytes that are settled are shifted out."""

    def __init__(self) -> None:
        self.low, self.high = 0, _FULL

    def middle(self, p: int) -> int:
        return self.low + (((self.high - self.low) * p) >> 16)

    def narrow(self, middle: int, bit: int) -> list[int]:
        """The bytes that are settled after the bit."""
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        settled = []
        while (self.low ^ self.high) >> 24 == 0:
            settled.append(self.low >> 24)
            self.low = (self.low << 8) & _FULL
            self.high = ((self.high << 8) & _FULL) | 255
        return settled


class Writer(_Interval):
    """Bits to bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.settled = bytearray()

    def bit(self, p: int, bit: int) -> int:
        self.settled += bytes(self.narrow(self.middle(p), bit))
        return bit

    def stream(self) -> NDArray[np.uint8]:
        """The shortest bytes whose continuation by zeros lies in the interval; zeros at the end are left out."""
        last = bytes([(self.low >> 24) + 1]) if self.low else b""
        return np.frombuffer(bytes(self.settled + last).rstrip(b"\0"), np.uint8).copy()


class Reader(_Interval):
    """Bytes to bits; zeros follow the stream."""

    def __init__(self, stream: NDArray[Any]) -> None:
        super().__init__()
        self.stream, self.at, self.window = stream.tolist(), 0, 0
        for _ in range(4):
            self._take()

    def _take(self) -> None:
        byte = self.stream[self.at] if self.at < len(self.stream) else 0
        self.window = ((self.window << 8) & _FULL) | byte
        self.at += 1

    def bit(self, p: int, bit: int) -> int:
        middle = self.middle(p)
        bit = int(self.window <= middle)
        for _ in self.narrow(middle, bit):
            self._take()
        return bit

    @property
    def used(self) -> int:
        """Bytes that the bits read so far may have been written in."""
        return self.at - 3


class Meter:
    """Bits to their price, in 2**-16 bits."""

    def __init__(self, cost: NDArray[np.int64]) -> None:
        self.cost, self.price = cost, 0

    def bit(self, p: int, bit: int) -> int:
        self.price += int(self.cost[((p if bit else 65536 - p) + 8) >> 4])
        return bit

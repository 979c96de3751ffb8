"""The specification of the density coder: a model that is asked for a probability and told the entry, one at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .tables import CAP, DAMPING, EDGE, FINE, HISTORY, LEVELS, ROWS, SCALE, STEP, Settings, tables

Bits = NDArray[np.uint8]
Words = NDArray[np.uint32]

_FULL = (1 << 64) - 1


class _Factor:
    """A term of the logit, learnt by damped Newton steps on the likelihood of the entries it has a part in."""

    def __init__(self, information: int, learns: bool = True) -> None:
        self.value, self.information, self.learns = 0, information, learns
        self.reciprocal = tables().reciprocal

    def learn(self, error: int, information: int) -> None:
        self.information = min(self.information + information, CAP)
        if self.learns:
            self.value += (error * int(self.reciprocal[self.information >> FINE]) + (1 << SCALE - 1)) >> SCALE


class _Model:
    """The probability of each entry in C order, from those before it."""

    def __init__(self, shape: tuple[int, int], group: int, chosen: Settings) -> None:
        self.shape, self.group, self.chosen = shape, group, chosen
        self.squash = tables().squash
        self.level = (chosen.level - 128) * LEVELS
        self.columns = [self.fresh(chosen.columns) for _ in range(shape[1])]
        self.near = [_Factor(DAMPING) for _ in range(HISTORY * max(group, 1))]
        self.above = [0] * shape[1]
        self.i = self.j = 0

    @staticmethod
    def fresh(k: int) -> _Factor:
        return _Factor(1 << 13 + k, learns=k > 0)

    def predict(self) -> int:
        """The probability of a one, in 65536ths."""
        if self.j == 0:
            self.row, self.history = self.fresh(self.chosen.rows), 0
        place = self.j % self.group if self.group else 0
        if place == 0 and (self.group or self.j == 0):
            self.kernel = self.fresh(self.chosen.kernels)
        context = self.near[place * HISTORY + 2 * self.history + self.above[self.j]]
        self.factors = [self.row, self.columns[self.j], context, *([self.kernel] if self.group else [])]
        x = self.level + sum(factor.value for factor in self.factors)
        self.p = int(self.squash[min(max(x + EDGE, 0), 2 * EDGE - 1) >> STEP])
        return self.p

    def learn(self, bit: int) -> None:
        for factor in self.factors:
            factor.learn((bit << 16) - self.p, (self.p * (65536 - self.p) >> 16) + 1)
        self.history, self.above[self.j] = (2 * self.history + bit) % 8, bit
        self.j += 1
        if self.j == self.shape[1]:
            self.level += self.row.value // min(self.i + 2, ROWS)
            self.i, self.j = self.i + 1, 0


def encode(mask: Bits, shape: tuple[int, int], group: int, chosen: Settings) -> tuple[Words, int, int]:
    """Code mask (m * n,) -> (words, low, width): the stream is any number in [low, low + width) after the words."""
    model, low, width, words = _Model(shape, group, chosen), 0, _FULL, 0
    count = 0
    for bit in mask.tolist():
        bound = (width >> 16) * model.predict()
        if bit:
            width = bound
        else:
            low, width = low + bound, width - bound
        if width < 1 << 32:
            words, low, width = (words << 32) + (low >> 32), (low << 32) & _FULL, width << 32
            count += 1
        model.learn(bit)
        if low > _FULL:  # a carry
            words, low = words + 1, low & _FULL
    digits = [(words >> 32 * k) & 0xFFFFFFFF for k in reversed(range(count))]
    return np.array(digits, np.uint32), low, width


def decode(words: Words, shape: tuple[int, int], group: int, chosen: Settings) -> tuple[Bits, int]:
    """Read (mask (m * n,), number of words used); zeros follow the words."""
    digits = dict(enumerate(words.tolist()))
    model, code, width, at = _Model(shape, group, chosen), (digits.get(0, 0) << 32) + digits.get(1, 0), _FULL, 2
    mask = np.empty(shape[0] * shape[1], np.uint8)
    for k in range(mask.size):
        bound = (width >> 16) * model.predict()
        bit = int(code < bound)
        code, width = (code, bound) if bit else (code - bound, width - bound)
        if width < 1 << 32:
            code, width, at = ((code << 32) & _FULL) + digits.get(at, 0), width << 32, at + 1
        mask[k] = bit
        model.learn(bit)
    return mask, at


def bitmap(stream: Bits, shape: tuple[int, int], group: int, chosen: Settings) -> tuple[Bits, int]:
    """Read (the mask as bits (ceil(m * n / 8),), words used) from the bytes of words; zeros follow the bytes."""
    padded = stream.tobytes() + bytes(-stream.size % 4)
    mask, used = decode(np.frombuffer(padded, ">u4").astype(np.uint32), shape, group, chosen)
    return np.packbits(mask, bitorder="little"), used
